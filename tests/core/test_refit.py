"""The refit solves the ridge problem that its docstring states, and stays tame where that problem is degenerate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hidden_layers import Columns, drawn, plain, readout
from onnx_coreset.core.gram import Moments, layer_moments
from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons, Readout, restrict, shrink
from onnx_coreset.core.refit import RIDGE, refit

SEEDS = st.integers(0, 2**32 - 1)
KEPT = st.sets(st.integers(0, 7), min_size=1, max_size=7).map(sorted)


def error(layer: HiddenLayer, coreset: Coreset, moments: Moments) -> float:
    """Mean square of the difference of the outputs, from moments alone."""
    part = layer.readouts[0]
    columns = part.features.columns
    difference = np.array(part.outgoing)
    difference[:, coreset.kept] -= coreset.outgoing[0]
    flat = difference.reshape(part.outputs, part.features.width * columns)
    offset = flat @ moments.mean + part.constant - coreset.constant[0]
    return float(np.trace(flat @ moments.gram @ flat.T) + offset @ offset)


def bias_only(layer: HiddenLayer, kept: list[int], moments: Moments) -> Coreset:
    part, coreset = layer.readouts[0], restrict(layer, np.array(kept))
    gone = np.setdiff1d(np.arange(layer.width), kept)
    return replace(coreset, constant=(part.constant + part.outgoing[:, gone, 0] @ moments.mean[gone],))


def without_constant(layer: HiddenLayer) -> HiddenLayer:
    return HiddenLayer(layer.width, tuple(replace(part, constant_allowed=False) for part in layer.readouts))


def augmented(weights: np.ndarray, gram: np.ndarray, kept: list[int], ridge: float) -> np.ndarray:
    """Minimise E |W a - U a_C|^2 + r sum_j Var(a_j) |U_j - W_j|^2 by an explicit least-squares system."""
    root = np.linalg.cholesky(gram).T
    system = np.vstack([root, np.sqrt(ridge) * np.diag(np.sqrt(np.diag(gram)))])
    return np.linalg.lstsq(system[:, kept], system @ weights.T, rcond=None)[0].T


@given(SEEDS, KEPT, st.sampled_from([1e-7, 1e-2, 1.0]), st.booleans())
def test_the_weights_solve_the_stated_ridge_problem(seed: int, kept: list[int], ridge: float, free: bool) -> None:
    layer, moments = plain(8, seed=seed), drawn(8, seed)
    layer = layer if free else without_constant(layer)
    gram = moments.gram if free else moments.gram + np.outer(moments.mean, moments.mean)
    expected = augmented(layer.readouts[0].outgoing[:, :, 0], gram, kept, ridge)
    found = refit(layer, np.array(kept), (moments,), ridge).outgoing[0][:, :, 0]
    # Normal equations err by cond * EPS: below 1e8 * 2e-16 for ridges from 1e-7 and 8 features, in the norm of U.
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max() * np.linalg.cond(gram) ** 0.5)


@given(SEEDS, KEPT)
def test_the_constant_makes_the_mean_error_vanish(seed: int, kept: list[int]) -> None:
    layer, moments = plain(8, seed=seed), drawn(8, seed)
    found = refit(layer, np.array(kept), (moments,))
    part = layer.readouts[0]
    before = part.outgoing[:, :, 0] @ moments.mean + part.constant
    after = found.outgoing[0][:, :, 0] @ moments.mean[kept] + found.constant[0]
    size = np.abs(found.outgoing[0][:, :, 0]) @ np.abs(moments.mean[kept]) + np.abs(before).max() + 10
    assert np.all(np.abs(after - before) <= 1e-14 * size * 8)


def test_a_constant_that_may_not_change_stays_bit_for_bit() -> None:
    layer = without_constant(plain(8))
    found = refit(layer, np.array([1, 2]), (drawn(8),))
    np.testing.assert_array_equal(found.constant[0], layer.readouts[0].constant)


def test_keeping_all_neurons_changes_no_bit() -> None:
    layer = plain(8)
    found = refit(layer, np.arange(8), (drawn(8, rank=3),), 0.1)
    np.testing.assert_array_equal(found.outgoing[0], layer.readouts[0].outgoing)
    np.testing.assert_array_equal(found.constant[0], layer.readouts[0].constant)


@given(SEEDS, KEPT, st.sampled_from([1e-7, 1e-2, 1.0]), st.integers(1, 8))
def test_refitting_is_never_worse_than_changing_the_constant_alone(
    seed: int, kept: list[int], ridge: float, rank: int
) -> None:
    layer, moments = plain(8, seed=seed), drawn(8, seed, rank)
    scale = error(layer, restrict(layer, np.array([0])), moments)
    best = error(layer, refit(layer, np.array(kept), (moments,), ridge), moments)
    # 1e-8: rounding through a condition of at most 8 / 1e-7.
    assert best <= error(layer, bias_only(layer, kept, moments), moments) * (1 + 1e-8) + 1e-12 * scale


@given(SEEDS, KEPT, st.integers(1, 8))
def test_refitting_is_never_worse_than_dropping_where_the_constant_is_fixed(
    seed: int, kept: list[int], rank: int
) -> None:
    layer, moments = without_constant(plain(8, seed=seed)), drawn(8, seed, rank)
    before = error(layer, restrict(layer, np.array(kept)), moments)
    assert error(layer, refit(layer, np.array(kept), (moments,)), moments) <= before * (1 + 1e-8) + 1e-12


def relu_layer(incoming: np.ndarray, bias: np.ndarray, k: int = 3) -> tuple[HiddenLayer, tuple[Moments, ...]]:
    old = plain(len(bias), incoming.shape[1], k)
    features = Neurons(incoming, bias, old.readouts[0].features.activation)
    layer = HiddenLayer(len(bias), (replace(old.readouts[0], features=features),))
    return layer, layer_moments(layer, np.random.default_rng(4).standard_normal((500, incoming.shape[1])))


def lost(layer: HiddenLayer, kept: list[int], moments: tuple[Moments, ...]) -> float:
    return error(layer, refit(layer, np.array(kept), moments), moments[0])


def base() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    return rng.standard_normal((6, 4)), 0.3 * rng.standard_normal(6)


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e3])
def test_a_neuron_that_is_a_multiple_of_one_that_stays_costs_no_more_than_the_ridge(factor: float) -> None:
    incoming, bias = base()
    incoming[5], bias[5] = factor * incoming[0], factor * bias[0]
    layer, moments = relu_layer(incoming, bias)
    part = layer.readouts[0].outgoing[:, 5, 0]
    # Moving its contribution to the other one is feasible, without error, at a penalty of twice its square.
    bound = 2 * RIDGE * float(part @ part) * moments[0].gram[5, 5]
    assert lost(layer, [0, 1, 2, 3, 4], moments) <= bound * (1 + 1e-6)


def test_a_constant_neuron_goes_to_the_constant_without_error() -> None:
    incoming, bias = base()
    incoming[5], bias[5] = 0.0, 2.0
    layer, moments = relu_layer(incoming, bias)
    found = refit(layer, np.arange(5), moments)
    np.testing.assert_allclose(found.outgoing[0], layer.readouts[0].outgoing[:, :5], rtol=1e-9)
    expected = layer.readouts[0].constant + 2.0 * layer.readouts[0].outgoing[:, 5, 0]
    np.testing.assert_allclose(found.constant[0], expected, rtol=1e-9)


@pytest.mark.parametrize("bias", [-100.0, 2.0], ids=["dead", "constant"])
def test_a_neuron_that_does_not_vary_keeps_its_weights_where_it_stays(bias: float) -> None:
    incoming, biases = base()
    incoming[5], biases[5] = 0.0, bias
    layer, moments = relu_layer(incoming, biases)
    found = refit(layer, np.array([1, 2, 5]), moments)
    np.testing.assert_array_equal(found.outgoing[0][:, 2], layer.readouts[0].outgoing[:, 5])


def test_neurons_that_are_all_dead_are_dropped_without_a_change() -> None:
    layer, moments = relu_layer(np.zeros((6, 4)), np.full(6, -1.0))
    found = refit(layer, np.array([2]), moments)
    np.testing.assert_array_equal(found.outgoing[0], layer.readouts[0].outgoing[:, [2]])
    np.testing.assert_array_equal(found.constant[0], layer.readouts[0].constant)


@given(SEEDS, st.floats(1e-12, 1e-2))
def test_near_duplicates_do_not_make_weights_explode(seed: int, gap: float) -> None:
    rng = np.random.default_rng(seed)
    incoming, bias = rng.standard_normal((6, 4)), 0.3 * rng.standard_normal(6)
    incoming[1] = incoming[0] + gap * rng.standard_normal(4)
    layer, moments = relu_layer(incoming, bias)
    kept = [0, 1, 2]
    found = refit(layer, np.array(kept), moments)
    deviation = np.sqrt(np.diag(moments[0].gram))
    weights = layer.readouts[0].outgoing[:, :, 0] * deviation
    change = np.array(weights)
    change[:, kept] -= found.outgoing[0][:, :, 0] * deviation[kept]
    # The objective at U is at most that at U = W: r |U - W|^2 <= error of dropping + r |W_dropped|^2.
    bound = error(layer, bias_only(layer, kept, moments[0]), moments[0]) / RIDGE + np.sum(weights[:, 3:] ** 2)
    assert np.sum(change**2) <= bound * (1 + 1e-6)


@given(SEEDS, KEPT, st.lists(st.integers(-10, 10), min_size=8, max_size=8), st.booleans())
def test_the_scale_of_a_feature_does_not_matter(seed: int, kept: list[int], powers: list[int], free: bool) -> None:
    layer, moments = plain(8, seed=seed), drawn(8, seed)
    layer = layer if free else without_constant(layer)
    scale = 2.0 ** np.array(powers)
    part = layer.readouts[0]
    scaled = HiddenLayer(8, (replace(part, outgoing=part.outgoing / scale[:, None]),))
    found = refit(layer, np.array(kept), (moments,))
    other = refit(scaled, np.array(kept), (Moments(moments.mean * scale, moments.gram * np.outer(scale, scale)),))
    # Powers of two round nothing, so only the order of sums may differ.
    np.testing.assert_allclose(other.outgoing[0] * scale[kept][:, None], found.outgoing[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.constant[0], found.constant[0], rtol=1e-9, atol=1e-9)


def test_all_columns_of_a_neuron_are_fitted_together() -> None:
    rng = np.random.default_rng(2)
    features = Columns(rng.standard_normal((4, 3, 5)))
    layer = HiddenLayer(4, (readout(features, 2, rng),))
    moments, kept = drawn(12), [1, 3]
    columns = [3, 4, 5, 9, 10, 11]
    flat = layer.readouts[0].outgoing.reshape(2, 12)
    expected = augmented(flat, moments.gram, columns, RIDGE)
    found = refit(layer, np.array(kept), (moments,)).outgoing[0]
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found.reshape(2, 6), expected, rtol=1e-6, atol=1e-6)


def test_a_feature_without_variance_in_the_middle_of_columns_keeps_its_weights() -> None:
    rng = np.random.default_rng(2)
    layer = HiddenLayer(4, (readout(Columns(rng.standard_normal((4, 3, 5))), 2, rng),))
    moments = drawn(12)
    gram = np.array(moments.gram)
    gram[4], gram[:, 4] = 0.0, 0.0
    found = refit(layer, np.array([1, 3]), (Moments(moments.mean, gram),)).outgoing[0]
    np.testing.assert_array_equal(found[:, 0, 1], layer.readouts[0].outgoing[:, 1, 1])
    assert np.all(found[:, 0, 0] != layer.readouts[0].outgoing[:, 1, 0])


@pytest.mark.parametrize("rank", [1, 3])
def test_features_of_low_rank_are_reproduced_from_as_many_neurons_as_their_rank(rank: int) -> None:
    layer, moments = plain(8), drawn(8, 5, rank)
    dropped = error(layer, restrict(layer, np.arange(rank)), moments)
    # Feasible without error at |U - W|^2 = O(|W|^2 cond): the error is of the order of the ridge.
    assert error(layer, refit(layer, np.arange(rank), (moments,)), moments) <= 1e3 * RIDGE * dropped


def test_every_readout_is_fitted_to_its_own_features() -> None:
    first, second = plain(8, k=2).readouts[0], plain(8, k=3, seed=1).readouts[0]
    moments, kept = (drawn(8, 1), drawn(8, 2)), np.array([0, 5])
    both = refit(HiddenLayer(8, (first, second)), kept, moments)
    for index, part in enumerate((first, second)):
        alone = refit(HiddenLayer(8, (part,)), kept, (moments[index],))
        np.testing.assert_array_equal(both.outgoing[index], alone.outgoing[0])


def test_the_refitted_layer_has_the_error_that_its_moments_say() -> None:
    layer = plain(8)
    x = np.random.default_rng(0).standard_normal((300, layer.inputs))
    moments = layer_moments(layer, x)
    found = refit(layer, np.array([0, 1, 4, 5]), moments)
    difference = shrink(layer, found).evaluate(x)[0] - layer.evaluate(x)[0]
    np.testing.assert_allclose(np.sum(difference**2) / 300, error(layer, found, moments[0]), rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_moments_that_are_not_finite_are_refused(bad: float) -> None:
    gram = np.eye(8)
    gram[2, 2] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        refit(plain(8), np.array([0, 1]), (Moments(np.zeros(8), gram),))


def test_a_ridge_of_zero_on_a_singular_gram_still_ends_with_finite_weights() -> None:
    found = refit(plain(8), np.arange(5), (drawn(8, rank=2),), 0.0)
    assert np.isfinite(found.outgoing[0]).all()


def test_names_and_seeds_are_recorded() -> None:
    found = refit(plain(8), np.array([0]), (drawn(8),), method="x", seed=7)
    assert (found.method, found.seed) == ("x", 7)


def test_a_readout_keeps_its_shape() -> None:
    part: Readout = plain(8).readouts[0]
    assert refit(HiddenLayer(8, (part,)), np.array([3]), (drawn(8),)).outgoing[0].shape == (4, 1, 1)
