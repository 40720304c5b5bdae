"""Widths of many chains under one budget: what is found is as good as the best of all plans, or nearly."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_coreset.core.budget import Curve, phi, predicted, within_error, within_parameters
from onnx_coreset.core.tally import Axis, Reader, Tally, Tensor

seeds = st.integers(0, 10**6)


def perceptron(sizes: tuple[int, ...]) -> Tally:
    """A perceptron of these sizes with biases; its chains are what lies between the ends."""
    full, tensors = sizes[1:-1], []

    def axis(place: int) -> Axis:
        return Axis(sizes[place], ((place - 1, 1),) if 0 < place < len(sizes) - 1 else ())

    for place in range(1, len(sizes)):
        touched = frozenset(c for c in (place - 2, place - 1) if 0 <= c < len(full))
        for axes in ((axis(place), axis(place - 1)), (axis(place),)):
            size = int(np.prod([a.length for a in axes]))
            tensors.append(Tensor(size, (Reader(axes, touched),)))
    return Tally(full, sum(t.size for t in tensors), tuple(tensors))


def falling(rng: np.random.Generator, width: int, gain: float) -> Curve:
    """Errors that never rise with the width, and end with 0."""
    steps = rng.random(width - 1) ** 3
    errors = np.append(np.cumsum(steps[::-1])[::-1] / steps.sum(), 0.0) * rng.uniform(0.3, 1.5)
    return Curve(np.arange(1, width + 1), phi(gain, errors))


def loss(curves: list[Curve], widths: tuple[int, ...]) -> float:
    return float(sum(c.losses[list(c.widths).index(m)] for c, m in zip(curves, widths, strict=True)))


def every_plan(curves: list[Curve]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(map(int, c.widths) for c in curves)))


@settings(max_examples=30)
@given(seed=seeds, share=st.floats(0.2, 1.0))
def test_no_plan_within_the_parameters_is_much_better(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    tally = perceptron((7, 9, 6, 8, 3))
    curves = [falling(rng, n, rng.uniform(0.5, 2.0)) for n in tally.full]
    most = int(share * tally.total)
    found = within_parameters(curves, tally, most)
    fitting = [plan for plan in every_plan(curves) if tally.count(plan) <= most]
    if not fitting:
        assert found == (1, 1, 1)
        return
    assert tally.count(found) <= most
    # A price finds the plans of the convex hull; what lies between two of its corners is at most a step away.
    best = min(loss(curves, plan) for plan in fitting)
    step = max(float(np.max(-np.diff(c.losses))) for c in curves)
    assert loss(curves, found) <= best + step


@settings(max_examples=30)
@given(seed=seeds, share=st.floats(0.01, 1.0))
def test_no_plan_within_the_error_is_much_smaller(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    tally = perceptron((7, 9, 6, 8, 3))
    curves = [falling(rng, n, rng.uniform(0.5, 2.0)) for n in tally.full]
    most = share * predicted(curves, (1, 1, 1))
    found = within_error(curves, tally, most)
    assert loss(curves, found) <= most**2
    best = min(tally.count(plan) for plan in every_plan(curves) if loss(curves, plan) <= most**2)
    # One width more of each chain is at most a row and a column of its neighbours, as wide as they were.
    assert tally.count(found) <= best + sum((7 + 6 + 1, 9 + 8 + 1, 6 + 3 + 1)) * 2


@settings(max_examples=50)
@given(seed=seeds, share=st.floats(0.3, 1.0))
def test_of_two_small_chains_the_best_plan_is_found(seed: int, share: float) -> None:
    """Between the corners of the hull too, where no price leads."""
    rng = np.random.default_rng(seed)
    tally = perceptron((9, 6, 6, 3))
    curves = [falling(rng, n, rng.uniform(0.5, 2.0)) for n in tally.full]
    most, bound = int(share * tally.total), share * predicted(curves, (1, 1))
    plans = every_plan(curves)
    least = min(loss(curves, plan) for plan in plans if tally.count(plan) <= most)
    assert loss(curves, within_parameters(curves, tally, most)) == pytest.approx(least, rel=1e-9)
    fewest = min(tally.count(plan) for plan in plans if loss(curves, plan) <= bound**2 * (1 - 1e-12))
    assert tally.count(within_error(curves, tally, bound)) <= fewest


def sharing() -> Tally:
    """Three chains; the first two share their weights, the third one has its own."""
    readers = tuple(Reader((Axis(8, ((c, 1),)), Axis(9)), frozenset({c})) for c in (0, 1))
    own = Reader((Axis(8, ((2, 1),)), Axis(6)), frozenset({2}))
    return Tally((8, 8, 8), 72 + 48, (Tensor(72, readers), Tensor(48, (own,))))


@settings(max_examples=30)
@given(seed=seeds, share=st.floats(0.2, 1.0))
def test_layers_that_share_are_weighed_against_those_that_do_not(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    tally, most = sharing(), int(share * 120)
    curves = [falling(rng, n, rng.uniform(0.5, 2.0)) for n in tally.full]
    fitting = [plan for plan in every_plan(curves) if tally.count(plan) <= most]
    found = within_parameters(curves, tally, most)
    if fitting:
        best = min(loss(curves, plan) for plan in fitting)
        step = max(float(np.max(-np.diff(c.losses))) for c in curves)
        assert tally.count(found) <= most and loss(curves, found) <= best + step


@settings(max_examples=30)
@given(seed=seeds, share=st.floats(0.2, 1.0))
def test_nothing_that_is_left_over_would_have_done(seed: int, share: float) -> None:
    """No chain alone can be wider within the parameters, or narrower within the error, to any good."""
    rng = np.random.default_rng(seed)
    tally = perceptron((7, 9, 6, 8, 3))
    curves = [falling(rng, n, rng.uniform(0.5, 2.0)) for n in tally.full]
    most, bound = int(share * tally.total), share * predicted(curves, (1, 1, 1))
    wide, narrow = within_parameters(curves, tally, most), within_error(curves, tally, bound)
    for chain, n in enumerate(tally.full):
        for m in range(1, n + 1):
            wider = (*wide[:chain], m, *wide[chain + 1 :])
            assert tally.count(wider) > most or loss(curves, wider) >= loss(curves, wide)
            narrower = (*narrow[:chain], m, *narrow[chain + 1 :])
            assert loss(curves, narrower) > bound**2 or tally.count(narrower) >= tally.count(narrow)


def test_error_is_spent_where_a_parameter_is_dear() -> None:
    """Two chains with equal curves: the one with a hundred inputs more a neuron is cut further."""
    rows = [Tensor(20 * d, (Reader((Axis(20, ((c, 1),)), Axis(d)), frozenset({c})),)) for c, d in enumerate((110, 10))]
    tally = Tally((20, 20), 2400, tuple(rows))
    curve = Curve(np.arange(1, 21), phi(1.0, 1.0 - np.arange(1, 21) / 20))
    dear, cheap = within_parameters([curve, curve], tally, 1200)
    assert dear < cheap == 20


def test_error_is_spent_where_it_is_not_heard() -> None:
    tally = perceptron((10, 20, 10))
    two = Tally((20, 20), 2 * tally.total, (*tally.tensors, *(moved(t) for t in tally.tensors)))
    errors = 1.0 - np.arange(1, 21) / 20
    loud, soft = (Curve(np.arange(1, 21), phi(gain, errors)) for gain in (10.0, 0.1))
    first, second = within_parameters([loud, soft], two, two.total // 2)
    assert first > 17 and second < 4


def moved(tensor: Tensor) -> Tensor:
    """The same tensor of another chain."""
    readers = tuple(
        Reader(tuple(Axis(a.length, tuple((1, d) for _, d in a.cuts)) for a in r.axes), frozenset({1}))
        for r in tensor.readers
    )
    return Tensor(tensor.size, readers)


def test_chains_that_share_a_weight_are_cut_together_or_not_at_all() -> None:
    readers = tuple(Reader((Axis(10, ((c, 1),)), Axis(10)), frozenset({c})) for c in (0, 1))
    tally = Tally((10, 10), 100, (Tensor(100, readers),))
    curve = Curve(np.arange(1, 11), phi(1.0, 1.0 - np.arange(1, 11) / 10))
    assert tally.count((9, 10)) == 190 and tally.count((4, 4)) == 80
    assert within_parameters([curve, curve], tally, 100) == (10, 10)
    small = within_parameters([curve, curve], tally, 60)
    assert sum(small) == 6


def test_what_costs_nothing_is_not_kept() -> None:
    """Errors are 0 from six neurons on: the rest goes whatever the bound is, and no more under a bound of 0."""
    tally = perceptron((10, 20, 10))
    curve = Curve(np.arange(1, 21), phi(1.0, np.maximum(1.0 - np.arange(1, 21) / 6, 0.0)))
    assert within_parameters([curve], tally, tally.total) == (6,)
    assert within_error([curve], tally, 0.0) == (6,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_error_that_is_not_finite_is_worse_than_any_other(value: float) -> None:
    tally = perceptron((10, 20, 10))
    errors = np.where(np.arange(20) < 12, value, 0.9)
    assert within_parameters([Curve(np.arange(1, 21), phi(1.0, errors))], tally, int(0.7 * tally.total)) >= (13,)


def test_the_penalty_starts_at_a_half_and_doubles_the_loss_at_one() -> None:
    assert phi(3.0, np.array([0.0, 0.25, 0.5, 1.0])).tolist() == [0.0, 9 / 16, 9 / 4, 18.0]


def test_hundreds_of_wide_chains_take_about_a_second() -> None:
    chains, n, d = 200, 3072, 768
    tensors = tuple(
        Tensor(n * d, (Reader((Axis(n, ((c, 1),)), Axis(d)), frozenset({c})),)) for c in range(chains) for _ in "io"
    )
    tally = Tally((n,) * chains, 2 * chains * n * d, tensors)
    rng = np.random.default_rng(0)
    share = np.arange(1, n + 1) / n
    curves = [Curve(np.arange(1, n + 1), phi(1.0, (1.0 - share) ** rng.uniform(0.5, 3.0))) for _ in range(chains)]
    start = time.process_time()
    found = within_parameters(curves, tally, tally.total // 4)
    # A second on an idle core; other work on the machine takes its share of the caches.
    assert time.process_time() - start < 5.0
    assert 0.249 < tally.count(found) / tally.total <= 0.25
