"""A correction is the least-squares fit of what is lacking, and its moments say what it will leave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset.core.refit import RIDGE, Paired, correction

EPS = float(np.finfo(np.float64).eps)
SEEDS = st.integers(0, 2**32 - 1)
ROWS, P, K = 300, 6, 4


def drawn(seed: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features (N, p) far from zero, and what is lacking (N, k), partly a function of them."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((rows, P)) @ rng.standard_normal((P, P)) + 3.0 * rng.standard_normal(P)
    lack = features @ rng.standard_normal((P, K)) + rng.standard_normal((rows, K)) + rng.standard_normal(K)
    return features, lack


def left(features: np.ndarray, lack: np.ndarray, step: np.ndarray, shift: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Mean square of what is lacking still, by output, (k,)."""
    return np.mean((lack - share * (features @ step.T + shift)) ** 2, axis=0)


@given(SEEDS, st.sampled_from([RIDGE, 1e-2, 1.0]), st.booleans())
def test_it_solves_the_stated_ridge_problem(seed: int, ridge: float, free: bool) -> None:
    features, lack = drawn(seed)
    step, shift = correction(Paired.of(features, lack), free, ridge)
    centre = features.mean(axis=0) if free else np.zeros(P)
    middle = lack.mean(axis=0) if free else np.zeros(K)
    a, e = (features - centre) / np.sqrt(ROWS), (lack - middle) / np.sqrt(ROWS)
    size = np.sqrt(np.sum(a**2, axis=0))
    system = np.vstack([a, np.sqrt(ridge) * np.diag(size)])
    wanted = np.linalg.lstsq(system, np.vstack([e, np.zeros((P, K))]), rcond=None)[0].T
    # Normal equations square the condition number of the scaled system.
    loss = 100 * P * EPS * np.linalg.cond(system / size) ** 2
    assert np.allclose(step * size, wanted * size, rtol=0, atol=loss * np.abs(e).sum())
    assert np.array_equal(shift, np.zeros(K)) if not free else np.allclose(shift, middle - step @ centre)


@given(SEEDS)
def test_it_is_never_worse_than_nothing_where_it_was_fitted(seed: int) -> None:
    features, lack = drawn(seed)
    step, shift = correction(Paired.of(features, lack), True)
    assert np.all(left(features, lack, step, shift) <= np.mean(lack**2, axis=0))


def test_what_features_explain_is_made_up_for() -> None:
    features, _ = drawn(1)
    weights, constant = np.arange(1.0, 1 + K * P).reshape(K, P), np.arange(K) - 2.0
    lack = features @ weights.T + constant
    step, shift = correction(Paired.of(features, lack), True)
    # The ridge r leaves at most r over the least eigenvalue of the correlation.
    bias = RIDGE / np.linalg.eigvalsh(np.corrcoef(features.T))[0] + 1e6 * EPS
    assert np.sqrt(left(features, lack, step, shift).max()) <= 10 * bias * np.abs(lack).max()


@given(SEEDS, st.floats(0.0, 1.0))
def test_moments_say_what_a_share_of_it_leaves(seed: int, share: float) -> None:
    features, lack = drawn(seed)
    step, shift = correction(Paired.of(*drawn(seed + 1)), True)
    paired = Paired.of(features, lack)
    along, square = paired.explained(step, shift)
    found = paired.power - 2 * share * along + share**2 * square
    size = np.mean((np.abs(lack) + np.abs(features) @ np.abs(step).T + np.abs(shift)) ** 2, axis=0)
    assert np.all(np.abs(found - left(features, lack, step, shift, share)) <= 10 * (ROWS + P) * EPS * size)


@given(SEEDS, st.lists(st.integers(1, ROWS - 1), min_size=1, max_size=4, unique=True).map(sorted))
def test_moments_of_parts_are_those_of_the_whole(seed: int, cuts: list[int]) -> None:
    features, lack = drawn(seed)
    total = None
    for a, e in zip(np.split(features, cuts), np.split(lack, cuts), strict=True):
        part = Paired.of(a, e)
        total = part if total is None else total.plus(part)
    assert total is not None
    whole = Paired.of(features, lack)
    size = max(np.abs(features).max(), np.abs(lack).max()) ** 2
    assert total.count == whole.count
    for name in ("mean", "gram", "lack", "cross", "power"):
        assert np.allclose(getattr(total, name), getattr(whole, name), rtol=0, atol=10 * ROWS * EPS * max(size, 1.0))


def test_a_feature_that_does_not_vary_gets_nothing_and_twins_share() -> None:
    features, lack = drawn(2)
    features[:, 0] = 7.0
    features[:, 2] = features[:, 1]
    step, shift = correction(Paired.of(features, lack), True)
    assert np.array_equal(step[:, 0], np.zeros(K)) and np.isfinite(step).all()
    # Twins are only told apart by rounding, over the ridge.
    assert np.allclose(step[:, 1], step[:, 2], rtol=0, atol=1e3 * ROWS * EPS / RIDGE * np.abs(step).max())
    assert np.all(left(features, lack, step, shift) <= np.mean(lack**2, axis=0))


@pytest.mark.parametrize("place", ["features", "lack"])
def test_what_is_not_finite_is_refused(place: str) -> None:
    features, lack = drawn(3)
    (features if place == "features" else lack)[5, 1] = np.inf
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="not finite"):
        correction(Paired.of(features, lack), True)
