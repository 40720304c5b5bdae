"""Moments and spreads of the readouts of a hidden layer."""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.gram.moments import Moments, sampled
from onnx_coreset.core.gram.normal import closed
from onnx_coreset.core.laws import Gaussian
from onnx_coreset.core.layer import HiddenLayer


def layer_moments(layer: HiddenLayer, x: Array, components: tuple[Gaussian, ...] | None = None) -> tuple[Moments, ...]:
    """Return the moments of each readout's features; equal features share one object.

    Args:
        layer: The hidden layer.
        x: Samples of its inputs, shape (N, d): what moments are taken over where there is no closed form.
        components: The normal distributions that the inputs are a mixture of, where they are one.
    """
    known: dict[int, Moments] = {}
    for readout in layer.readouts:
        if id(readout.features) not in known:
            exact = closed(readout.features, components) if components else None
            known[id(readout.features)] = sampled(readout.features, x) if exact is None else exact
    return tuple(known[id(readout.features)] for readout in layer.readouts)


def spreads(layer: HiddenLayer, moments: tuple[Moments, ...]) -> tuple[float, ...]:
    """Return each readout's spread: the root of the mean over outputs of the variance, 1 where that is 0.

    Args:
        layer: The hidden layer.
        moments: Moments of each readout's features.
    """
    found = []
    for readout, moment in zip(layer.readouts, moments, strict=True):
        flat = readout.outgoing.reshape(readout.outputs, -1)
        variance = np.einsum("kp,kp->k", flat @ moment.gram, flat)
        spread = float(np.sqrt(max(float(variance.mean()), 0.0)))
        found.append(spread if spread > 0 else 1.0)
    return tuple(found)
