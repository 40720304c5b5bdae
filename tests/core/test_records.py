"""Every declared property of every activation holds numerically, and is claimed by no other."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.core.activations import functions
from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.activations.records import ACTIVATIONS

GRID = np.concatenate([np.linspace(-12, 12, 24001), np.linspace(-200, 200, 4001)])
GRID = np.unique(GRID)[:, None] * np.ones(3)
DIPS = [r for r in ACTIVATIONS if r.name in {"Gelu", "GeluTanh", "Silu", "Mish", "QuickGelu"}]
CASES = [(record, parameters) for record in ACTIVATIONS for parameters in record.examples]
every_case = pytest.mark.parametrize("record, parameters", CASES, ids=lambda value: getattr(value, "name", ""))


def allowance(record, parameters, values):
    """Rounding of two evaluations."""
    return 8e-15 * (1 + np.abs(values).max()) + 2 * np.max(record.noise(np.abs(GRID), parameters))


def holds_for_all_neurons(condition):
    return bool(np.all(condition))


@every_case
def test_range(record, parameters):
    known, values = record.properties(parameters), Named(record, parameters)(GRID)
    slack = allowance(record, parameters, values)
    assert np.all(values >= known.least - slack) and np.all(values <= known.greatest + slack)
    finite = np.isfinite(known.least) & np.ones(3, dtype=bool)
    # Tight: within one part in a thousand of the span, which tails like softsign's at 200 need.
    assert np.all((values.min(axis=0) - known.least <= 6e-3 * (1 + np.abs(known.least)))[finite])
    assert known.nonnegative == holds_for_all_neurons(values >= -slack)


@every_case
def test_monotone(record, parameters):
    values = Named(record, parameters)(GRID)
    falls = np.diff(values, axis=0) < -allowance(record, parameters, values)
    assert record.properties(parameters).monotone == (not falls.any())


@every_case
def test_monotone_between_critical_points(record, parameters):
    known, activation = record.properties(parameters), Named(record, parameters)
    points = [np.broadcast_to(point, 3) for point in known.critical]
    values = activation(GRID)
    slack = allowance(record, parameters, values)
    for neuron in range(3):
        cuts = np.searchsorted(GRID[:, 0], sorted(point[neuron] for point in points))
        for part in np.split(np.arange(GRID.shape[0]), cuts):
            steps = np.diff(values[part, neuron])
            assert np.all(steps >= -slack) or np.all(steps <= slack)


@every_case
def test_lipschitz(record, parameters):
    known, values = record.properties(parameters), Named(record, parameters)(GRID)
    steps = np.abs(np.diff(values, axis=0))
    widths = np.diff(GRID, axis=0)
    slack = allowance(record, parameters, values)
    assert np.all(steps <= known.lipschitz * widths + slack)
    finite = np.isfinite(known.lipschitz) & np.ones(3, dtype=bool)
    # Sharp: the steepest of steps of 0.001 comes within 1 % of the constant.
    steepest = np.max(steps / widths, axis=0)
    assert np.all((steepest >= 0.99 * known.lipschitz)[finite])
    assert not record.properties(parameters).monotone or np.all(known.lipschitz > 0)


@every_case
def test_odd(record, parameters):
    activation = Named(record, parameters)
    same = np.abs(activation(-GRID) + activation(GRID)) <= allowance(record, parameters, activation(GRID))
    assert record.properties(parameters).odd == holds_for_all_neurons(same)


@every_case
def test_half_even(record, parameters):
    activation = Named(record, parameters)
    same = np.abs(activation(GRID) - activation(-GRID) - GRID) <= allowance(record, parameters, activation(GRID))
    assert record.properties(parameters).half_even == holds_for_all_neurons(same)


@every_case
def test_homogeneous(record, parameters):
    activation = Named(record, parameters)
    values = activation(GRID)
    same = [
        np.abs(activation(r * GRID) - r * values) <= 4 * allowance(record, parameters, values) for r in (0.0, 0.5, 2.0)
    ]
    assert record.properties(parameters).homogeneous == holds_for_all_neurons(same)


@pytest.mark.parametrize(
    "record",
    [r for r in ACTIVATIONS if r.name in {"Gelu", "GeluTanh", "Silu", "Mish", "QuickGelu"}],
    ids=lambda r: r.name,
)
def test_minima_are_full_precision(record):
    for parameters in record.examples:
        known, activation = record.properties(parameters), Named(record, parameters)
        (place,) = known.critical
        # At a minimum t of curvature c, f(t + h) - f(t - h) = O(h^3) - 2 h c e for an error e of t: with h = 1e-3 the
        # difference shows e down to the rounding of f over 2 h c.
        for h in (1e-3, 2e-3):
            up, down = activation(place + h), activation(place - h)
            middle = activation(place)
            curvature = (up + down - 2 * middle) / h**2
            skew = (activation(place + 2 * h) - activation(place - 2 * h) - 2 * (up - down)) / 12
            error = np.abs((up - down) / 2 - skew) / (h * curvature)
            assert np.all(error <= 1e-9)
        np.testing.assert_allclose(activation(place), known.least, rtol=4e-15)


def test_the_two_gelus_differ():
    t = np.linspace(-6, 6, 12001)
    difference = np.max(np.abs(functions.gelu(t) - functions.gelu_tanh(t)))
    assert 4.5e-4 < difference < 4.9e-4


def test_names_are_those_of_the_table():
    names = [record.name for record in ACTIVATIONS]
    assert len(set(names)) == len(names) == 25


def test_parameters_are_read_only():
    slope = np.array([0.1, 0.2, 0.3])
    activation = Named(next(r for r in ACTIVATIONS if r.name == "PRelu"), (slope,))
    with pytest.raises(ValueError, match="read-only"):
        activation.parameters[0][0] = 1.0
