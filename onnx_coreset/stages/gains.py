"""How much of a layer's own error arrives at the model's outputs.

The gain of a chain is the relative rms error at the worst output over the relative local error that was predicted, when
this chain alone is narrowed to a middling width and the whole model is run on held-back inputs. Where there are very
many chains, neighbours are narrowed together and share a gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.layer import Coreset
from onnx_coreset.edge.response import responses
from onnx_coreset.edge.runtime import Provider, RuntimeRefused
from onnx_coreset.edge.validation import runs_for
from onnx_coreset.graph.cut import cut
from onnx_coreset.options import Options
from onnx_coreset.stages.narrowing import Prepared
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import HOLD, Sources, stream

_GROUPS = 64
_MIDDLING = 0.2
_SAMPLES = 256
_MACS = 10**11
_LEAST = 0.01


def gains(
    chains: Sequence[Prepared],
    curves: Sequence[tuple[Indices, Array]],
    opened: Opened,
    found: Sources,
    options: Options,
    provider: Provider,
) -> Array:
    """Return the gain of each chain.

    Args:
        chains: The chains.
        curves: For each, the widths it may have, increasing, and their relative local errors, both (w,).
        opened: The model.
        found: Where inputs come from.
        options: What was asked.
        provider: Where models are run.

    Returns:
        Shape (chains,), positive: 1 where nothing can be run; no gain is below a hundredth of the largest, since what
        these inputs do not show, others may. One session and a few runs a chain.
    """
    at = [_middling(widths, errors, c.space.width) for c, (widths, errors) in zip(chains, curves, strict=True)]
    middling = {index: place for index, place in enumerate(at) if place is not None}
    if found.held_back is None or not middling:
        return np.ones(len(chains))
    groups = [group.tolist() for group in np.array_split(list(middling), min(_GROUPS, len(middling)))]
    errors = [float(np.sqrt(sum(curves[i][1][middling[i]] ** 2 for i in group))) for group in groups]
    result = np.full(len(chains), np.nan)
    feeder, first = found.held_back
    rng = stream(options.seed, "gains", HOLD)
    trial = feeder.feed(first, rng)
    batch = max((value.shape[0] for value in trial.values() if value.ndim), default=1)
    samples = int(np.clip(_MACS // (max(opened.facts.macs or 1, 1) * len(groups)), 16, _SAMPLES))
    runs = range(first, first + runs_for(feeder, samples, batch))
    feeds = [feeder.feed(run, rng) for run in runs]

    def variant(group: Sequence[int]) -> onnx.ModelProto:
        wanted = {chains[i].name: int(curves[i][0][middling[i]]) for i in group}
        return cut(opened.model, coresets(chains, wanted), options.constant_inputs)[0]

    try:
        answers = list(responses(opened.original, map(variant, groups), provider, feeds))
    except RuntimeRefused:
        return np.ones(len(chains))
    for group, error, answer in zip(groups, errors, answers, strict=True):
        result[group] = answer / error
    known = result[np.isfinite(result) & (result > 0)]
    if not known.size:
        return np.ones(len(chains))
    result[~np.isfinite(result)] = float(np.median(known))
    return np.asarray(np.maximum(result, _LEAST * float(known.max())))


def coresets(chains: Sequence[Prepared], widths: Mapping[str, int]) -> dict[str, Coreset]:
    """Return the coresets of the chains that get narrower, by name."""
    return {
        chain.name: chain.choice().at(widths[chain.name])
        for chain in chains
        if widths.get(chain.name, chain.space.width) < chain.space.width
    }


def _middling(widths: Indices, errors: Array, full: int) -> int | None:
    """Return the index of the width whose error is nearest to a fifth, in ratio; None where none errs."""
    erring = (widths < full) & np.isfinite(errors) & (errors > 1e-4)
    if not erring.any():
        return None
    distance = np.where(erring, np.abs(np.log(np.maximum(errors, 1e-4) / _MIDDLING)), np.inf)
    return int(np.argmin(distance))
