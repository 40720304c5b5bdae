"""Domains, the coordinates in which each is a unit ball or box, and the difference of two layers in them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certificate_cases import DOMAINS, KINDS, domain, functions, inputs, layer, named, of, points, shrunk
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates import BallDomain, BoxDomain, EllipsoidDomain
from onnx_coreset.core.certificates.domains import contains, frame, magnitudes
from onnx_coreset.core.certificates.rounding import gamma, norms
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout

UNIT = 2.0**-53


def dot(p: Array, x: list[Fraction]) -> Fraction:
    return sum((Fraction(float(a)) * b for a, b in zip(p, x, strict=True)), Fraction(0))


def exact_input(where: BallDomain | BoxDomain | EllipsoidDomain, y: Array) -> list[Fraction]:
    """The input at a point of the unit ball or box, in exact arithmetic."""
    if isinstance(where, BallDomain):
        return [
            Fraction(float(c)) + Fraction(where.radius) * Fraction(float(v))
            for c, v in zip(where.centre, y, strict=True)
        ]
    if isinstance(where, EllipsoidDomain):
        u = [Fraction(where.radius) * Fraction(float(v)) for v in y]
        mean = sum(u) / len(u) if where.centred else Fraction(0)
        return [
            Fraction(float(g)) * (v - mean) + Fraction(float(s))
            for g, v, s in zip(where.gain, u, where.shift, strict=True)
        ]
    ends = zip(where.low, where.high, y, strict=True)
    return [
        Fraction(float(a)) + (Fraction(float(b)) - Fraction(float(a))) * (Fraction(float(v)) + 1) / 2
        for a, b, v in ends
    ]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(DOMAINS), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_pre_activations_stay_within_noise_and_reach(kind: str, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    where = domain(kind, d, rng)
    p, b = rng.standard_normal((3, d)), rng.standard_normal(3)
    found = frame(where, p, b)
    for y in points(found.ball, 3, d, rng):
        y = y / max(1.0, float(norms(y, True))) if found.ball else y
        x = exact_input(where, y)
        for j in range(3):
            t = dot(p[j], x) + Fraction(float(b[j]))
            there = dot(found.rows[j], [Fraction(float(v)) for v in y]) + Fraction(float(found.offset[j]))
            # In a box the coordinates of a point may differ by their own rounding: the box was made wider.
            wider = 4 * UNIT * float(np.abs(found.rows[j]).sum()) if isinstance(where, BoxDomain) else 0.0
            assert abs(t - there) <= found.noise[j] + wider
            assert abs(t - Fraction(float(found.offset[j]))) <= found.reach[j] + found.noise[j]
            assert sum(abs(Fraction(float(a)) * v) for a, v in zip(p[j], x, strict=True)) <= magnitudes(where, p)[j]


@pytest.mark.parametrize("kind", DOMAINS)
def test_inputs_lie_inside_and_others_do_not(kind: str) -> None:
    rng = np.random.default_rng(1)
    where = domain(kind, 5, rng)
    x = inputs(where, 200, 5, rng)
    assert contains(where, x).all()
    if isinstance(where, BallDomain):
        assert np.all(np.linalg.norm(x - where.centre, axis=1) <= where.radius)
        # Drawn inwards by rounding alone: the border is reached.
        assert np.linalg.norm(x - where.centre, axis=1).max() >= where.radius * (1 - 1e-10)
    assert not contains(where, x + 10.0).any()


def test_a_centred_ellipsoid_holds_no_vector_with_a_sum() -> None:
    where = EllipsoidDomain(np.full(3, 2.0), np.ones(3), 1.0, centred=True)
    assert contains(where, 1.0 + 2.0 * np.array([[0.5, -0.5, 0.0]])).all()
    assert not contains(where, 1.0 + 2.0 * np.array([[0.5, 0.0, 0.0], [0.8, -0.8, 0.0]])).any()


def test_domains_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no box"):
        BoxDomain(np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="negative"):
        frame(BallDomain(np.zeros(2), -1.0), np.ones((1, 2)), np.zeros(1))
    with pytest.raises(ValueError, match="does not fit"):
        frame(BallDomain(np.zeros(3), 1.0), np.ones((1, 2)), np.zeros(1))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([k for k in KINDS if k != "huge"]),
    st.sampled_from(("Relu", "Gelu", "PRelu", "Composite")),
    st.integers(0, 2**32 - 1),
)
def test_a_difference_is_the_difference(kind: str, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = 12, 4
    before = layer(kind, n, d, 3, rng, functions(n, rng)[name])
    after, where = shrunk(before, rng), domain("ball", d, rng)
    made = of(before, after, where)
    # What was kept was merged with what it was: no neuron is there twice.
    assert made.low.size <= n
    x = inputs(where, 50, d, rng)
    found = made.activation(x @ made.incoming.T + made.bias) @ made.weights.T + made.constant
    sizes = [
        np.abs(side.readouts[0].outgoing[:, :, 0]) @ np.abs(side.readouts[0].features.evaluate(x)[:, :, 0]).T
        for side in (before, after)
    ]
    scale = (sizes[0] + sizes[1]).T + np.abs(before.readouts[0].constant) + np.abs(after.readouts[0].constant)
    # Pre-activations are computed in another order: relative to themselves, unless they cancel.
    moved = np.abs(made.weights) @ (np.abs(made.incoming) @ np.abs(x).T + np.abs(made.bias)[:, None])
    slack = 20 * gamma(n + d) * (scale + 3.0 * moved.T)
    assert np.all(np.abs(found - (before.evaluate(x)[0] - after.evaluate(x)[0])) <= slack + 1e-300)
    t = x @ made.incoming.T + made.bias
    assert np.all((t >= made.low - 1e-12 * np.abs(t)) & (t <= made.high + 1e-12 * np.abs(t)))


def test_equal_rows_with_other_slopes_are_other_neurons() -> None:
    p, b = np.ones((2, 3)), np.zeros(2)

    def one(slopes: Array) -> HiddenLayer:
        return HiddenLayer(2, (Readout(Neurons(p, b, named("PRelu", slopes)), np.ones((1, 2, 1)), np.zeros(1)),))

    where = BallDomain(np.zeros(3), 1.0)
    assert of(one(np.array([0.1, 0.2])), one(np.array([0.2, 0.1])), where).low.size == 0
    assert of(one(np.array([0.1, 0.2])), one(np.array([0.1, 0.3])), where).low.size == 2


def test_doubts_hold_the_rounding_of_weights() -> None:
    # Three weights 0.1, 0.2 and -0.3 of one neuron: their exact sum is not 0, and the doubt says by how much.
    p = np.ones((3, 2))
    before = HiddenLayer(
        2, (Readout(Neurons(p[:2], np.zeros(2), named("Relu")), np.array([[[0.1], [0.2]]]), np.zeros(1)),)
    )
    after = HiddenLayer(1, (Readout(Neurons(p[:1], np.zeros(1), named("Relu")), np.array([[[0.3]]]), np.zeros(1)),))
    made = of(before, after, BallDomain(np.zeros(2), 1.0))
    exact = Fraction(0.1) + Fraction(0.2) - Fraction(0.3)
    assert exact != 0 and abs(exact - Fraction(float(made.weights[0, 0]))) <= made.doubt[0, 0]
