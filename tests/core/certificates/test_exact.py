"""Cases solved by hand: what each bound must give, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from certificate_cases import RELU, named, of
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates import BallDomain, BoxDomain, EllipsoidDomain, certify
from onnx_coreset.core.certificates.domains import Domain
from onnx_coreset.core.certificates.forms import even, interval, local
from onnx_coreset.core.certificates.linear import linear
from onnx_coreset.core.domains import ENTRY, TILT
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout


def one(p: Array, b: Array, w: Array, f: object = RELU) -> HiddenLayer:
    return HiddenLayer(len(b), (Readout(Neurons(p, b, f), np.asarray(w, dtype=float)[None, :, None], np.zeros(1)),))


def nothing(d: int, f: object = RELU) -> HiddenLayer:
    return one(np.zeros((1, d)), np.zeros(1), np.zeros(1), f)


def certified(before: HiddenLayer, where: Domain) -> float:
    found = certify(before, nothing(where_size(where)), where, "tight", np.random.default_rng(0))
    assert found is not None
    return float(found.certified[0])


def where_size(where: Domain) -> int:
    return len(
        where.centre if isinstance(where, BallDomain) else where.low if isinstance(where, BoxDomain) else where.gain
    )


# D = relu(x1) + relu(-x1) = |x1|: 2 at the ends of a ball of radius 2, and intervals, which see 2 neurons, say 4.
PAIR = one(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.zeros(2), np.array([1.0, 1.0]))
BALL = BallDomain(np.zeros(2), 2.0)
BOX = BoxDomain(np.array([-2.0, -1.0]), np.array([2.0, 1.0]))


def test_interval_sums_the_ranges() -> None:
    form = interval(of(PAIR, nothing(2), BALL))
    assert form.constant + form.slack == pytest.approx([4.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("where", [BALL, BOX])
def test_linear_is_the_chord(where: Domain) -> None:
    # |x1| at most its chord, the constant 2; -|x1| at most 0.
    made = of(PAIR, nothing(2), where)
    values = linear(even(made), made.frame.rows, made.frame.reach, made.frame.ball)
    assert values == pytest.approx([2.0, 0.0], abs=1e-12)


def test_linear_of_the_local_form_is_the_largest_slope() -> None:
    # tanh(x) on [-2, 2] from 0: slopes in [1 - tanh(2)^2, 1], so at most 2.
    made = of(
        one(np.array([[1.0]]), np.zeros(1), np.ones(1), named("Tanh")),
        nothing(1, named("Tanh")),
        BallDomain(np.zeros(1), 2.0),
    )
    values = linear(local(made), made.frame.rows, made.frame.reach, True)
    assert values == pytest.approx([2.0, 2.0], abs=1e-11)


@pytest.mark.parametrize("where", [BALL, BOX])
def test_affine_is_exact_on_an_absolute_value(where: Domain) -> None:
    assert certified(PAIR, where) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize(("where", "value"), [(BALL, 2.0 * np.sqrt(2.0)), (BOX, 3.0)])
def test_affine_is_exact_on_orthogonal_terms(where: Domain, value: float) -> None:
    # |x1| + |x2|: at the ball's diagonal, and at the box's corner.
    p = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert certified(one(p, np.zeros(4), np.ones(4)), where) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("where", "value"), [(BALL, 0.5), (BOX, 0.5)])
def test_affine_sees_terms_of_both_signs_cancel(where: Domain, value: float) -> None:
    # |x1 + 1/4| - |x1 - 1/4| is at most 1/2: no bound that takes the terms apart says less than 2. Multipliers of what
    # cancels are 0, and floors on them cost a percent.
    p = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    b = np.array([0.25, -0.25, -0.25, 0.25])
    assert certified(one(p, b, np.array([1.0, 1.0, -1.0, -1.0])), where) == pytest.approx(value, rel=2e-2)


def test_affine_is_exact_on_a_ramp_beside_a_bias() -> None:
    # relu(x + 1/2) on [-1, 1].
    assert certified(one(np.ones((1, 1)), np.array([0.5]), np.ones(1)), BallDomain(np.zeros(1), 1.0)) == pytest.approx(
        1.5, rel=1e-6
    )


def test_a_stable_layer_is_a_norm() -> None:
    # All neurons are on: D = (w P) x + w b, on a ball of radius 1/2 around (1, 1).
    p, b, w = np.array([[1.0, 0.5], [0.3, 2.0]]), np.array([3.0, 2.0]), np.array([1.0, -2.0])
    row = w @ p
    value = abs(row.sum() + w @ b) + 0.5 * np.linalg.norm(row)
    assert certified(one(p, b, w), BallDomain(np.ones(2), 0.5)) == pytest.approx(value, rel=1e-11)


def test_a_centred_ellipsoid_has_no_mean() -> None:
    # relu(s) - relu(-s) = s for s = the sum of all inputs, which are gain * u with sum u = 0, gain 1: always 0.
    p = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    pair = one(p, np.zeros(2), np.array([1.0, -1.0]))
    centred = EllipsoidDomain(np.ones(3), np.zeros(3), np.sqrt(3.0), centred=True)
    # But for what single precision leaves of the sum, and of each of the entries.
    assert certified(pair, centred) <= 2 * (3 * TILT + 4 * ENTRY) * 1.01
    free = EllipsoidDomain(np.ones(3), np.zeros(3), np.sqrt(3.0))
    assert certified(pair, free) == pytest.approx(3.0, rel=1e-6)


def test_a_point_is_its_value() -> None:
    x = np.array([0.3, -0.7])
    before = one(np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([0.1, 2.0]), np.array([1.0, -3.0]), named("Gelu"))
    value = abs(before.evaluate(x[None])[0].item())
    assert certified(before, BallDomain(x, 0.0)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", ["Relu", "Gelu", "Tanh", "Softplus"])
def test_layers_that_are_equal_differ_by_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    p, b, w = rng.standard_normal((20, 5)), rng.standard_normal(20), rng.standard_normal(20)
    same = one(p, b, w, named(name))
    found = certify(same, one(p[::-1], b[::-1], w[::-1], named(name)), BallDomain(np.zeros(5), 3.0))
    assert found is not None and found.certified[0] == 0.0 == found.attacked[0]


def test_duplicates_cost_nothing() -> None:
    # Two copies of a neuron against one with their sum: merged into one of weight 0, up to rounding.
    rng = np.random.default_rng(2)
    p, b = rng.standard_normal((3, 4)), rng.standard_normal(3)
    twice = one(np.concatenate([p, p]), np.concatenate([b, b]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    found = certify(twice, one(p, b, np.array([0.5, 0.7, 0.9])), BallDomain(np.zeros(4), 2.0))
    assert found is not None and 0.0 < found.certified[0] <= 1e-13
