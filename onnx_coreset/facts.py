"""What is known of a model, a layer and a run, as plain data: each class is one object of the JSON report.

Every key is always there; what is not known, or belongs to a step that was not taken, is None and becomes ``null``. All
numbers are in the layer's own units, except those of `Relative`, which are divided by the layer's spread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from onnx_coreset.statements import Shift, Statement

Status = Literal["pruned", "kept", "skipped"]


@dataclass(frozen=True)
class FileFacts:
    """A model as a file.

    Attributes:
        path: Where it is; None for a model that was handed over in memory.
        bytes: Its size on disk, external data included.
        parameters: Numbers in its initializers and constants.
        macs: Multiplications of its linear operators for one run.
        sha256: Hex digest of its bytes.
    """

    path: str | None = None
    bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Domain:
    """A set of inputs of a layer, for which something is claimed.

    Attributes:
        kind: The shape of the set: "ball", "box" or "ellipsoid".
        centre: Its centre, one number or one an input.
        radius: Its radius; of an ellipsoid gamma u + beta behind a normalisation, that of u.
        low: Lower end, one number or one an input.
        high: Upper end, one number or one an input.
        proven: Whether every input that the model can feed to the layer lies in it; otherwise that is assumed.
        source: Where it comes from, in words.
    """

    kind: str | None = None
    centre: Any = None
    radius: float | None = None
    low: Any = None
    high: Any = None
    proven: bool | None = None
    source: str | None = None


@dataclass(frozen=True)
class Relative:
    """Errors divided by the layer's spread; the attributes are those of `ErrorFacts`."""

    rms: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class ErrorFacts:
    """What a layer's cut cost: the difference of the table samples x outputs that it hands to the next layer.

    Attributes:
        unit: What eps was compared in: "spread" or "absolute".
        spread: Root of the mean over outputs of the variance over samples.
        rms: Root mean square of the difference.
        p99: 99th percentile of its absolute value.
        max: Largest absolute value.
        relative: The three divided by `spread`.
        worst_output: Largest rms of one output, over `spread`.
        carried_rms: Rms of the same difference inside the model whose earlier layers are cut too.
        samples: How many samples were measured.
        outside: How many of them lie outside `domain`.
        attacked: Largest error found at any point of `domain`, over all outputs.
        attacked_mean: The same as a mean over outputs.
        certified: Proven bound on the error over all of `domain`, over all outputs.
        certified_mean: The same as a mean over outputs.
        domain: The inputs that `attacked` and `certified` are about.
        statement: What is said of a fresh input.
    """

    unit: str | None = None
    spread: float | None = None
    rms: float | None = None
    p99: float | None = None
    max: float | None = None
    relative: Relative = field(default_factory=Relative)
    worst_output: float | None = None
    carried_rms: float | None = None
    samples: int | None = None
    outside: int | None = None
    attacked: float | None = None
    attacked_mean: float | None = None
    certified: float | None = None
    certified_mean: float | None = None
    domain: Domain = field(default_factory=Domain)
    statement: Statement = field(default_factory=Statement)


@dataclass(frozen=True)
class PolishFacts:
    """That the weights of a chain were polished.

    Attributes:
        together: Chains that were polished together, this one included; the error of each is that of all of them, from
            the inputs of the first to the outputs of the last.
        relative_rms_before: Relative rms of that error before.
    """

    together: tuple[str, ...]
    relative_rms_before: float


@dataclass(frozen=True)
class CorrectionFacts:
    """That a chain was refitted to what reaches it inside the shrunk model; measured when that was done, before polish.

    Attributes:
        carried_before: Carried rms before, as `carried_rms`, on samples that were not fitted to.
        carried_after: The same after.
    """

    carried_before: float
    carried_after: float


