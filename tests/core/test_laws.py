"""Input laws: samples stay where they should, and have the moments that the law states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset.core.laws import Ball, Empirical, Gaussian, Mixture, Normal

COUNT = 40_000
ROOT = np.random.default_rng(3).standard_normal((3, 2))
NORMAL = [
    Mixture(5),
    Mixture(2, (2.0,)),
    Normal(3, (Gaussian(1.0, np.array([1.0, -2.0, 0.0]), ROOT, 0.5),)),
    Normal(3, (Gaussian(0.2, np.ones(3), ROOT), Gaussian(0.8, None, None, 2.0))),
]
BALLS = [Ball(3.0, 5), Ball(0.5, 1, (1.0,)), Ball(2.0, 4, (0.5, 1.0))]
LAWS = [*BALLS, *NORMAL]


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
    assert Normal(3, (Gaussian(1.0),)).domain is None
    assert Empirical(np.zeros((2, 3))).domain is None


def test_a_ball_of_radius_zero_is_a_point() -> None:
    np.testing.assert_array_equal(Ball(0.0, 3).sample(4, np.random.default_rng(0)), np.zeros((4, 3)))


def stated(parts: tuple[Gaussian, ...], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a mixture of normal distributions."""
    means = [np.zeros(d) if part.mean is None else part.mean for part in parts]
    roots = [part.scale * (np.eye(d) if part.root is None else part.root) for part in parts]
    mean = sum(part.weight * m for part, m in zip(parts, means, strict=True))
    second = sum(
        part.weight * (root @ root.T + np.outer(m, m)) for part, m, root in zip(parts, means, roots, strict=True)
    )
    return mean, second - np.outer(mean, mean)


@pytest.mark.parametrize("law", NORMAL, ids=lambda law: f"{law.name}-{law.dimension}")
def test_samples_have_the_mean_and_covariance_of_the_components_at_five_sigma(law: Mixture | Normal) -> None:
    mean, covariance = stated(law.components(), law.dimension)
    x = law.sample(COUNT, np.random.default_rng(1)) - mean
    assert np.all(np.abs(x.mean(axis=0)) <= 5 * np.sqrt(np.diag(covariance) / COUNT))
    products = x[:, :, None] * x[:, None, :]
    error = 5 * products.std(axis=0) / np.sqrt(COUNT)
    assert np.all(np.abs(products.mean(axis=0) - covariance) <= error)


@pytest.mark.parametrize("law", BALLS, ids=repr)
def test_ball_samples_prefer_no_direction_at_five_sigma(law: Ball) -> None:
    x = law.sample(COUNT, np.random.default_rng(2))
    products = x[:, :, None] * x[:, None, :]
    power = law.radius**2 * np.mean(np.square(law.scales)) / law.dimension
    # 1e-6: the ball is drawn 1e-7 inwards; it matters where a product has no variance (one input, one scale).
    error = 5 * products.std(axis=0) / np.sqrt(COUNT) + 1e-6 * power
    assert np.all(np.abs(products.mean(axis=0) - power * np.eye(law.dimension)) <= error)
    assert np.all(np.abs(x.mean(axis=0)) <= 5 * np.sqrt(power / COUNT))


def test_a_component_of_low_rank_stays_in_its_plane() -> None:
    root = np.random.default_rng(0).standard_normal((6, 2))
    x = Normal(6, (Gaussian(1.0, np.ones(6), root),)).sample(50, np.random.default_rng(1))
    assert np.linalg.matrix_rank(x - 1.0) == 2


@pytest.mark.parametrize("weights", [(), (0.5,), (0.7, 0.7)])
def test_weights_that_do_not_sum_to_one_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        Normal(3, tuple(Gaussian(weight) for weight in weights))


@pytest.mark.parametrize("part", [Gaussian(1.0, np.zeros(2)), Gaussian(1.0, root=np.eye(2))], ids=["mean", "root"])
def test_components_of_another_dimension_are_refused(part: Gaussian) -> None:
    with pytest.raises(ValueError, match="does not fit 3 inputs"):
        Normal(3, (part,))


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


def test_balls_and_collected_rows_are_no_mixture_of_normal_laws() -> None:
    assert Ball(2.0, 6).components() is None
    assert Empirical(np.zeros((2, 3))).components() is None
