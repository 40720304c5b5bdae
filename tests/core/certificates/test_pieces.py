"""Activations split into a linear part, a multiple of |t| and a rest; and slopes of their chords."""

from __future__ import annotations

import numpy as np
import pytest

from certificate_cases import functions, named
from onnx_coreset.core.certificates.pieces import slopes, split

NAMES = tuple(functions(1, np.random.default_rng(0)))
EVEN = ("Relu", "Gelu", "GeluTanh", "Silu", "QuickGelu", "HardSwish", "Softplus", "Elu", "Selu", "Celu", "Mish")


def intervals(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of all sizes, near 0 and far from it, points among them."""
    middle = rng.standard_normal(count) * 10.0 ** rng.uniform(-3, 1.5, count)
    half = 10.0 ** rng.uniform(-6, 1.5, count) * (rng.random(count) < 0.9)
    return middle - half, middle + half


def inside(low: np.ndarray, high: np.ndarray, count: int) -> np.ndarray:
    return np.clip(low + (high - low) * np.linspace(0, 1, count)[:, None], low, high)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_sum_to_the_activation(name: str) -> None:
    rng = np.random.default_rng(len(name))
    count = 400
    low, high = intervals(count, rng)
    f = functions(count, rng)[name]
    found = split(f, low, high)
    t = inside(low, high, 257)
    rest = f(t) - found.lin * t - found.mag * np.abs(t)
    # The parts are evaluated here with an error of a few units of their size.
    slack = 1e-14 * (1.0 + np.abs(t) + np.abs(f(t)))
    assert np.all(rest >= found.low - slack) and np.all(rest <= found.high + slack)


@pytest.mark.parametrize("name", EVEN)
def test_the_rest_vanishes_far_from_zero_and_is_bounded_everywhere(name: str) -> None:
    # Softplus comes to ln 2, the gates to minus their least value; ELU and its like come to their floor.
    kappa = {"Relu": 0.0, "Gelu": 0.16998, "GeluTanh": 0.17005, "Silu": 0.27847, "QuickGelu": 0.27847 / 1.702}
    kappa |= {"HardSwish": 0.375, "Softplus": np.log(2.0), "Elu": 1.0, "Selu": 1.7581, "Celu": 0.5, "Mish": 0.30885}
    f = functions(1, np.random.default_rng(0))[name]
    found = split(f, np.array([-50.0]), np.array([50.0]))
    size = max(-float(found.low[0]), float(found.high[0]))
    assert 0.999 * kappa[name] <= size <= 1.0001 * kappa[name]
    far = split(f, np.array([30.0]), np.array([50.0]))
    floor = 0.1411 if name == "Mish" else 1e-10
    assert max(-far.low[0], far.high[0]) <= floor


@pytest.mark.parametrize("name", NAMES)
def test_no_chord_is_steeper_than_its_bounds(name: str) -> None:
    rng = np.random.default_rng(len(name) + 1)
    count = 300
    low, high = intervals(count, rng)
    low, high = low[high > low], high[high > low]
    f = functions(low.size, rng)[name]
    least, most = slopes(f, low, high)
    t = inside(low, high, 129)
    value = f(t)
    for step in (1, 7, 40, 128):
        across = t[step:] - t[:-step]
        rise = value[step:] - value[:-step]
        # The two values are off by a few units each.
        slack = 2e-14 * (1.0 + np.abs(value[step:]) + np.abs(value[:-step]))
        with np.errstate(invalid="ignore"):
            assert np.all(np.isinf(least) | (rise >= least * across - slack))
            assert np.all(np.isinf(most) | (rise <= most * across + slack))


@pytest.mark.parametrize(
    "name", ["Gelu", "GeluTanh", "Silu", "QuickGelu", "Mish", "Tanh", "Sigmoid", "Gaussian", "Softsign"]
)
def test_bounds_of_slopes_are_reached(name: str) -> None:
    rng = np.random.default_rng(5)
    low, high = intervals(200, rng)
    low, high = low[high - low > 1e-2], high[high - low > 1e-2]
    f = functions(low.size, rng)[name]
    least, most = slopes(f, low, high)
    t = inside(low, high, 4001)
    chords = np.diff(f(t), axis=0) / np.diff(t, axis=0)
    # The grid's cells are at most 0.03 wide, and second derivatives at most 2; short cells lose digits.
    slack = 2.0 * (high - low) / 4000 + 1e-9 / (high - low)
    assert np.all(chords.min(axis=0) <= least + slack) and np.all(chords.max(axis=0) >= most - slack)


def test_slopes_of_a_clip() -> None:
    f = named("Clip", 0.0, 6.0)
    low, high = np.array([-2.0, -2.0, 1.0, 5.0, 7.0]), np.array([-1.0, 3.0, 2.0, 8.0, 9.0])
    least, most = slopes(f, low, high)
    np.testing.assert_array_equal(least, [0.0, 0.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(most, [0.0, 1.0, 1.0, 1.0, 0.0])
