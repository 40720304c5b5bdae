"""Sensitivities by peeling bound what they claim to bound; the sample has the width asked for and is unbiased."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hidden_layers import RELU, Columns, neurons, plain, readout
from onnx_coreset.core.laws import Ball
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout, shrink
from onnx_coreset.core.methods import Context, Mvee, Ordered
from onnx_coreset.core.methods.mvee import peeled, sampled


def context(layer: HiddenLayer, radius: float = 2.0) -> Context:
    return Context(Ball(radius, layer.inputs), radius=radius)


def made(incoming, bias, outgoing) -> HiddenLayer:
    features = Neurons(np.asarray(incoming, dtype=float), np.asarray(bias, dtype=float), RELU)
    weights = np.asarray(outgoing, dtype=float)[:, :, None]
    return HiddenLayer(features.width, (Readout(features, weights, np.zeros(weights.shape[0])),))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_points_share_of_the_sum_is_at_most_the_factor_over_its_layer(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n, d)) * np.exp(rng.standard_normal((n, 1)))
    # Random directions, and those in which one point is large and most others vanish.
    x = np.concatenate(
        [rng.standard_normal((500, d)), np.linalg.pinv(y).T, *(np.linalg.pinv(y[j : j + d]).T for j in range(n))]
    )
    values = np.abs(x @ y.T)
    values = values[values.sum(axis=1) > 0]
    bound = d * np.sqrt(1.01) / peeled(y)
    assert np.all(values <= bound * values.sum(axis=1, keepdims=True) * (1 + 1e-9))


def test_layers_by_hand() -> None:
    # On a line one point stands for all: the longest, then the next; two are left in the end.
    assert peeled(np.array([[1.0], [-5.0], [3.0], [2.0]])).tolist() == [3, 1, 2, 3]
    # Crosses of size 3, 2 and 1: no point of the inner ones touches the outer circle.
    cross = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert peeled(np.vstack([2 * cross, 3 * cross, cross, 0 * cross])).tolist() == [2, 2, 1, 1, 3, 3, 3, 3]
    assert peeled(np.vstack([cross, 3 * cross, 2 * cross]), most=1).tolist() == [1] * 6


def test_a_neuron_that_nothing_stands_for_stays_for_certain() -> None:
    rng = np.random.default_rng(1)
    incoming = rng.standard_normal((40, 3)) * [1.0, 1.0, 1e-3]
    incoming[17, 2] = 1.0
    layer = made(incoming, np.zeros(40), rng.standard_normal((2, 40)))
    for _ in range(30):
        assert 17 in Mvee(dimensions=3).select(layer, 20, context(layer), rng).kept


def test_outputs_are_unbiased_and_the_width_is_exact() -> None:
    rng = np.random.default_rng(2)
    layer = plain(n=20, d=2, k=3)
    x = Ball(2.0, 2).sample(5, rng)
    exact = layer.evaluate(x)[0]
    score = Mvee().sensitivities(layer, context(layer))
    drawn = [sampled(layer, score, 8, rng, "mvee") for _ in range(1500)]
    assert all(coreset.width == 8 for coreset in drawn)
    outputs = np.array([shrink(layer, coreset).evaluate(x)[0] for coreset in drawn])
    error = outputs.std(axis=0, ddof=1) / np.sqrt(len(outputs))
    assert np.all(np.abs(outputs.mean(axis=0) - exact) <= 5 * error)


def test_outgoing_weights_are_divided_by_the_probability_of_staying() -> None:
    rng = np.random.default_rng(3)
    layer = plain(n=30)
    times = np.zeros(30)
    factor = np.zeros(30)
    score = Mvee().sensitivities(layer, context(layer))
    for _ in range(400):
        coreset = sampled(layer, score, 10, rng, "mvee")
        times[coreset.kept] += 1
        ratio = coreset.outgoing[0] / layer.readouts[0].outgoing[:, coreset.kept]
        factor[coreset.kept] = ratio[0, :, 0]
    share = times / 400
    seen = times > 0
    error = np.sqrt(share * (1 - share) / 400) + 1e-12
    assert np.all(np.abs(share - np.divide(1.0, factor, out=np.zeros(30), where=seen))[seen] <= 5 * error[seen])


def test_neurons_that_nothing_reads_go_first_and_the_rest_stays_as_it_is() -> None:
    rng = np.random.default_rng(4)
    outgoing = rng.standard_normal((2, 9))
    outgoing[:, [0, 3, 4]] = 0
    layer = made(rng.standard_normal((9, 3)), rng.standard_normal(9), outgoing)
    coreset = Mvee().select(layer, 6, context(layer), rng)
    np.testing.assert_array_equal(coreset.kept, [1, 2, 5, 6, 7, 8])
    np.testing.assert_array_equal(coreset.outgoing[0][:, :, 0], outgoing[:, coreset.kept])
    for _ in range(50):
        assert not set(Mvee().select(layer, 3, context(layer), rng).kept) & {0, 3, 4}


def test_points_are_projected_where_they_are_too_few_for_their_dimension() -> None:
    # 40 neurons of 30 inputs: without the projection all 40 points are the first layer, and the choice is uniform.
    layer = plain(n=40, d=30)
    assert np.unique(Mvee(dimensions=31).sensitivities(layer, context(layer))).size == 1
    assert np.unique(Mvee().sensitivities(layer, context(layer))).size >= 4


DEGENERATE = {
    "one neuron": made([[1.0, 2.0]], [0.5], [[1.0]]),
    "equal rows": made(np.ones((40, 3)), np.ones(40), np.ones((2, 40))),
    "on a line": made(np.arange(40.0)[:, None] * np.ones((1, 3)), np.zeros(40), np.ones((2, 40))),
    "rows of zero": made(np.zeros((40, 3)), np.zeros(40), np.ones((2, 40))),
    "nothing read": made(np.ones((40, 3)), np.ones(40), np.zeros((2, 40))),
    "some of zero": made(np.eye(40, 3), np.zeros(40), np.ones((2, 40))),
    "no inputs to speak of": made(np.zeros((40, 1)), np.ones(40), np.ones((1, 40))),
    "huge and tiny": made(np.eye(40, 3) * [1e150, 1.0, 1e-150], np.ones(40), np.ones((2, 40))),
}


@pytest.mark.parametrize("layer", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate_layers_get_the_width_asked_for(layer: HiddenLayer) -> None:
    rng = np.random.default_rng(6)
    score = Mvee().sensitivities(layer, context(layer))
    assert np.all(np.isfinite(score)) and np.all(score >= 0)
    for width in {1, (layer.width + 1) // 2, layer.width}:
        coreset = Mvee().select(layer, width, context(layer), rng)
        assert coreset.width == width and np.isfinite(coreset.outgoing[0]).all()


def test_each_head_counts_in_its_own_unit() -> None:
    rng = np.random.default_rng(7)
    features = neurons(40, 3, rng)
    big, small = 1e6 * rng.standard_normal((2, 40, 1)), 1e-6 * rng.standard_normal((2, 40, 1))
    heads = Readout(features, big, np.zeros(2)), Readout(features, small, np.zeros(2))
    alone = [Mvee().sensitivities(HiddenLayer(40, (r,)), context(HiddenLayer(40, (r,)))) for r in heads]
    both = HiddenLayer(40, heads)
    expected = np.maximum(alone[0] / alone[0].max(), alone[1] / alone[1].max())
    np.testing.assert_allclose(Mvee().sensitivities(both, context(both)), expected)


def test_what_it_needs() -> None:
    rng = np.random.default_rng(8)
    assert Mvee().requires == {"neurons"} and not isinstance(Mvee(), Ordered)
    layer = HiddenLayer(4, (readout(Columns(rng.standard_normal((4, 1, 3))), 2, rng),))
    with pytest.raises(ValueError, match="dense"):
        Mvee().select(layer, 2, context(layer), rng)
