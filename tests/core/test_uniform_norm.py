"""The two baselines: uniform is unbiased without replacement, norm keeps the longest rows as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from onnx_coreset.core.activations import recognise
from onnx_coreset.core.activations.spell import spell
from onnx_coreset.core.laws import Ball
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout, shrink
from onnx_coreset.core.methods import Context, Norm, Ordered, Sensitivity, Uniform

TANH = recognise(spell(("Tanh", "x")))
CONTEXT = Context(Ball(1.0, 3), radius=1.0)


def layer(rng, n=9):
    features = Neurons(rng.standard_normal((n, 3)), rng.standard_normal(n), TANH)
    return HiddenLayer(n, (Readout(features, rng.standard_normal((2, n, 1)), np.ones(2)),))


def test_uniform_is_unbiased_and_of_exact_width():
    rng = np.random.default_rng(1)
    whole, x = layer(rng), rng.standard_normal((4, 3))
    drawn = [Uniform().select(whole, 4, CONTEXT, rng) for _ in range(5000)]
    assert all(coreset.width == 4 for coreset in drawn)
    outputs = np.array([shrink(whole, coreset).evaluate(x)[0] for coreset in drawn])
    error = outputs.std(axis=0, ddof=1) / np.sqrt(len(outputs))
    assert np.all(np.abs(outputs.mean(axis=0) - whole.evaluate(x)[0]) <= 5 * error)
    # Without replacement the variance is (1 - m/n) of that of independent draws, times n / (n - 1).
    terms = 9 * whole.readouts[0].outgoing[:, :, 0] * whole.readouts[0].features.evaluate(x)[:, None, :, 0]
    expected = terms.var(axis=2) / 4 * (9 - 4) / (9 - 1)
    # The kurtosis of a sum of 4 bounded terms is at most some 4: five errors of a sample variance.
    assert np.all(np.abs(outputs.var(axis=0) - expected) <= 5 * expected * np.sqrt(4 / 5000))


def test_uniform_keeps_everything_at_full_width():
    rng = np.random.default_rng(2)
    whole = layer(rng)
    coreset = Uniform().select(whole, 9, CONTEXT, rng)
    np.testing.assert_array_equal(coreset.outgoing[0], whole.readouts[0].outgoing)


def test_norm_keeps_the_longest_rows_bias_included():
    incoming = np.array([[3.0, 0, 0], [0, 0, 0], [1.0, 1.0, 1.0], [3.0, 0, 0]])
    features = Neurons(incoming, np.array([0.0, 5.0, 0.0, 0.1]), TANH)
    outgoing = np.arange(8.0).reshape(2, 4, 1)
    whole = HiddenLayer(4, (Readout(features, outgoing, np.zeros(2)),))
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(Norm().order(whole, CONTEXT, rng), [1, 3, 0, 2])
    coreset = Norm().select(whole, 2, CONTEXT, rng)
    np.testing.assert_array_equal(coreset.kept, [1, 3])
    np.testing.assert_array_equal(coreset.outgoing[0], outgoing[:, [1, 3]])


def test_equal_rows_go_by_index():
    features = Neurons(np.ones((5, 3)), np.zeros(5), TANH)
    whole = HiddenLayer(5, (Readout(features, np.ones((1, 5, 1)), np.zeros(1)),))
    np.testing.assert_array_equal(Norm().order(whole, CONTEXT, np.random.default_rng(0)), range(5))


def test_only_norm_of_the_three_is_nested():
    assert isinstance(Norm(), Ordered)
    assert not isinstance(Uniform(), Ordered) and not isinstance(Sensitivity(), Ordered)


@dataclass(frozen=True)
class Products:
    """Features of another kind."""

    inner: Neurons
    name: str = "products"
    width: int = 9
    columns: int = 1
    inputs: int = 3

    def evaluate(self, x):
        return self.inner.evaluate(x) ** 2

    def sample(self, law, count, rng):
        return self.evaluate(law.sample(count, rng))

    def take(self, kept):
        return Products(self.inner.take(kept), width=len(kept))


def test_features_of_another_kind_do_for_uniform_only():
    rng = np.random.default_rng(4)
    inner = layer(rng).readouts[0].features
    whole = HiddenLayer(9, (Readout(Products(inner), np.ones((2, 9, 1)), np.zeros(2)),))
    assert Uniform().select(whole, 3, CONTEXT, rng).width == 3
    for method in (Norm(), Sensitivity()):
        assert "neurons" in method.requires
        with pytest.raises(ValueError, match="dense"):
            method.select(whole, 3, CONTEXT, rng)
