"""The path of an order: at every width, the error that a refit of that prefix has."""

from __future__ import annotations

import numpy as np
import pytest

from hidden_layers import EPS, Columns, neurons, plain, readout
from onnx_coreset.core.gram import Moments, layer_moments, spreads
from onnx_coreset.core.layer import HiddenLayer, shrink
from onnx_coreset.core.methods.target import error_path
from onnx_coreset.core.refit import RIDGE, refit, seen, standardise


def table(layer: HiddenLayer, rows: int = 400) -> np.ndarray:
    return np.random.default_rng(8).standard_normal((rows, layer.inputs))


def two_heads(constant_allowed: bool = True) -> HiddenLayer:
    rng = np.random.default_rng(1)
    features = neurons(15, 6, rng)
    parts = readout(features, 2, rng), readout(features, 9, rng, constant_allowed), readout(neurons(15, 6, rng), 3, rng)
    return HiddenLayer(15, parts)


def blocks() -> HiddenLayer:
    rng = np.random.default_rng(2)
    return HiddenLayer(10, (readout(Columns(rng.standard_normal((10, 3, 8))), 5, rng),))


def measured(layer: HiddenLayer, order: np.ndarray, m: int) -> float:
    """The rms on the samples themselves, which the moments describe exactly."""
    x = table(layer)
    moments = layer_moments(layer, x)
    narrow = shrink(layer, refit(layer, np.sort(order[:m]), moments))
    scale = spreads(layer, moments)
    parts = [(a - b) / s for a, b, s in zip(layer.evaluate(x), narrow.evaluate(x), scale, strict=True)]
    return float(np.sqrt(np.mean(np.concatenate(parts, axis=1) ** 2)))


def ridge_term(layer: HiddenLayer, order: np.ndarray, m: int) -> float:
    """r |U - A|^2 of the refit, in units of spread, over the number of outputs; dropped columns count as 0."""
    moments = layer_moments(layer, table(layer))
    kept = np.sort(order[:m])
    found = refit(layer, kept, moments)
    total = 0.0
    for part, new, moment, scale in zip(layer.readouts, found.outgoing, moments, spreads(layer, moments), strict=True):
        difference = np.array(part.outgoing)
        difference[:, kept] -= new
        _, deviation = standardise(seen(moment, part.constant_allowed))
        total += float(np.sum((difference.reshape(part.outputs, -1) * deviation / scale) ** 2))
    return RIDGE * total / layer.outputs


LAYERS = [plain(20, k=3), plain(20, k=40), plain(1), two_heads(), two_heads(False), blocks()]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_path_is_the_error_measured_after_the_refit_and_the_ridge(layer: HiddenLayer) -> None:
    order = np.random.default_rng(3).permutation(layer.width)
    path = error_path(layer, layer_moments(layer, table(layer)), order)
    for m in range(1, layer.width + 1):
        expected = np.sqrt(measured(layer, order, m) ** 2 + ridge_term(layer, order, m))
        # 1e-7: roots of the rounding of squares that are at most 1.
        assert path[m - 1] == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_path_never_rises_and_ends_with_nothing_lost(layer: HiddenLayer) -> None:
    path = error_path(layer, layer_moments(layer, table(layer)), np.arange(layer.width))
    assert path.shape == (layer.width,)
    assert np.all(np.diff(path) <= 0)
    assert path[-1] == 0


def test_with_all_but_nothing_kept_the_error_is_at_most_the_spread() -> None:
    layer = two_heads()
    path = error_path(layer, layer_moments(layer, table(layer)), np.arange(layer.width))
    assert path[0] <= 1 + 100 * EPS


def test_where_a_half_of_the_neurons_repeats_the_other_the_path_falls_to_nothing_there() -> None:
    rng = np.random.default_rng(1)
    doubled = neurons(10, 20, rng).take(np.tile(np.arange(10), 2))
    layer = HiddenLayer(20, (readout(doubled, 5, rng),))
    path = error_path(layer, layer_moments(layer, table(layer)), np.arange(20))
    # Only the ridge's own term is left: r |A|^2 with |A|^2 about 2 here.
    assert path[9] <= np.sqrt(10 * RIDGE)
    assert path[8] >= 0.05


def test_moments_that_are_not_definite_have_a_path() -> None:
    moments = Moments(np.zeros(2), np.array([[1.0, 1.001], [1.001, 1.0]]))
    assert np.all(np.isfinite(error_path(plain(2), (moments,), np.arange(2))))
