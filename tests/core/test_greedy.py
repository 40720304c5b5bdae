"""Forward selection equals brute force: every gain is the fall of a least-squares error."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hidden_layers import drawn, neurons, plain, readout
from onnx_coreset.core.gram import layer_moments
from onnx_coreset.core.laws import Ball
from onnx_coreset.core.layer import HiddenLayer
from onnx_coreset.core.methods import greedy
from onnx_coreset.core.methods.base import Context
from onnx_coreset.core.methods.greedy import Greedy, forward
from onnx_coreset.core.methods.pivots import Factor
from onnx_coreset.core.methods.target import Target, error_path, targets
from onnx_coreset.core.refit import standardise

RIDGE = 1e-4


def target(n: int, k: int, seed: int, rank: int | None = None) -> Target:
    correlation, _ = standardise(drawn(n, seed, rank))
    return Target(correlation, np.random.default_rng(seed + 1).standard_normal((k, n)))


def objective(part: Target, kept: list[int]) -> float:
    """The least error with the neurons `kept`, ridge included, from an explicit least-squares system."""
    n = part.correlation.shape[0]
    values, vectors = np.linalg.eigh(part.correlation)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    system = np.vstack([root, np.sqrt(RIDGE) * np.eye(n)])
    wanted = system @ part.weights.T
    solved = np.linalg.lstsq(system[:, kept], wanted, rcond=None)[0] if kept else np.zeros((0, wanted.shape[1]))
    return float(np.sum((wanted - system[:, kept] @ solved) ** 2))


def columns_of(part: Target, kept: list[int]) -> list[int]:
    return [j * part.columns + s for j in kept for s in range(part.columns)]


def naive(parts: tuple[Target, ...]) -> list[int]:
    chosen: list[int] = []
    left = list(range(parts[0].width))
    while left:
        errors = [sum(objective(part, columns_of(part, [*chosen, j])) for part in parts) for j in left]
        chosen.append(left.pop(int(np.argmin(errors))))
    return chosen


def order(layer: HiddenLayer, seed: int = 0) -> list[int]:
    x = np.random.default_rng(8).standard_normal((400, layer.inputs))
    known = Context(Ball(1.0, layer.inputs), layer_moments(layer, x))
    return Greedy().order(layer, known, np.random.default_rng(seed)).tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10), st.integers(1, 5))
def test_picks_equal_those_of_brute_force(seed: int, n: int, k: int) -> None:
    part = target(n, k, seed)
    assert forward((part,), RIDGE).tolist() == naive((part,))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 5), st.integers(2, 3))
def test_neurons_of_several_columns_are_picked_as_brute_force_picks_them(seed: int, n: int, k: int, s: int) -> None:
    part = replace(target(n * s, k, seed), columns=s)
    assert forward((part,), RIDGE).tolist() == naive((part,))


@pytest.mark.parametrize("columns", [1, 2])
def test_within_a_pool_that_holds_all_neurons_picks_are_exact(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    part = replace(target(24, 4, 7), columns=columns)
    single = forward((part,), RIDGE).tolist()
    monkeypatch.setattr(greedy, "_FRACTION", 2)
    # Blocks of half of the neurons have pools of all of them; later pools are cut to what is left.
    assert forward((part,), RIDGE).tolist() == single


def test_several_targets_are_served_by_the_sum_of_their_gains() -> None:
    parts = (target(10, 3, 1), target(10, 4, 2))
    found = forward(parts, RIDGE).tolist()
    assert found == naive(parts)
    assert found != naive(parts[:1])


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("forgotten", [False, True])
def test_a_score_is_what_the_error_falls_by(forgotten: bool, columns: int) -> None:
    part, chosen = replace(target(15 * columns, 4, 3), columns=columns), [2, 9, 5]
    matrix = part.correlation + RIDGE * np.eye(15 * columns)
    factor = Factor(part.correlation, part.weights @ matrix, columns, RIDGE, RIDGE)
    factor.take(np.array(chosen[:2]))
    left = np.delete(np.arange(15), chosen[:2]) if forgotten else np.arange(15)
    if forgotten:
        factor.keep(left)
    factor.take(np.flatnonzero(left == chosen[2]))
    scores, now = factor.scores(), objective(part, columns_of(part, chosen))
    for j in set(range(15)) - set(chosen):
        fall = now - objective(part, columns_of(part, [*chosen, j]))
        assert scores[np.flatnonzero(left == j)[0]] == pytest.approx(fall, rel=1e-8, abs=1e-10 * now)


@pytest.mark.parametrize("columns", [1, 3])
def test_a_pool_holds_what_the_pivots_leave(columns: int) -> None:
    part, chosen, pool = replace(target(9 * columns, 4, 3), columns=columns), [6, 2], [1, 8, 4]
    # A shift that is no rounding: the correlation itself would do otherwise.
    matrix = part.correlation + 0.1 * np.eye(9 * columns)
    factor = Factor(part.correlation, part.weights @ matrix, columns, 0.1, 0.1)
    factor.take(np.array(chosen))
    covariance, squares, _ = factor.pool(np.array(pool))
    at, to = columns_of(part, chosen), columns_of(part, pool)
    left = matrix - matrix[:, at] @ np.linalg.solve(matrix[np.ix_(at, at)], matrix[at])
    missing = part.weights @ left
    np.testing.assert_allclose(covariance, left[np.ix_(to, to)], atol=1e-12)
    np.testing.assert_allclose(squares, missing[:, to].T @ missing[:, to], atol=1e-11)


@pytest.mark.parametrize("n", [400, 900])
def test_blocks_lose_little_against_one_neuron_at_a_time(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = plain(n, 20, 10, seed=3)
    x = np.random.default_rng(8).standard_normal((4 * n, layer.inputs))
    moments = layer_moments(layer, x)
    blocked = forward(targets(layer, moments), 1e-6)
    monkeypatch.setattr(greedy, "_BLOCK", 1)
    single = forward(targets(layer, moments), 1e-6)
    assert blocked.tolist() != single.tolist()
    for share in (0.8, 0.5, 0.2):
        kept = int(share * n) - 1
        # Measured: within 1 %; MATH 5.10 states .1 % to 1.6 %.
        assert error_path(layer, moments, blocked)[kept] <= 1.03 * error_path(layer, moments, single)[kept]


@pytest.mark.parametrize("columns", [1, 2])
def test_the_first_picks_do_not_depend_on_how_many_are_wanted(columns: int) -> None:
    part = replace(target(400, 5, 2), columns=columns)
    whole = forward((part,), RIDGE).tolist()
    for count in (1, 17, 100, part.width):
        assert forward((part,), RIDGE, count).tolist() == whole[:count]


def test_known_products_change_nothing() -> None:
    part = target(50, 5, 2)
    known = replace(part, cross=part.weights @ part.correlation)
    assert forward((known,), RIDGE).tolist() == forward((part,), RIDGE).tolist()


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 200])
def test_the_order_holds_every_neuron_once(n: int) -> None:
    assert sorted(order(plain(n))) == list(range(n))


def test_the_order_does_not_depend_on_the_generator() -> None:
    assert order(plain(100), 0) == order(plain(100), 1)


def test_choices_are_nested() -> None:
    layer = plain(100)
    x = np.random.default_rng(8).standard_normal((400, layer.inputs))
    known, rng = Context(Ball(1.0, 5), layer_moments(layer, x)), np.random.default_rng(0)
    kept = [set(Greedy().select(layer, m, known, rng).kept.tolist()) for m in (1, 10, 60, 99, 100)]
    assert [len(k) for k in kept] == [1, 10, 60, 99, 100]
    assert all(a < b for a, b in pairwise(kept))


@pytest.mark.parametrize("half", [10, 60])
def test_no_duplicate_is_picked_before_all_others(half: int) -> None:
    rng = np.random.default_rng(1)
    doubled = neurons(half, 20, rng).take(np.repeat(np.arange(half), 2))
    layer = HiddenLayer(2 * half, (readout(doubled, 5, rng),))
    assert sorted(j // 2 for j in order(layer)[:half]) == list(range(half))


def test_a_dead_neuron_is_picked_last() -> None:
    features = neurons(30, 5, np.random.default_rng(1))
    bias = np.array(features.bias)
    bias[3] = -1e3
    dead = type(features)(features.incoming, bias, features.activation)
    assert order(HiddenLayer(30, (readout(dead, 4, np.random.default_rng(2)),)))[-1] == 3


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_features_of_low_rank_are_ordered_without_failing(ridge: float) -> None:
    part = target(100, 4, 1, rank=5)
    assert sorted(forward((part,), ridge).tolist()) == list(range(100))
