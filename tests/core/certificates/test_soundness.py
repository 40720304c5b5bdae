"""No input of a domain makes two layers differ by more than any of the bounds says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certificate_cases import DOMAINS, KINDS, RELU, domain, functions, inputs, layer, of, shrunk
from onnx_coreset.core.certificates import BallDomain, BoxDomain, Certificate, certify
from onnx_coreset.core.certificates.attack import surely
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout

NAMES = tuple(functions(1, np.random.default_rng(0)))


def check(found: Certificate | None, reached: np.ndarray) -> None:
    """`reached` (k,) is what differences are at least, with every rounding taken off."""
    assert found is not None
    for name, values in found.bounds.items():
        assert np.all(values >= reached), name
        assert np.all(values >= found.attacked), name
    assert np.all(found.certified >= np.maximum(reached, found.attacked))
    assert np.all(found.certified <= np.min(list(found.bounds.values()), axis=0))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(DOMAINS),
    st.sampled_from(("Relu", *NAMES)),
    st.sampled_from(("kept", "moved")),
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_no_point_of_the_domain_exceeds_a_bound(
    kind: str, where: str, name: str, how: str, n: int, d: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    before = layer(kind, n, d, 2, rng, functions(n, rng)[name])
    after, region = shrunk(before, rng, how), domain(where, d, rng)
    x = inputs(region, 100, d, rng)
    check(certify(before, after, region, "fast", rng), surely(of(before, after, region), region, x).max(axis=0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("box", [False, True])
def test_no_point_of_a_dense_grid_exceeds_a_bound(name: str, box: bool) -> None:
    rng = np.random.default_rng(len(name) + box)
    n = 9
    before = layer("plain", n, 2, 2, rng, functions(n, rng)[name])
    after = shrunk(before, rng)
    side = np.linspace(-1, 1, 301)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    region = BoxDomain(-np.ones(2), np.ones(2)) if box else BallDomain(np.zeros(2), 1.0)
    x = grid if box else grid[np.linalg.norm(grid, axis=1) <= 1 - 1e-12]
    angle = np.linspace(0, 2 * np.pi, 2000)
    x = x if box else np.concatenate([x, (1 - 1e-12) * np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    found = certify(before, after, region, "fast", rng)
    reached = surely(of(before, after, region), region, x).max(axis=0)
    check(found, reached)
    # The search finds what the grid finds, up to the grid's width, unless the function jumps or winds.
    assert found is not None
    if name not in ("Step", "ThresholdedRelu", "Composite"):
        assert np.all(found.attacked >= 0.98 * reached)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("name", ["Relu", "Gelu", "Tanh"])
def test_no_point_that_ascent_reaches_exceeds_the_tight_bound(name: str, box: bool) -> None:
    rng = np.random.default_rng(3)
    before = layer("plain", 30, 8, 3, rng, functions(30, rng)[name])
    after = shrunk(before, rng)
    region = BoxDomain(-np.ones(8), np.ones(8)) if box else BallDomain(np.zeros(8), 2.0)
    found = certify(before, after, region, "tight", rng)
    check(found, surely(of(before, after, region), region, inputs(region, 4000, 8, rng)).max(axis=0))
    assert found is not None and np.all(found.certified <= 2.2 * found.attacked)


def test_terms_of_one_sign_only_are_bounded() -> None:
    # Every neuron is dropped: no negative term for one sign of D, no positive one for the other.
    rng = np.random.default_rng(0)
    before = layer("one sign", 10, 4, 2, rng)
    none = HiddenLayer(1, (Readout(Neurons(np.zeros((1, 4)), np.zeros(1), RELU), np.zeros((2, 1, 1)), np.zeros(2)),))
    for region in (BallDomain(np.zeros(4), 1.5), BoxDomain(-np.ones(4), np.ones(4))):
        x = inputs(region, 2000, 4, rng)
        check(certify(before, none, region, "fast", rng), surely(of(before, none, region), region, x).max(axis=0))


def test_out_of_time_leaves_a_bound_that_holds() -> None:
    rng = np.random.default_rng(1)
    before = layer("plain", 40, 6, 30, rng)
    after, region = shrunk(before, rng), BallDomain(np.zeros(6), 2.0)
    found = certify(before, after, region, "tight", rng, seconds=0.0)
    assert found is not None and not np.isfinite(found.bounds["affine even"]).any()
    check(found, surely(of(before, after, region), region, inputs(region, 2000, 6, rng)).max(axis=0))
