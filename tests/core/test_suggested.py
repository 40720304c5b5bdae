"""What a first layer suggests of its inputs: their place, their correlations, their unit."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.core.suggested import centre, common, correlation_root, suggested

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("count", "size"), [(5, 12), (12, 12), (40, 12)])
def test_a_standardisation_that_was_folded_in_is_found(count: int, size: int) -> None:
    weights, place = RNG.standard_normal((count, size)), RNG.standard_normal(size)
    found = centre(weights, -weights @ place)
    # The damping is at most 1e-5 of n times the largest eigenvalue: what is seen of the place is met to that.
    assert np.linalg.norm(weights @ (found - place)) <= 1e-2 * np.linalg.norm(weights @ place)
    # Nothing is made up where the weights do not look.
    assert np.linalg.norm(found) <= np.linalg.norm(place)


def test_a_direction_that_is_hardly_seen_does_not_carry_the_centre_away() -> None:
    weights = np.diag([1.0, 1.0, 1e-6])
    assert np.abs(centre(weights, np.ones(3))).max() <= 1.0


def test_the_centre_of_zero_weights_is_the_origin() -> None:
    assert np.array_equal(centre(np.zeros((3, 4)), np.ones(3)), np.zeros(4))


def test_correlations_of_the_columns_are_those_of_the_samples_and_no_direction_is_still() -> None:
    mix = np.kron(np.eye(20), [[1.0, 0.9], [0.9, 1.0]])
    root = correlation_root(RNG.standard_normal((400, 40)) @ np.linalg.cholesky(mix).T)
    assert root is not None
    covariance = root @ root
    pairs = covariance[np.arange(0, 40, 2), np.arange(1, 40, 2)] / np.diag(covariance)[::2]
    others = covariance[::2, ::2] - np.diag(np.diag(covariance)[::2])
    assert pairs.min() > 0.3 and np.abs(others).max() < 0.2 * np.diag(covariance).min()
    assert np.linalg.eigvalsh(covariance).min() >= 0.05 * np.trace(covariance) / 40


def test_fewer_neurons_than_inputs_leave_no_direction_out() -> None:
    root = correlation_root(RNG.standard_normal((3, 20)))
    assert root is not None and np.linalg.matrix_rank(root) == 20


def test_the_input_that_varies_least_of_a_few_is_drawn_too() -> None:
    root = correlation_root(RNG.standard_normal((50, 5)) * [1.0, 1.0, 1.0, 1.0, 0.5])
    assert root is not None
    powers = np.diag(root @ root)
    assert powers.min() >= 0.3 * powers.max()


def test_the_multiple_gives_pre_activations_the_power_that_white_inputs_do() -> None:
    weights = RNG.standard_normal((30, 10))
    root = correlation_root(weights)
    assert root is not None and np.linalg.norm(weights @ root) == pytest.approx(np.linalg.norm(weights))


@pytest.mark.parametrize(
    "weights", [np.ones((1, 4)), np.ones((5, 4)), np.ones((5, 1)), np.array([[1.0, np.nan], [1.0, 2.0]])]
)
def test_weights_that_say_nothing_suggest_nothing(weights: np.ndarray) -> None:
    assert suggested(weights, np.zeros(len(weights))) is None


def test_biases_that_are_not_finite_suggest_nothing() -> None:
    assert suggested(RNG.standard_normal((5, 4)), np.full(5, np.inf)) is None


def test_the_direction_that_drives_all_neurons_is_found_and_none_is_made_up() -> None:
    along = np.eye(30)[0]
    noise = RNG.standard_normal((400, 30))
    noise[:, 0] = 0.0
    together = common(noise + 3.0 * along, np.eye(30))
    # Each row has 3 along it, of a length of about sqrt(29 + 9).
    assert together[0] / np.linalg.norm(together) > 0.95
    assert np.mean((noise + 3.0 * along) @ together) == pytest.approx(np.sqrt(38), rel=0.1)
    # By chance, 400 neurons of 30 inputs share about a root of 30 / 400.
    assert np.mean(noise @ common(noise, np.eye(30))) < 0.3 * np.sqrt(29)


def test_a_neuron_without_weights_moves_no_direction() -> None:
    weights = RNG.standard_normal((5, 4))
    padded = np.concatenate([weights, np.zeros((2, 4))])
    assert np.allclose(common(weights, np.eye(4)), common(padded, np.eye(4)))


def test_a_rescaling_in_front_is_undone() -> None:
    weights, bias = RNG.standard_normal((50, 8)), RNG.standard_normal(50)
    plain, behind = suggested(weights, bias), suggested(weights, bias, -1 / 255, -0.5)
    assert plain is not None and behind is not None
    assert np.allclose(behind.centre * (-1 / 255) - 0.5, plain.centre) and np.array_equal(behind.root, plain.root)
    assert behind.scale == pytest.approx(255 * plain.scale) and plain.scale >= 1
