"""Forward selection equals brute force: every gain is the fall of a least-squares error."""

from __future__ import annotations

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
from onnx_coreset.core.methods.target import Target
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


def naive(parts: tuple[Target, ...]) -> list[int]:
    chosen: list[int] = []
    left = list(range(parts[0].correlation.shape[0]))
    while left:
        errors = [sum(objective(part, [*chosen, j]) for part in parts) for j in left]
        chosen.append(left.pop(int(np.argmin(errors))))
    return chosen


def order(layer: HiddenLayer, seed: int = 0) -> list[int]:
    x = np.random.default_rng(8).standard_normal((400, layer.inputs))
    known = Context(Ball(1.0, layer.inputs), layer_moments(layer, x))
    return Greedy().order(layer, known, np.random.default_rng(seed)).tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10), st.integers(1, 5), st.sampled_from([1, 3, 32]))
def test_picks_equal_those_of_brute_force_whatever_the_block(seed: int, n: int, k: int, block: int) -> None:
    part = target(n, k, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_BLOCK", block)
        # The last pick is no choice.
        assert forward((part,), RIDGE).tolist() == naive((part,))


def test_several_targets_are_served_by_the_sum_of_their_gains() -> None:
    parts = (target(10, 3, 1), target(10, 4, 2))
    found = forward(parts, RIDGE).tolist()
    assert found == naive(parts)
    assert found != naive(parts[:1])


@pytest.mark.parametrize("settled", [False, True])
def test_a_gain_is_what_the_error_falls_by(settled: bool) -> None:
    part, chosen = target(15, 4, 3), [2, 9, 5]
    residual = greedy._Residual(part, RIDGE)
    for j in chosen:
        residual.add(j)
    if settled:
        residual.settle(None)
    gains, now = residual.gains(), objective(part, chosen)
    for j in set(range(15)) - set(chosen):
        assert gains[j] == pytest.approx(now - objective(part, [*chosen, j]), rel=1e-8, abs=1e-10 * now)


def test_blocks_change_no_pick_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = plain(200, 30)
    found = order(layer)
    monkeypatch.setattr(greedy, "_BLOCK", 1)
    assert found[:150] == order(layer)[:150]


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
