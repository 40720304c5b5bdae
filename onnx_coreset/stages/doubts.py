"""Doubts about the laws that layers were fitted under: notes for the report, no verdicts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.layer import Features, Gated, Neurons, shrink
from onnx_coreset.core.measure import errors
from onnx_coreset.core.normed import Normed
from onnx_coreset.options import Options
from onnx_coreset.stages.front import law_in_front
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import stream

_LAW = 3
_ROWS = 1024
_APART = 4.0
_SURE, _SHARE = 2.5, 0.3


def doubts(chains: Iterable[Narrowed], opened: Opened, options: Options) -> tuple[str, ...]:
    """Return what speaks against the laws that narrower layers were fitted under, a line each.

    Two laws that disagree: the coreset of a layer behind a normalisation is measured on 1,024 inputs of the law which
    that one gives, and on as many that it was not fitted to. Where one error is more than four times the other, the
    note says how often. Laws under which nothing happens: where more than three tenths of a layer's neurons have a
    pre-activation whose mean is more than 2.5 deviations from 0, they look linear, and a refit merges what differs
    elsewhere. That is not said of a user's own inputs, which are what they are.

    Args:
        chains: What became of the layers.
        opened: The model.
        options: What was asked.
    """
    narrower = [chain for chain in chains if chain.narrower]
    notes = [note for chain in narrower if (note := _disagreement(chain, opened, options)) is not None]
    if options.inputs.endswith(".npz"):
        return tuple(notes)
    still = sum(_decided(chain, opened) > _SHARE for chain in narrower)
    if still:
        layers = "1 layer" if still == 1 else f"{still} layers"
        notes.append(
            f"under the law of the inputs more than {_SHARE:.0%} of the neurons of {layers} stay on one side of 0: "
            "where real inputs vary more, errors may be larger (--inputs takes some)"
        )
    return tuple(notes)


def _disagreement(chain: Narrowed, opened: Opened, options: Options) -> str | None:
    if isinstance(chain.inputs.law, Normed) or (chain.polish is not None and len(chain.polish.together) > 1):
        return None
    normed = law_in_front(opened.document, chain.space)
    if normed is None:
        return None
    opened.forget()
    drawn = normed.sample(_ROWS, stream(options.seed, chain.space.name, _LAW))
    behind, fitted = (_relative(chain, x) for x in (drawn, chain.inputs.hold[:_ROWS]))
    low, high = sorted((behind, fitted))
    if not np.isfinite(high) or high <= _APART * low:
        return None
    times = "infinitely often" if low == 0 else f"{behind / fitted:.2g} times"
    return (
        f"the error of {chain.space.name} under the law of the {normed.name} is {times} that under "
        f"{chain.inputs.law.name} inputs"
    )


def _relative(chain: Narrowed, x: Array) -> float:
    """Return the relative rms of the narrower layer on inputs (N, d), in float64."""
    return errors(chain.layer.evaluate(x), shrink(chain.layer, chain.coreset).evaluate(x)).norm("rms", False)


def _decided(chain: Narrowed, opened: Opened) -> float:
    """Return the share of neurons whose pre-activations lie far from 0 under the law fitted to."""
    opened.forget()
    shares = [_far(readout.features, chain.inputs.fit[:_ROWS]) for readout in chain.layer.readouts]
    return max((share for share in shares if share is not None), default=0.0)


def _far(features: Features, x: Array) -> float | None:
    """Return the share of neurons with |mean| > 2.5 deviations on inputs (N, d); None where there are no such sums."""
    neurons = features.gate if isinstance(features, Gated) else features
    if not isinstance(neurons, Neurons):
        return None
    sums = x @ neurons.incoming.T + neurons.bias
    return float(np.mean(np.abs(sums.mean(axis=0)) > _SURE * sums.std(axis=0)))
