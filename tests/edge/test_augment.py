"""A few inputs made many: the user's own first, and then mixtures that stay near them."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.edge.augment import augmented
from onnx_coreset.edge.inputs import Given

X = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32) + 3.0


def runs(*parts: np.ndarray, name: str = "x") -> Given:
    return Given(tuple({name: part} for part in parts))


def test_the_users_own_runs_come_first_and_unchanged() -> None:
    feeder = augmented(runs(X[:10], X[10:]), fixed=False)
    assert feeder is not None and feeder.runs is None
    assert np.array_equal(feeder.feed(0, np.random.default_rng(0))["x"], X[:10])
    assert np.array_equal(feeder.feed(1, np.random.default_rng(0))["x"], X[10:])


def test_new_samples_are_mixtures_of_the_old_with_noise() -> None:
    # Samples on a line through the origin: what leaves it is noise, of .06, .15 or .45 of the root mean square.
    direction = np.array([0.6, 0.8, 0.0, 0.0])
    line = (np.linspace(1, 2, 50)[:, None] * direction).astype(np.float32)
    feeder = augmented(runs(line), fixed=False)
    assert feeder is not None
    rng = np.random.default_rng(1)
    new = np.concatenate([feeder.feed(5, rng)["x"] for _ in range(40)]).astype(np.float64)
    size = np.sqrt(np.mean(line.astype(np.float64) ** 2))
    along, off = new @ direction, new[:, 2:] / size
    # E |off|^2 = E s^2 E t^2, with E s^2 = e^(2 .25^2): within five standard errors of 20,480 squares.
    expected = np.exp(2 * 0.25**2) * np.mean(np.square([0.06, 0.15, 0.45]))
    squares = off.reshape(-1) ** 2
    assert abs(squares.mean() - expected) <= 5 * squares.std() / np.sqrt(squares.size)
    # E along = E s (1.5): the differences and the noise have mean 0.
    assert abs(along.mean() - np.exp(0.25**2 / 2) * 1.5) <= 5 * along.std() / np.sqrt(along.size)
    assert new.shape == (40 * 256, 4) and feeder.feed(5, rng)["x"].dtype == np.float32


def test_inputs_of_one_sample_are_mixed_alike() -> None:
    # Sample i is i everywhere; the mean over 400 entries leaves a twentieth of the noise.
    numbers = np.arange(30, dtype=np.float32)[:, None] * np.ones((1, 400), dtype=np.float32)
    feeder = augmented(Given(({"x": numbers, "y": 2 * numbers},)), fixed=False)
    assert feeder is not None
    feed = feeder.feed(1, np.random.default_rng(0))
    assert np.corrcoef(feed["x"].mean(axis=1), feed["y"].mean(axis=1))[0, 1] > 0.99


def test_runs_of_a_fixed_first_size_are_samples_themselves() -> None:
    for size in (1, 5):
        parts = [X[i : i + size] for i in range(0, 30, size)]
        feeder = augmented(runs(*parts), fixed=True)
        assert feeder is not None
        assert feeder.feed(len(parts), np.random.default_rng(0))["x"].shape == (size, 4)


@pytest.mark.parametrize(
    "given",
    [
        Given(({"x": np.arange(6).reshape(3, 2)},)),
        Given(({"x": X, "ids": np.arange(30)},)),
        Given(({"x": X[:1]},)),
        Given(({"x": X, "y": X[:5]},)),
    ],
    ids=["integers", "some integers", "one sample", "different numbers of samples"],
)
def test_what_cannot_be_mixed_is_left_alone(given: Given) -> None:
    assert augmented(given, fixed=False) is None


def test_the_same_seed_gives_the_same_samples() -> None:
    feeder = augmented(runs(X), fixed=False)
    assert feeder is not None
    one, two = (feeder.feed(3, np.random.default_rng(7))["x"] for _ in range(2))
    assert np.array_equal(one, two)
