"""The law of normalised rows: it stays in its ellipsoid, and has the moments that it states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset.core.domains import EllipsoidDomain
from onnx_coreset.core.normed import Normed

COUNT = 40_000


def law(d: int, centred: bool = True, bounded: bool = True, seed: int = 0) -> Normed:
    rng = np.random.default_rng(seed)
    return Normed(0.5 + rng.random(d), rng.standard_normal(d), centred, bounded)


@given(st.integers(1, 60), st.booleans(), st.integers(0, 2**32))
def test_samples_never_leave_the_domain(d: int, centred: bool, seed: int) -> None:
    normed = law(d, centred, seed=seed)
    domain = normed.domain
    assert domain is not None and domain.proven and domain.centred == centred
    x = normed.sample(20, np.random.default_rng(seed))
    for rows in (x, x.astype(np.float32).astype(np.float64)):
        assert domain.inside(rows).all()
        u = (rows - domain.centre) / domain.gain
        assert np.all(np.linalg.norm(u, axis=1) <= domain.radius)
        assert np.all(np.linalg.norm(rows - domain.centre, axis=1) <= domain.reach)
    if centred:
        # d roundings of numbers up to the root of d, divided by gamma of at least 1/2 after a shift of about 3.
        assert np.all(np.abs(((x - domain.centre) / domain.gain).sum(axis=1)) <= 40 * d * 2.0**-52)


def test_what_lies_outside_is_told() -> None:
    domain = EllipsoidDomain(np.array([2.0, 0.0, -1.0]), np.ones(3), 1.5)
    x = np.array([[1.0, 1, 1], [4, 1, 1], [4.001, 1, 1], [1, 1, -0.5], [1, 1, -0.501], [1, 1.001, 1], [3.5, 1, 2.5]])
    assert domain.inside(x).tolist() == [True, True, False, True, False, False, False]


def test_a_batch_norm_is_bounded_by_nothing() -> None:
    assert law(5, False, bounded=False).domain is None


@pytest.mark.parametrize(("d", "centred", "bounded"), [(64, True, True), (64, False, True), (3, False, False)])
def test_samples_have_the_moments_of_the_component_at_five_sigma(d: int, centred: bool, bounded: bool) -> None:
    normed = law(d, centred, bounded)
    components = normed.components()
    assert components is not None
    (part,) = components
    assert part.mean is not None and part.root is not None
    x = normed.sample(COUNT, np.random.default_rng(1)) - part.mean
    assert np.all(np.abs(x.mean(axis=0)) <= 5 * x.std(axis=0) / np.sqrt(COUNT))
    covariance = part.scale**2 * part.root @ part.root.T
    error = 5 * np.sqrt((x**2).T @ x**2 / COUNT) / np.sqrt(COUNT)
    assert np.all(np.abs(x.T @ x / COUNT - covariance) <= error)
    # The mean of ||u||^2, which on a sphere every sample has.
    assert np.sum(np.diag(covariance) / normed.gamma**2) == pytest.approx(d, rel=1e-12)


def test_a_sphere_of_few_dimensions_is_not_taken_for_normal() -> None:
    assert law(63).components() is None
    assert law(63, bounded=False).components() is not None


@given(st.integers(1, 20), st.booleans(), st.integers(0, 2**32))
def test_folded_neurons_see_the_same_and_have_the_shortest_rows(d: int, centred: bool, seed: int) -> None:
    normed, rng = law(d, centred, seed=seed), np.random.default_rng(seed)
    domain = normed.domain
    assert domain is not None
    incoming, bias = rng.standard_normal((4, d)), rng.standard_normal(4)
    weights, offsets = domain.folded(incoming, bias)
    u = rng.standard_normal((5, d))
    u -= u.mean(axis=1, keepdims=True) if centred else 0.0
    x = domain.gain * u + domain.shift
    np.testing.assert_allclose(u @ weights.T + offsets, x @ incoming.T + bias, atol=1e-12)
    longest = np.linalg.norm(incoming * domain.gain, axis=1)
    assert np.all(np.linalg.norm(weights, axis=1) <= longest * (1 + 1e-12))
    if centred:
        assert np.all(np.abs(weights.sum(axis=1)) <= 1e-13 * d)


def test_what_is_no_ellipsoid_is_refused() -> None:
    with pytest.raises(ValueError, match="no ellipsoid"):
        EllipsoidDomain(np.ones(3), np.ones(2), 1.0)
    with pytest.raises(ValueError, match="no ellipsoid"):
        EllipsoidDomain(np.ones(3), np.ones(3), -1.0)
    with pytest.raises(ValueError, match="does not fit"):
        Normed(np.ones(3), np.ones(2), True)
