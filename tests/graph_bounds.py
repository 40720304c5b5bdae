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
from onnx_coreset.graph.document import Document
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
    incoming, bias = space.producer.read()
    exact = x @ incoming.T + bias
    slack = gamma(incoming.shape[1] + BIAS_OPERATIONS, u) * (np.abs(x) @ np.abs(incoming).T + np.abs(bias)) + tiny
    found: list[Interval] = []
    for consumer, number in space.consumers:
        values: list[Interval] = [(exact - slack, exact + slack)]
        for step in space.region.program(document, number).steps:
            operands = [values[o] if isinstance(o, int) else (o, o) for o in step.operands]
            result = _step(step, operands)
            if step.op == "BatchNormalization":
                result = _affine_slack(step, operands, result, u)
            values.append(result if step.op in COMPARISONS else _widened(result, u, tiny))
        low, high = values[-1]
        outgoing, constant = consumer.read()
        middle, radius = (low + high) / 2, (high - low) / 2
        size = np.maximum(np.abs(low), np.abs(high))
        centre = middle @ outgoing.T + constant
        error = gamma(outgoing.shape[1] + BIAS_OPERATIONS, u) * (size @ np.abs(outgoing).T + np.abs(constant))
        spread = radius @ np.abs(outgoing).T + error + tiny
        found.append((centre - spread, centre + spread))
    return found


def _affine_slack(step: Step, operands: list[Interval], result: Interval, u: float) -> Interval:
    """Widen a BatchNormalization by the rounding of its parts, whose sizes may exceed the result's."""
    (low, high), (scale, _), (shift, _), (mean, _), (variance, _) = operands
    factor = np.abs(scale) / np.sqrt(variance + float(dict(step.attributes)["epsilon"]))
    size = np.maximum(np.abs(low), np.abs(high)) * factor + np.abs(mean) * factor + np.abs(shift)
    slack = gamma(2 * BIAS_OPERATIONS, u) * size
    return result[0] - slack, result[1] + slack
