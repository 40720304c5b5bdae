"""How far ONNX Runtime may be from float64: a running error analysis of a layer, step by step, by intervals.

Every value carries an interval that holds what any order of the operations in the stored dtype may give. A sum of m
products is off by at most gamma(m) times the sum of their sizes, gamma(m) = m u / (1 - m u); an elementwise step by a
few units in the last place, as ONNX Runtime's vectorised functions are, on top of what its operands carry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.core.activations.program import Step
from onnx_coreset.core.fold import spelled_out
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space

Array = NDArray[np.float64]
Interval = tuple[Array, Array]

FUNCTION_ULPS = 8.0
BIAS_OPERATIONS = 4
COMPARISONS = frozenset({"Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal", "Not", "And", "Or"})


def unit(dtype: np.dtype[np.generic]) -> float:
    """Return the unit roundoff of a dtype."""
    return float(np.finfo(dtype).eps) / 2


def gamma(operations: int, u: float) -> float:
    return operations * u / (1 - operations * u)


def _widened(interval: Interval, u: float, tiny: float) -> Interval:
    low, high = interval
    slack = FUNCTION_ULPS * u * np.maximum(np.maximum(np.abs(low), np.abs(high)), 1.0) + tiny
    return low - slack, high + slack


def _step(step: Step, operands: list[Interval]) -> Interval:
    """Return the enclosure of one step; a BatchNormalization is a difference, a product and a sum."""
    if step.op != "BatchNormalization":
        return ELEMENTWISE[step.op].interval(operands, dict(step.attributes))
    value, (scale, _), (shift, _), (mean, _), (variance, _) = operands
    factor = scale / np.sqrt(variance + float(dict(step.attributes)["epsilon"]))
    centred = ELEMENTWISE["Sub"].interval([value, (mean, mean)])
    scaled = ELEMENTWISE["Mul"].interval([centred, (factor, factor)])
    return ELEMENTWISE["Add"].interval([scaled, (shift, shift)])


def enclosures(document: Document, space: Space, x: Array) -> list[Interval]:
    """Return, for each consumer, an interval for every output (N, k) that rounding in the stored dtype may give.

    Args:
        document: The model.
        space: A space of it.
        x: Inputs (N, d), exactly representable in the stored dtype.
    """
    dtype = space.producer.dense.stored.dtype
    u, tiny = unit(dtype), float(np.finfo(dtype).smallest_normal)
    ready = []
    for producer in space.producers:
        incoming, bias = producer.read()
        exact = x @ incoming.T + bias
        slack = gamma(incoming.shape[1] + BIAS_OPERATIONS, u) * (np.abs(x) @ np.abs(incoming).T + np.abs(bias)) + tiny
        for start in range(0, producer.width, space.width):
            rows = slice(start, start + space.width)
            ready.append(((exact - slack)[:, rows], (exact + slack)[:, rows]))
    found: list[Interval] = []
    for (consumer, numbers), layout in zip(space.consumers, space.layouts, strict=True):
        parts = [_value(document, space, number, ready, u, tiny) for number in numbers]
        outgoing, constant = consumer.read()
        own = layout.own
        low, high = (
            np.stack(end, axis=-1)[:, layout.neurons[own], layout.copies[own]] for end in zip(*parts, strict=True)
        )
        outgoing = outgoing[:, own]
        middle, radius = (low + high) / 2, (high - low) / 2
        size = np.maximum(np.abs(low), np.abs(high))
        centre = middle @ outgoing.T + constant
        error = gamma(outgoing.shape[1] + BIAS_OPERATIONS, u) * (size @ np.abs(outgoing).T + np.abs(constant))
        spread = radius @ np.abs(outgoing).T + error + tiny
        found.append((centre - spread, centre + spread))
    return found


def _value(document: Document, space: Space, number: int, ready: list[Interval], u: float, tiny: float) -> Interval:
    """Return the enclosure of one value that a consumer reads."""
    found = space.region.product(number)
    if found is None or len(space.region.streams(number)) == 1:
        return _computed(spelled_out(space.region.program(document, number)).steps, ready, space, number, u, tiny)
    product, left, right = found
    steps = spelled_out(space.region.program(document, number, {product: left})).steps
    one = _computed(steps, ready, space, left, u, tiny)
    other = _computed(spelled_out(space.region.program(document, right)).steps, ready, space, right, u, tiny)
    return _widened(ELEMENTWISE["Mul"].interval([one, other]), u, tiny)


def _computed(
    steps: tuple[Step, ...], ready: list[Interval], space: Space, number: int, u: float, tiny: float
) -> Interval:
    """Return the enclosure of a program of the pre-activations that value `number` depends on."""
    values = [ready[stream] for stream in sorted(space.region.streams(number))]
    for step in steps:
        operands = [values[o] if isinstance(o, int) else (o, o) for o in step.operands]
        result = _step(step, operands)
        if step.op == "BatchNormalization":
            result = _affine_slack(step, operands, result, u)
        values.append(result if step.op in COMPARISONS else _widened(result, u, tiny))
    return values[-1]


def _affine_slack(step: Step, operands: list[Interval], result: Interval, u: float) -> Interval:
    """Widen a BatchNormalization by the rounding of its parts, whose sizes may exceed the result's."""
    (low, high), (scale, _), (shift, _), (mean, _), (variance, _) = operands
    factor = np.abs(scale) / np.sqrt(variance + float(dict(step.attributes)["epsilon"]))
    size = np.maximum(np.abs(low), np.abs(high)) * factor + np.abs(mean) * factor + np.abs(shift)
    slack = gamma(2 * BIAS_OPERATIONS, u) * size
    return result[0] - slack, result[1] + slack
