"""Moments of hidden features: those of numpy, in blocks or at once, far from zero or not."""

from __future__ import annotations

import numpy as np
import pytest

from hidden_layers import EPS, RELU, Columns, neurons, plain, readout
from onnx_coreset.core.gram import Moments, layer_moments, sampled, spreads
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout


def table(seed: int = 0, count: int = 500, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, d))


@pytest.mark.parametrize("block", [7, 100, 500, 8192])
def test_moments_equal_those_of_numpy_whatever_the_block(block: int) -> None:
    features = neurons(6, 4, np.random.default_rng(1))
    values = features.evaluate(table())[:, :, 0]
    found = sampled(features, table(), block)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
    # Each entry is a sum of 500 products of numbers below 10: 500 * 100 * EPS at the most.
    np.testing.assert_allclose(found.gram, np.cov(values.T, bias=True), rtol=1e-12, atol=500 * 100 * EPS)


def test_features_of_several_columns_are_flattened_neuron_by_neuron() -> None:
    features = Columns(np.random.default_rng(0).standard_normal((3, 2, 4)))
    values = features.evaluate(table()).reshape(500, 6)
    np.testing.assert_allclose(sampled(features, table()).gram, np.cov(values.T, bias=True), atol=500 * 100 * EPS)


@pytest.mark.parametrize("block", [64, 8192])
def test_features_far_from_zero_lose_no_digits_of_their_covariance(block: int) -> None:
    incoming, far = np.eye(4), 1e7
    found = sampled(Neurons(incoming, np.full(4, far), RELU), table(), block)
    exact = np.cov((table() + far).T - far, bias=True)
    # A feature is rounded to far * EPS = 2e-9; squaring before centring would leave an error of far^2 * EPS = 0.02.
    np.testing.assert_allclose(found.gram, exact, atol=100 * far * EPS)


@pytest.mark.parametrize("block", [64, 8192])
@pytest.mark.parametrize("value", [0.1, 1e9 / 3, -7e-5])
def test_a_constant_feature_has_variance_zero_exactly(value: float, block: int) -> None:
    incoming = np.array([[0.0, 0, 0, 0], [1, 0, 0, 0]])
    found = sampled(Neurons(incoming, np.array([value, 0.0]), lambda t: t), table(), block)
    np.testing.assert_array_equal(found.gram[0], [0.0, 0.0])
    assert found.mean[0] == value


def test_the_covariance_is_symmetric() -> None:
    gram = sampled(neurons(6, 4, np.random.default_rng(1)), table(), 64).gram
    np.testing.assert_array_equal(gram, gram.T)


def test_readouts_that_share_features_share_moments() -> None:
    rng = np.random.default_rng(0)
    shared, own = neurons(5, 4, rng), neurons(5, 4, rng)
    layer = HiddenLayer(5, (readout(shared, 2, rng), readout(own, 2, rng), readout(shared, 3, rng)))
    found = layer_moments(layer, table())
    assert found[0] is found[2]
    np.testing.assert_array_equal(found[1].gram, sampled(own, table()).gram)


def test_spreads_are_those_of_the_outputs() -> None:
    layer = plain(d=4)
    outputs = layer.evaluate(table())[0]
    found = spreads(layer, layer_moments(layer, table()))
    np.testing.assert_allclose(found, [np.sqrt(outputs.var(axis=0).mean())], rtol=1e-12)


def test_the_spread_of_outputs_that_do_not_vary_is_one() -> None:
    part = plain().readouts[0]
    layer = HiddenLayer(12, (Readout(part.features, np.zeros((2, 12, 1)), np.ones(2)),))
    assert spreads(layer, (Moments(np.ones(12), np.eye(12)),)) == (1.0,)
