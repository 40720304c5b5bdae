"""Sample sizes: right scaling, the constants as stated, and the errors they promise."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.core.bounds import draws_bernstein, draws_hoeffding, draws_uniform, error_uniform, uniform_total


def network(rng, n=200, d=2, k=2, bias=0.5):
    return rng.standard_normal((n, d)), bias * rng.standard_normal(n), rng.standard_normal((k, n))


def disc(radius, rings=40, spokes=180):
    r = np.linspace(0, radius, rings + 1)[1:, None]
    angle = np.linspace(0, 2 * np.pi, spokes, endpoint=False)
    points = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=-1).reshape(-1, 2)
    return np.concatenate([np.zeros((1, 2)), points])


def test_sizes_depend_on_total_over_epsilon_alone():
    for size in (draws_hoeffding, draws_bernstein, draws_uniform):
        for scale in (1e-6, 7.0, 1e9):
            # A ceiling may differ by one where rounding meets a whole number.
            assert abs(size(3.0 * scale, 0.2 * scale, 10, 0.01) - size(3.0, 0.2, 10, 0.01)) <= 1


@pytest.mark.parametrize("outputs, constant", [(1, 27.6), (10, 34.8), (100, 41.6), (1000, 48.2)])
def test_the_constants_of_the_uniform_statement(outputs, constant):
    assert error_uniform(1.0, 1, outputs, 0.01) ** 2 == pytest.approx(constant, abs=0.05)


def test_error_and_size_are_inverse():
    draws = draws_uniform(5.0, 0.3, 10, 0.01)
    assert error_uniform(5.0, draws, 10, 0.01) <= 0.3 < error_uniform(5.0, draws - 1, 10, 0.01)


def test_one_signed_summands_need_a_quarter():
    assert draws_hoeffding(100.0, 0.5, 10, 0.01) == pytest.approx(
        4 * draws_hoeffding(100.0, 0.5, 10, 0.01, True), abs=4
    )


def test_bernstein_is_no_worse_than_its_own_worst_case():
    assert draws_bernstein(10.0, 0.1, 5, 0.01, absolute=1.0) < draws_bernstein(10.0, 0.1, 5, 0.01)
    assert draws_bernstein(10.0, 0.1, 5, 0.01, absolute=0.0) == int(np.ceil(400 / 3 * np.log(1000)))


@pytest.mark.parametrize("draws", [35, 100, 400, 1600])
def test_the_uniform_statement_holds_on_the_whole_disc(draws):
    rng = np.random.default_rng(draws)
    p, b, w = network(rng)
    radius, delta, runs = 1.5, 0.01, 60
    found = uniform_total(p, b, w, radius, 1.0)
    x = disc(radius)
    terms = np.maximum(x @ p.T + b, 0.0)
    errors = []
    for _ in range(runs):
        hits = rng.multinomial(draws, found.probabilities)
        change = hits / (draws * found.probabilities) - 1.0
        errors.append(np.max(np.abs(terms @ (w * change).T)))
    bound = error_uniform(found.total, draws, 2, delta)
    # The statement fails with probability delta, at most; the grid only lowers what is found.
    assert np.mean(np.array(errors) > bound) <= delta
    # It is about five times what happens; a bound that were right by accident of a wrong constant would not be.
    assert 2.0 <= bound / np.mean(errors) <= 15.0


def test_hoeffdings_size_keeps_its_promise_at_one_input():
    rng = np.random.default_rng(5)
    p, b, w = network(rng, n=50)
    x = np.array([0.6, -0.8])
    s = np.abs(w).max(axis=0) * np.maximum(np.linalg.norm(p, axis=1) + b, 0.0)
    total, pr = s.sum(), s / s.sum()
    epsilon, delta, runs = 0.1 * s.sum(), 0.05, 2000
    values = w * np.maximum(p @ x + b, 0.0)
    scaled = np.divide(values, pr, out=np.zeros_like(values), where=pr > 0)
    for draws in (
        draws_hoeffding(total, epsilon, 2, delta),
        draws_bernstein(total, epsilon, 2, delta, float(np.abs(values).sum(axis=1).max())),
    ):
        estimates = rng.multinomial(draws, pr, size=runs) @ scaled.T / draws
        failures = np.any(np.abs(estimates - values.sum(axis=1)) > epsilon, axis=1)
        assert failures.mean() <= delta
    # At a hundredth of the size the same promise is broken: the test can fail.
    few = max(1, draws_bernstein(total, epsilon, 2, delta, float(np.abs(values).sum(axis=1).max())) // 100)
    estimates = rng.multinomial(few, pr, size=runs) @ scaled.T / few
    assert np.any(np.abs(estimates - values.sum(axis=1)) > epsilon, axis=1).mean() > delta


def test_kappa_is_a_minimum():
    rng = np.random.default_rng(6)
    p, b, w = network(rng)
    found = uniform_total(p, b, w, 1.5, 2.0)
    assert found.probabilities.sum() == pytest.approx(1.0)

    def total(kappa):
        scores = np.abs(w).max(axis=0) * np.sqrt(np.sum(p**2, axis=1) + (b / kappa) ** 2)
        return 2.0 * np.hypot(1.5, kappa) * scores.sum()

    assert found.total == pytest.approx(total(found.kappa), rel=1e-12)
    assert all(found.total <= total(found.kappa * factor) * (1 + 1e-9) for factor in (0.1, 0.5, 0.9, 1.1, 2.0, 10.0))


def test_without_biases_the_constant_coordinate_vanishes():
    rng = np.random.default_rng(7)
    p, _, w = network(rng)
    expected = 1.5 * np.sum(np.abs(w).max(axis=0) * np.linalg.norm(p, axis=1))
    assert uniform_total(p, np.zeros(200), w, 1.5, 1.0).total == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("arguments", [(-1.0, 0.1, 1, 0.1), (1.0, 0.0, 1, 0.1), (1.0, 0.1, 0, 0.1), (1.0, 0.1, 1, 1.0)])
def test_arguments_out_of_range_are_refused(arguments):
    for size in (draws_hoeffding, draws_bernstein, draws_uniform):
        with pytest.raises(ValueError, match="must be"):
            size(*arguments)
    with pytest.raises(ValueError, match="absolute"):
        draws_bernstein(1.0, 0.1, 1, 0.1, absolute=2.0)
    with pytest.raises(ValueError, match="draw"):
        error_uniform(1.0, 0, 1, 0.1)
    with pytest.raises(ValueError, match="radius"):
        uniform_total(np.ones((1, 1)), np.ones(1), np.ones((1, 1)), 0.0, 1.0)
    with pytest.raises(ValueError, match="effect"):
        uniform_total(np.ones((1, 1)), np.ones(1), np.zeros((1, 1)), 1.0, 1.0)
