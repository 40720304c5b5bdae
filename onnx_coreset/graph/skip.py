"""Why a place is not cut: a stable code and a sentence."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = (
    ("output", "the hidden tensor is an output of the model"),
    ("unused", "nothing reads the hidden tensor"),
    ("operator", "an operator that is not elementwise stands between the layers"),
    ("norm", "a normalisation over the neurons stands between the layers"),
    ("reshape", "a reshape, transposition or indexing of the hidden tensor stands between the layers"),
    ("merge", "the hidden tensor meets another tensor that is computed at run time"),
    ("varying-constant", "a constant between the layers differs along another axis than the neurons'"),
    ("dynamic-weight", "the next layer's weights are computed at run time"),
    ("overridable", "a weight is also a model input that a caller may replace"),
    ("quantized", "the layer is quantized: prune first, then quantize"),
    ("convolution", "the layer is a convolution"),
    ("subgraph", "a subgraph reads the hidden tensor"),
    ("function", "inside a model-local function: use --inline-functions"),
    ("dtype", "the weights are not floating point"),
    ("opset", "the model's operator set is older than version 7"),
    ("width", "the layer has a single neuron, or more than 16,777,216"),
    ("non-finite", "a weight is NaN or infinite"),
    ("requires", "the method needs what this layer does not have"),
    ("excluded", "left out by --include or --exclude"),
    ("no-gain", "cutting it would not leave fewer parameters in the file"),
    ("eps", "no narrower width meets eps"),
    ("budget", "the target of the whole model is met without cutting it"),
    ("requested", "the width asked for is the width it has"),
    ("validation", "every narrower width tried failed validation"),
    ("no-run", "its inputs could not be sampled"),
)
"""Every code a report can hold, with what it means."""


@dataclass(frozen=True)
class Skip:
    """A place that looks like a hidden layer and is not cut.

    Attributes:
        where: Name of the tensor that would have been narrowed.
        reason: One sentence for a person.
        code: One of the codes of `REASONS`.
        width: Number of neurons, where known.
    """

    where: str
    reason: str
    code: str
    width: int | None = None


@dataclass(frozen=True)
class Stop:
    """The walk ends here: the reason, before it is known which place it belongs to.

    Attributes:
        code: One of the codes of `REASONS`.
        reason: One sentence for a person.
    """

    code: str
    reason: str
