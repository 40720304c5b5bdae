"""Broken lines, the eigenvalue that all outputs share, and how time is spent on outputs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from certificate_cases import functions, inputs, layer, of, shrunk
from onnx_coreset.core.certificates import BallDomain, BoxDomain, Certificate, certify
from onnx_coreset.core.certificates.attack import attack, surely
from onnx_coreset.core.certificates.forms import local
from onnx_coreset.core.certificates.kinks import broken, kinked
from onnx_coreset.core.certificates.outputs import Plan, proven
from onnx_coreset.core.certificates.shared import common, shared

NAMES = tuple(functions(1, np.random.default_rng(0)))


@pytest.mark.parametrize("name", NAMES)
def test_a_function_lies_within_its_broken_line_and_rest(name: str) -> None:
    rng = np.random.default_rng(len(name))
    before = layer("plain", 8, 3, 2, rng, functions(8, rng)[name])
    difference = of(before, shrunk(before, rng, "moved"), BallDomain(rng.standard_normal(3), 2.0))
    found = broken(difference, 3)
    for share in np.linspace(0.0, 1.0, 2001):
        t = difference.low + (difference.high - difference.low) * share
        line = found.lin * t + (found.mags * np.abs(t[:, None] - found.knots)).sum(axis=1)
        rest = difference.activation(t) - line
        assert np.all(rest >= found.low - 1e-9 * np.abs(found.low) - 1e-12)
        assert np.all(rest <= found.high + 1e-9 * np.abs(found.high) + 1e-12)


@pytest.mark.parametrize("name", ["Gelu", "Tanh"])
def test_more_kinks_leave_less(name: str) -> None:
    rng = np.random.default_rng(0)
    before = layer("plain", 20, 3, 2, rng, functions(20, rng)[name])
    difference = of(before, shrunk(before, rng), BallDomain(np.zeros(3), 2.0))
    widths = [float(np.mean(found.high - found.low)) for found in (broken(difference, count) for count in (1, 4, 16))]
    # The error of q pieces falls as q^-2, from where they are short beside the place that bends.
    assert widths[1] <= 0.6 * widths[0] and widths[2] <= 0.25 * widths[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("box", [False, True])
def test_the_form_of_broken_lines_is_above_the_difference(name: str, box: bool) -> None:
    rng = np.random.default_rng(box)
    before = layer("plain", 12, 4, 3, rng, functions(12, rng)[name])
    domain = BoxDomain(-np.ones(4), np.ones(4)) if box else BallDomain(np.zeros(4), 1.5)
    difference = of(before, shrunk(before, rng), domain)
    form, rows, _ = kinked(difference, 3)
    x = inputs(domain, 300, 4, rng)
    y = x if box else x / 1.5
    values = form.constant + y @ (form.lin @ rows).T + np.abs(y @ rows.T + form.offset) @ form.weights.T + form.slack
    reached = difference.activation(x @ difference.incoming.T + difference.bias) @ difference.weights.T
    reached = np.concatenate([reached + difference.constant, -reached - difference.constant], axis=1)
    assert np.all(values >= reached - 1e-9 * (1.0 + np.abs(reached)))


@pytest.mark.parametrize(("box", "value"), [(False, np.sqrt(2.0)), (True, 2.0)])
def test_orthogonal_rows_share_an_eigenvalue_that_is_solved_by_hand(box: bool, value: float) -> None:
    # D = relu(y1) + relu(y2) with rows of norm 1: slopes in [0, 1] in the middle, m = s = 1/2, so that
    # D - D(0) <= sqrt(1 + 1) * 1 on the ball, and sqrt(2) * sqrt(2) in the box.
    rng = np.random.default_rng(0)
    before = layer("plain", 2, 2, 1, rng)
    none = shrunk(before, rng)
    readout = before.readouts[0]
    part = type(readout.features)(np.eye(2), np.zeros(2), readout.features.activation)
    before = type(before)(2, (type(readout)(part, np.ones((1, 2, 1)), np.zeros(1)),))
    none = type(none)(1, (type(readout)(part.take(np.array([0])), np.zeros((1, 1, 1)), np.zeros(1)),))
    domain = BoxDomain(-np.ones(2), np.ones(2)) if box else BallDomain(np.zeros(2), 1.0)
    difference = of(before, none, domain)
    form = local(difference)
    found = shared(form, common(form, difference.frame.rows, difference.frame.ball))
    np.testing.assert_allclose(found, [value, value], rtol=1e-9)


def test_many_neurons_are_bounded_by_half_of_what_ranges_and_lines_say() -> None:
    rng = np.random.default_rng(1)
    before = layer("plain", 400, 400, 5, rng)
    domain = BallDomain(np.zeros(400), 2.0)
    found = certify(before, shrunk(before, rng), domain, "fast", rng, seconds=0.0)
    assert found is not None
    assert np.all(found.bounds["shared"] <= 0.5 * np.fmin(found.bounds["interval"], found.bounds["linear even"]))
    assert np.all(found.certified >= found.attacked) and np.all(found.attacked > 0)


def test_the_search_goes_by_its_order_and_looks_at_the_rest_when_time_is_out() -> None:
    rng = np.random.default_rng(2)
    before = layer("plain", 2000, 500, 200, rng)
    domain = BallDomain(np.zeros(500), 1.0)
    difference = of(before, shrunk(before, rng), domain)
    order = np.arange(200)[::-1]
    begun = time.monotonic()
    found = attack(difference, domain, 60, 8, rng, deadline=begun + 0.5, order=order)
    middle = surely(difference, domain, np.zeros((1, 500)))[0]
    # The first of the order are searched for, the others see those inputs or the middle.
    gain = found.value - middle
    assert np.all(gain >= 0) and gain[-1] > 4.0 * np.median(gain[:100])
    direct = surely(difference, domain, found.worst)
    np.testing.assert_allclose(np.diagonal(direct), found.value, rtol=1e-6, atol=1e-9)


def test_a_form_that_would_not_reach_all_outputs_is_left_to_a_cheaper_one() -> None:
    rng = np.random.default_rng(3)
    before = layer("plain", 60, 4, 40, rng, functions(60, rng)["Tanh"])
    domain = BallDomain(np.zeros(4), 3.0)
    difference = of(before, shrunk(before, rng), domain)
    plan, at_leisure = Plan((10, 8), (10, 8), (5, 2)), time.monotonic() + 1000.0
    bounds, _ = proven(difference, domain, plan, rng, at_leisure, 1)
    assert np.isfinite(bounds["affine broken"]).all()
    in_haste, _ = proven(difference, domain, plan, rng, time.monotonic() + 0.3, 1)
    assert not np.isfinite(in_haste["affine broken"]).any()
    assert np.isfinite(in_haste["shared"]).all()


def test_with_a_goal_only_what_decides_is_made_small() -> None:
    rng = np.random.default_rng(5)
    before, domain = layer("plain", 60, 30, 12, rng), BallDomain(np.zeros(30), 3.0)
    after = shrunk(before, rng)
    every = certify(before, after, domain, "fast", np.random.default_rng(0))
    assert every is not None

    def bounded(enough: np.ndarray) -> Certificate:
        found = certify(before, after, domain, "fast", np.random.default_rng(0), enough=enough)
        assert found is not None and np.all(found.attacked <= found.certified)
        return found

    cheap = np.min([every.bounds[name] for name in ("interval", "linear even", "linear local", "shared")], axis=0)
    tight = every.certified + every.rounding
    # Half of the outputs are below their goals by what is cheap: nothing is spent on them, and enough on the others.
    goal = np.where(np.arange(12) < 6, 1.01 * cheap + every.rounding, 1.05 * tight)
    found = bounded(goal)
    assert np.all(found.certified + found.rounding <= goal)
    assert not np.isfinite(found.bounds["affine even"][:6]).any() and np.isfinite(found.bounds["affine even"][6:]).all()
    # One that surely errs more ends it before anything is spent, and one that cannot be shown not to ends it soon.
    sure = bounded(np.where(np.arange(12) == 3, 0.9 * every.attacked, 1.05 * tight))
    assert not np.isfinite(sure.bounds["affine even"]).any() and sure.attacked[3] > 0.9 * every.attacked[3]
    unsure = bounded(0.5 * (every.attacked + every.rounding + tight))
    assert np.any(unsure.certified + unsure.rounding > 0.5 * (every.attacked + every.rounding + tight))


def test_with_a_goal_few_inputs_are_halved_until_it_is_met() -> None:
    rng = np.random.default_rng(6)
    before, domain = layer("plain", 30, 2, 3, rng), BoxDomain(-np.ones(2), np.ones(2))
    after = shrunk(before, rng)
    every = certify(before, after, domain, "tight", np.random.default_rng(0))
    assert every is not None
    goal = 1.05 * every.attacked + every.rounding
    found = certify(before, after, domain, "fast", np.random.default_rng(0), enough=goal)
    assert found is not None and np.all(found.certified + found.rounding <= goal)
