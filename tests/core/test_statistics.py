"""Statements about draws that were not seen: against binomials summed by hand, and how often they hold."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset.core.statistics import (
    clopper_pearson,
    conformal_claim,
    draws_for,
    exceedance,
    order_claim,
    rank_for,
)

counts = st.integers(1, 60)
shares = st.floats(0.001, 0.6)


def binomial(most: int, count: int, share: float) -> float:
    """P(Binomial(count, share) <= most)."""
    return sum(comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(most + 1))


@given(counts, shares, st.data())
def test_the_least_probability_is_where_the_binomial_meets_delta(count: int, delta: float, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, count))
    p = exceedance(count, delta, rank)
    assert 0 < p <= 1 and binomial(rank - 1, count, p) <= delta * (1 + 1e-12)
    assert binomial(rank - 1, count, p * (1 - 1e-6)) > delta


def test_the_largest_of_many_has_a_closed_form() -> None:
    assert exceedance(1000, 0.01) == pytest.approx(1 - 0.01**0.001, rel=1e-8)
    assert draws_for(0.001, 0.001) == 6905
    assert exceedance(6905, 0.001) <= 0.001 < exceedance(6904, 0.001)


@given(counts, shares, shares)
def test_the_rank_is_the_largest_that_can_be_claimed(count: int, delta: float, p: float) -> None:
    rank = rank_for(count, delta, p)
    if rank is not None:
        assert 1 <= rank <= count and binomial(rank - 1, count, p) <= delta
    following = 1 if rank is None else rank + 1
    assert following > count or binomial(following - 1, count, p) > delta * (1 - 1e-6)


@given(st.integers(1, 40), shares, st.data())
def test_the_interval_ends_where_a_tail_is_half_of_delta(count: int, delta: float, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    low, high = clopper_pearson(hits, count, delta)
    assert 0 <= low <= hits / count <= high <= 1
    assert (low == 0) == (hits == 0) and (high == 1) >= (hits == count)
    if hits < count and high < 1:
        # The end is moved out by about 1e-9 of itself, which changes 1 - high, to the power of N, by this at most.
        moved = count * 2e-9 / (1 - high)
        assert binomial(hits, count, high) == pytest.approx(delta / 2, rel=1e-5 + moved)
    if hits > 0:
        # What is taken from 1 is known to a few units of 1 only.
        assert 1 - binomial(hits - 1, count, low) == pytest.approx(delta / 2, rel=1e-5, abs=64 * 2.0**-53)


def test_a_claim_takes_the_error_of_its_rank() -> None:
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 201.0))
    most = order_claim(errors, 0.05)
    assert most is not None and (most.exceeds, most.probability) == (200.0, exceedance(200, 0.05))
    tenth = order_claim(errors, 0.05, 0.1)
    rank = rank_for(200, 0.05, 0.1)
    assert tenth is not None and rank is not None and rank > 1 and tenth.exceeds == 201.0 - rank
    assert order_claim(errors, 0.05, 0.001) is None and order_claim(errors[:0], 0.05) is None
    conformal = conformal_claim(errors, 0.1)
    assert conformal is not None and conformal.exceeds == np.sort(errors)[int(np.ceil(201 * 0.9)) - 1]
    least = conformal_claim(errors)
    assert least is not None and (least.exceeds, least.probability) == (200.0, 1 / 201)
    assert conformal_claim(errors, 0.004) is None and conformal_claim(errors[:0]) is None
    # One in a hundred takes 99 held-back draws.
    assert conformal_claim(errors[:99], 0.01) is not None and conformal_claim(errors[:98], 0.01) is None


def held(times: int, count: int, chance: float) -> bool:
    """Whether as many of `count` as `times` is no surprise, one in a million, where each happens at least so often."""
    return binomial(times, count, chance) > 1e-6


@pytest.mark.parametrize(("count", "p"), [(40, None), (80, 0.1), (150, 0.05)])
@pytest.mark.parametrize("rounded", [False, True])
def test_order_statements_hold_as_often_as_they_say(count: int, p: float | None, rounded: bool) -> None:
    rng, delta, trials, right = np.random.default_rng([count, rounded]), 0.1, 400, 0
    for _ in range(trials):
        draws = rng.exponential(size=count)
        claim = order_claim(np.floor(4 * draws) / 4 if rounded else draws, delta, p)
        assert claim is not None
        # Of an exponential variable, exceeding the next step is exceeding the step of its rounded self.
        beyond = np.exp(-(claim.exceeds + 0.25 if rounded else claim.exceeds))
        right += int(beyond <= claim.probability)
    assert held(right, trials, 1 - delta)
    # Of a continuous law the largest is no more cautious than it must be.
    assert rounded or p is not None or binomial(trials - right, trials, delta) > 1e-6


def test_intervals_and_conformal_quantiles_hold_as_often_as_they_say() -> None:
    rng, trials, covered, below = np.random.default_rng(5), 500, 0, 0
    for _ in range(trials):
        low, high = clopper_pearson(int(rng.binomial(60, 0.07)), 60, 0.1)
        covered += int(low <= 0.07 <= high)
        draws = rng.standard_normal(31)
        claim = conformal_claim(draws[:30], 0.2)
        assert claim is not None
        below += int(draws[30] <= claim.exceeds)
    assert held(covered, trials, 0.9) and held(below, trials, 0.8)
    # 25 of 31: the quantile itself, and not the next one.
    assert binomial(trials - below, trials, 6 / 31) > 1e-6


@pytest.mark.parametrize(("count", "delta"), [(0, 0.1), (5, 0.0), (5, 1.0), (5, float("nan"))])
def test_what_is_no_sample_or_no_probability_is_refused(count: int, delta: float) -> None:
    for call in (lambda: exceedance(count, delta), lambda: clopper_pearson(0, count, delta)):
        with pytest.raises(ValueError, match="probabilities"):
            call()
    with pytest.raises(ValueError, match="rank"):
        exceedance(5, 0.1, 6)
    with pytest.raises(ValueError, match="hits"):
        clopper_pearson(6, 5, 0.1)
