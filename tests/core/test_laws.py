"""Input laws: samples stay where they should, and have the moments that the law states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset.core.laws import Ball, Empirical, Mixture

COUNT = 40_000
LAWS = [Ball(3.0, 5), Ball(0.5, 1, (1.0,)), Ball(2.0, 4, (0.5, 1.0)), Mixture(5), Mixture(2, (2.0,))]


@given(st.integers(1, 40), st.floats(1e-3, 1e6), st.integers(0, 2**32))
def test_ball_samples_never_leave_the_ball_even_when_rounded_to_float32(d: int, radius: float, seed: int) -> None:
    x = Ball(radius, d).sample(50, np.random.default_rng(seed))
    assert np.all(np.linalg.norm(x, axis=1) <= radius)
    assert np.all(np.linalg.norm(x.astype(np.float32).astype(np.float64), axis=1) <= radius)


def test_ball_samples_lie_on_spheres_of_the_stated_radii() -> None:
    x = Ball(2.0, 6, (0.1, 1.0)).sample(200, np.random.default_rng(0))
    norms = np.linalg.norm(x, axis=1)
    # 1e-7 inwards, see the law; 2e-7 leaves room for rounding.
    assert np.all(np.min(np.abs(norms[:, None] - [0.2, 2.0]), axis=1) <= 2e-7 * 2.0)
    assert len({round(norm, 3) for norm in norms}) == 2


def test_the_domain_of_a_ball_is_the_ball() -> None:
    domain = Ball(2.0, 6).domain
    assert domain.radius == 2.0
    np.testing.assert_array_equal(domain.centre, np.zeros(6))


def test_unbounded_and_collected_laws_claim_no_domain() -> None:
    assert Mixture(3).domain is None
    assert Empirical(np.zeros((2, 3))).domain is None


def test_a_ball_of_radius_zero_is_a_point() -> None:
    np.testing.assert_array_equal(Ball(0.0, 3).sample(4, np.random.default_rng(0)), np.zeros((4, 3)))


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_samples_have_the_stated_mean_at_five_sigma(law: Ball | Mixture) -> None:
    mean, covariance = law.moments()
    x = law.sample(COUNT, np.random.default_rng(1))
    assert np.all(np.abs(x.mean(axis=0) - mean) <= 5 * np.sqrt(np.diag(covariance) / COUNT))


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_samples_have_the_stated_covariance_at_five_sigma(law: Ball | Mixture) -> None:
    mean, covariance = law.moments()
    x = law.sample(COUNT, np.random.default_rng(2)) - mean
    products = x[:, :, None] * x[:, None, :]
    # 1e-6: the ball is drawn 1e-7 inwards; it matters where a product has no variance (one input, one scale).
    error = 5 * products.std(axis=0) / np.sqrt(COUNT) + 1e-6 * covariance.max()
    assert np.all(np.abs(products.mean(axis=0) - covariance) <= error)


@pytest.mark.parametrize("law", [*LAWS, Empirical(np.arange(10.0)[:, None])], ids=lambda law: law.name)
def test_equal_generators_draw_equal_samples(law: Ball) -> None:
    first, second = (law.sample(7, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@given(st.integers(1, 20), st.integers(0, 40), st.integers(0, 2**32))
def test_collected_rows_come_back_each_at_most_once_while_there_are_enough(have: int, count: int, seed: int) -> None:
    rows = np.arange(2.0 * have).reshape(have, 2)
    drawn = Empirical(rows).sample(count, np.random.default_rng(seed))
    assert drawn.shape == (count, 2)
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in rows}
    if count <= have:
        assert len({tuple(row) for row in drawn}) == count


def test_collected_rows_are_float64_whatever_they_came_in() -> None:
    assert Empirical(np.ones((3, 2), dtype=np.float32)).sample(2, np.random.default_rng(0)).dtype == np.float64


def test_collected_rows_state_no_moments() -> None:
    assert Empirical(np.zeros((2, 3))).moments() is None
