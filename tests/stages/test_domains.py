"""The domain of a layer: where it comes from, and that what is drawn from in front of it stays inside."""

from __future__ import annotations

import numpy as np
import pytest

from certificate_cases import functions, named
from onnx_coreset.core.activations import Program, Step
from onnx_coreset.core.activations.record import Composite
from onnx_coreset.core.certificates.domains import place
from onnx_coreset.core.domains import BallDomain, BoxDomain, Domain, EllipsoidDomain
from onnx_coreset.core.layer import Neurons
from onnx_coreset.stages.domains import around, propagated, reach

RNG = np.random.default_rng(0)
NAMES = tuple(functions(1, RNG))


def domains(size: int, rng: np.random.Generator) -> list[Domain]:
    low = rng.standard_normal(size)
    return [
        BallDomain(rng.standard_normal(size), float(np.exp(rng.standard_normal()))),
        BoxDomain(low, low + rng.exponential(size=size)),
        EllipsoidDomain(rng.standard_normal(size), rng.standard_normal(size), np.sqrt(size), centred=True),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_neurons_make_of_a_domain_lies_in_what_is_propagated(name: str) -> None:
    rng = np.random.default_rng(3)
    for trial in range(6):
        size, width = int(rng.integers(1, 9)), int(rng.integers(1, 12))
        rows = rng.standard_normal((width, size)) * 10.0 ** (trial - 3)
        neurons = Neurons(rows, rng.standard_normal(width), functions(width, rng)[name])
        for domain in domains(size, rng):
            made = propagated(neurons, domain)
            if made is None:
                continue
            corners = np.sign(rng.standard_normal((200, size)))
            points = np.concatenate([rng.uniform(-1, 1, (400, size)), corners, np.eye(size), -np.eye(size)])
            h = neurons.evaluate(place(domain, points))[:, :, 0]
            if isinstance(made, BoxDomain):
                assert np.all(h >= made.low) and np.all(h <= made.high)
            else:
                assert np.linalg.norm(h - made.centre, axis=1).max() <= made.radius
            assert np.linalg.norm(h, axis=1).max() <= reach(made) * (1 + 1e-12)


def test_a_ball_is_taken_where_it_is_smaller() -> None:
    # Orthogonal directions: the box of two numbers that are never both large has the longer half diagonal.
    turned = np.linalg.qr(RNG.standard_normal((16, 16)))[0]
    ball = propagated(Neurons(turned, np.zeros(16), named("Identity")), BallDomain(np.zeros(16), 2.0, True))
    assert isinstance(ball, BallDomain) and ball.radius == pytest.approx(2.0, rel=1e-3) and ball.proven
    # One direction, one side: the box from 0 is half of the ball.
    one = Neurons(np.ones((1, 1)), np.zeros(1), named("Relu"))
    assert isinstance(propagated(one, BallDomain(np.zeros(1), 2.0)), BoxDomain)


def test_what_has_no_bound_is_none() -> None:
    neurons = Neurons(np.ones((3, 2)), np.zeros(3), Composite(Program((Step("Reciprocal", (0,)),))))
    assert propagated(neurons, BallDomain(np.zeros(2), 1.0)) is None


def test_the_ball_around_samples_holds_all_of_them() -> None:
    first, other = RNG.standard_normal((100, 7)) + 3, 2 * RNG.standard_normal((50, 7))
    ball = around((first, other))
    assert np.allclose(ball.centre, first.mean(axis=0)) and not ball.proven
    away = max(np.linalg.norm(x - ball.centre, axis=1).max() for x in (first, other))
    assert away <= ball.radius <= away * (1 + 1e-8)


@pytest.mark.parametrize("domain", domains(5, np.random.default_rng(1)), ids=["ball", "box", "ellipsoid"])
def test_the_reach_of_a_domain_holds_it(domain: Domain) -> None:
    x = place(domain, RNG.uniform(-1, 1, (2000, 5)))
    assert np.linalg.norm(x, axis=1).max() <= reach(domain) * (1 + 1e-12)
