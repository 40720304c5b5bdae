"""Interval extensions hold every value, have no NaN, and are exact for what has a name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_coreset.core.activations.evaluate import enclose, run
from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.core.activations.program import Program, Step
from onnx_coreset.core.activations.record import Composite, Named
from onnx_coreset.core.activations.records import ACTIVATIONS, recognise
from onnx_coreset.core.activations.spell import spell

NUMBERS = st.one_of(st.floats(-30, 30), st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 6.0]), st.floats(-1e6, 1e6))
BOOLEAN = {"Not": (0,), "And": (0, 1), "Or": (0, 1), "Where": (0,)}
DIVISIONS = {"Div", "Reciprocal", "Pow"}
ATTRIBUTES = {
    "LeakyRelu": [{}, {"alpha": -0.5}],
    "Elu": [{}, {"alpha": -0.7}],
    "Clip": [{}, {"min": -1.0, "max": 2.0}],
    "Gelu": [{}, {"approximate": "tanh"}],
    "Swish": [{}, {"alpha": -1.5}, {"alpha": 0.0}],
    "HardSigmoid": [{}, {"alpha": -0.3}],
    "ThresholdedRelu": [{}, {"alpha": -1.0}, {"alpha": 0.0}],
}
CASES = [(op, attributes) for op in sorted(ELEMENTWISE) for attributes in ATTRIBUTES.get(op, [{}])]


@pytest.mark.parametrize("op, attributes", CASES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_value_lies_in_the_interval(op, attributes, data):
    record = ELEMENTWISE[op]
    count = min(record.most, max(record.least, 2 if record.most > 1 else 1))
    if op == "Clip" and not attributes:
        count = 3
    operands, samples = [], []
    for position in range(count):
        if position in BOOLEAN.get(op, ()):
            low, high = sorted(data.draw(st.sampled_from([0.0, 1.0])) for _ in range(2))
            inside = [low, high]
        else:
            low, high = sorted(data.draw(NUMBERS) for _ in range(2))
            shares = data.draw(st.lists(st.floats(0, 1), max_size=5))
            inside = [low, high, *(low + share * (high - low) for share in shares)]
            inside += [value for value in (0.0, -1.0, 0.5, -0.75179) if low <= value <= high]
        operands.append((np.array(low), np.array(high)))
        samples.append(np.clip(inside, low, high))
    low, high = record.interval(operands, attributes)
    assert not np.isnan(low) and not np.isnan(high) and low <= high
    values = record(list(np.meshgrid(*samples)), attributes)
    # 1 / 0 is undefined, whatever the sign of the zero that floating point takes it for.
    defined = values[np.isfinite(values)] if op in DIVISIONS else values[~np.isnan(values)]
    assert np.all(low <= defined) and np.all(defined <= high)


@pytest.mark.parametrize("op, attributes", CASES)
def test_infinite_ends_give_bounds_without_nan(op, attributes):
    record = ELEMENTWISE[op]
    count = max(record.least, 1)
    for ends in ((-np.inf, np.inf), (0.0, np.inf), (-np.inf, 0.0), (-np.inf, -3.0), (3.0, np.inf)):
        operands = [tuple(np.array(end) for end in ends)] * count
        if op in BOOLEAN:
            operands = [(np.array(0.0), np.array(1.0))] * count
        low, high = record.interval(operands, attributes)
        assert not np.isnan(low) and not np.isnan(high)
        x = np.clip(np.concatenate([np.linspace(-50, 50, 1001), [-1e6, 1e6]]), *operands[0])
        values = record([x] * count, attributes)
        values = values[np.isfinite(values)] if op in DIVISIONS else values[~np.isnan(values)]
        assert np.all(low <= values) and np.all(values <= high)


NAMED = [(record, parameters) for record in ACTIVATIONS for parameters in record.examples]


@pytest.mark.parametrize("record, parameters", NAMED, ids=lambda value: getattr(value, "name", ""))
@settings(max_examples=40, deadline=None)
@given(first=NUMBERS, second=NUMBERS)
def test_named_ranges_hold_every_value_and_are_reached(record, parameters, first, second):
    activation = Named(record, parameters)
    low, high = np.full(3, min(first, second)), np.full(3, max(first, second))
    lower, upper = activation.interval(low, high)
    known = activation.properties
    places = [np.linspace(low, high, 801)]
    for point in known.critical:
        for near in (point, np.nextafter(point, np.inf), np.nextafter(point, -np.inf)):
            places.append(np.broadcast_to(np.clip(near, low, high), (1, 3)))
    values = activation(np.concatenate(places))
    assert np.all(lower <= values) and np.all(values <= upper)
    # Exact: the grid holds ends and critical points, so the extreme values are met up to the slack.
    slack = 1e-14 * (1 + np.abs(values).max(axis=0)) + 4 * np.max(
        record.noise(np.maximum(np.abs(low), np.abs(high)), parameters)
    )
    assert np.all(values.min(axis=0) <= lower + slack) and np.all(values.max(axis=0) >= upper - slack)
    np.testing.assert_array_equal(activation.supremum(low, high), np.maximum(np.abs(lower), np.abs(upper)))


@pytest.mark.parametrize("record, parameters", NAMED, ids=lambda value: getattr(value, "name", ""))
def test_named_ranges_on_half_lines(record, parameters):
    activation = Named(record, parameters)
    t = np.concatenate([np.linspace(-60, 60, 4001), [-1e5, 1e5]])[:, None] * np.ones(3)
    for low, high in ((-np.inf, np.inf), (-np.inf, 0.3), (-0.4, np.inf)):
        lower, upper = activation.interval(np.full(3, low), np.full(3, high))
        values = activation(np.clip(t, low, high))
        assert not np.isnan(lower).any() and not np.isnan(upper).any()
        assert np.all(lower <= values) and np.all(values <= upper)


EXPRESSIONS = [
    ("Mul", ("Sin", ("Mul", "x", 3.0)), ("Exp", ("Neg", ("Abs", "x")))),
    ("Add", ("Tanh", "x"), ("Mul", 0.1, ("Pow", "x", 2.0))),
    ("Div", "x", ("Add", 1.0, ("Mul", "x", "x"))),
    ("Div", "x", ("Add", 1.0, ("Exp", ("Neg", ("Mul", "x", 2.5))))),
    ("Where", ("Greater", ("Mul", "x", "x"), 2.0), ("Sqrt", ("Abs", "x")), ("Log", ("Add", 1.5, ("Cos", "x")))),
    ("Mul", ("Relu", "x"), np.array([1.0, -2.0, 0.5])),
    ("Reciprocal", "x"),
    ("Floor", ("Mul", "x", 1.7)),
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
@settings(max_examples=40, deadline=None)
@given(first=NUMBERS, second=NUMBERS)
def test_composites_stay_inside_their_bounds(expression, first, second):
    activation = Composite(spell(expression))
    low, high = np.full(3, min(first, second)), np.full(3, max(first, second))
    lower, upper = activation.interval(low, high)
    values = activation(np.linspace(low, high, 301))
    assert lower.shape == upper.shape == (3,) and not np.isnan(lower).any() and not np.isnan(upper).any()
    inside = (lower <= values) & (values <= upper)
    assert np.all(inside | ~np.isfinite(values))


def test_a_gated_program_has_bounds_too():
    program = Program((Step("Sigmoid", (0,)), Step("Mul", (2, 1))), 2)
    low, high = enclose(program, ((np.array([-1.0]), np.array([2.0])), (np.array([-3.0]), np.array([1.0]))))
    a, b = np.meshgrid(np.linspace(-1, 2, 41), np.linspace(-3, 1, 41))
    values = run(program, (a, b))
    assert low <= values.min() and values.max() <= high
    assert low >= values.min() - 5e-14 and high <= values.max() + 5e-14


def test_a_dead_relu_is_exactly_zero():
    relu = recognise(spell(("Relu", "x")))
    assert relu.supremum(np.array([-3.0]), np.array([-1.0])) == 0