@dataclass(frozen=True)
class ChainReport:
    """One chain, or one place that looks like a chain.

    Attributes:
        name: Its hidden tensor.
        activation: Name of what stands between the linear operators, "composite" where it has none.
        features: Kind of the neurons, such as "neurons".
        consumers: Names of the nodes that read the neurons.
        law: In words, what the layer's inputs were drawn from.
        inputs: Numbers that go into the layer.
        outputs: Numbers that come out of it.
        width_before: Neurons of the original.
        width_after: Neurons of the result; None where the place was skipped or nothing was decided.
        kept: Indices of the neurons that stay, increasing; None where all do.
        method: What chose them.
        eps: The bound that the layer had to meet, or None.
        status: "pruned", "kept" or "skipped"; None for a chain of `inspect`, which decides nothing.
        code: Why it is not narrower, as a stable word.
        reason: The same for a person.
        error: What the cut cost.
        polish: That its weights were polished, or None where they were not.
        correction: That it was refitted to what reaches it inside the shrunk model, or None where it was not.
        curve: (width, relative rms) as predicted under the law that was fitted to, for some widths, increasing; None
            where the method does not tell.
        lossless: How many neurons were, or could be, dropped without any error, whatever the inputs are: constant,
            duplicate or unread ones. None where that was not looked at.
    """

    name: str
    activation: str | None = None
    features: str | None = None
    consumers: tuple[str, ...] = ()
    law: str | None = None
    inputs: int | None = None
    outputs: int | None = None
    width_before: int | None = None
    width_after: int | None = None
    kept: tuple[int, ...] | None = None
    method: str | None = None
    eps: float | None = None
    status: Status | None = None
    code: str | None = None
    reason: str | None = None
    error: ErrorFacts = field(default_factory=ErrorFacts)
    polish: PolishFacts | None = None
    correction: CorrectionFacts | None = None
    curve: tuple[tuple[int, float], ...] | None = None
    lossless: int | None = None


@dataclass(frozen=True)
class OutputError:
    """The error at one output of the model.

    Attributes:
        name: The output.
        max: Largest absolute difference.
        rms: Root mean square of the difference.
        relative_rms: `rms` over the output's spread.
    """

    name: str
    max: float | None = None
    rms: float | None = None
    relative_rms: float | None = None


@dataclass(frozen=True)
class EndToEnd:
    """What is proven of an output of the model, through all of its layers.

    Attributes:
        output: The output; None where nothing is proven.
        attacked: Largest difference found at any point of `domain`, over the numbers of the output; None where the
            search did not look at the output itself.
        attacked_mean: The same as a mean over numbers.
        certified: Proven bound on the difference over all of `domain`, over the numbers of the output.
        certified_mean: The same as a mean over numbers.
        domain: The inputs of the first layer that they are about.
        reason: Why nothing is proven, or None.
    """

    output: str | None = None
    attacked: float | None = None
    attacked_mean: float | None = None
    certified: float | None = None
    certified_mean: float | None = None
    domain: Domain = field(default_factory=Domain)
    reason: str | None = None


@dataclass(frozen=True)
class Validation:
    """The result compared with the original, both run on the same fresh inputs.

    Attributes:
        provider: Execution provider that ran them.
        law: In words, what the model's inputs were drawn from.
        samples: How many were run.
        passed: The verdict; None where nothing could be judged.
        outputs: Errors at the model's outputs.
        random_outputs: Outputs that differ between two equal runs of the original: never judged.
        notes: Warnings, a line each.
        statement: What is said of the outputs for a fresh input.
        shifts: Errors at the outputs for inputs that are scaled, moved or noisy; None where that was not measured.
        end_to_end: What is proven of an output through all layers.
    """

    provider: str | None = None
    law: str | None = None
    samples: int | None = None
    passed: bool | None = None
    outputs: tuple[OutputError, ...] = ()
    random_outputs: tuple[str, ...] = field(default=(), metadata={"key": "random"})
    notes: tuple[str, ...] = ()
    statement: Statement = field(default_factory=Statement)
    shifts: tuple[Shift, ...] | None = None
    end_to_end: EndToEnd = field(default_factory=EndToEnd)
