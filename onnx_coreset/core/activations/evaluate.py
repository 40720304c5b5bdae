"""Programs evaluated: on pre-activations, and on intervals of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from onnx_coreset.core.activations.intervals import Interval
from onnx_coreset.core.activations.operators import ELEMENTWISE, Operator
from onnx_coreset.core.activations.program import Program, Step
from onnx_coreset.core.arrays import Array

__all__ = ["enclose", "run"]

T = TypeVar("T")


def _operator(step: Step) -> Operator:
    try:
        return ELEMENTWISE[step.op]
    except KeyError:
        raise ValueError(f"{step.op} is not an elementwise operator") from None


def _fold(
    program: Program,
    inputs: Sequence[T],
    constant: Callable[[Array], T],
    apply: Callable[[Step, list[T]], T],
) -> T:
    if len(inputs) != program.arity:
        raise ValueError(f"the program takes {program.arity} pre-activations, not {len(inputs)}")
    values = list(inputs)
    for step in program.steps:
        values.append(apply(step, [values[o] if isinstance(o, int) else constant(o) for o in step.operands]))
    return values[-1]


def run(program: Program, inputs: Sequence[Array]) -> Array:
    """Return what a program computes, in float64.

    Args:
        program: The program, of arity a.
        inputs: a arrays of pre-activations, shape (..., n) each; constants (n,) meet their last axis.

    Returns:
        The result, shape (..., n), booleans as 0.0 and 1.0.

    Raises:
        ValueError: Another number of inputs, or a step that is no elementwise operator.
    """
    arrays = [np.asarray(x, dtype=np.float64) for x in inputs]
    result = _fold(program, arrays, lambda c: c, lambda step, o: _operator(step)(o, dict(step.attributes)))
    return np.asarray(np.broadcast_to(result, np.broadcast_shapes(np.shape(result), *(x.shape for x in arrays))))


def enclose(program: Program, inputs: Sequence[Interval]) -> Interval:
    """Return bounds of a program on intervals of its pre-activations, by interval arithmetic step by step.

    Args:
        program: The program, of arity a.
        inputs: a pairs of lower and upper ends, shape (n,) each; infinite ends are allowed.

    Returns:
        Lower and upper ends, shape (n,), never NaN; sound, but not tight where a value is used twice.

    Raises:
        ValueError: As `run`.
    """
    pairs = [(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)) for low, high in inputs]
    low, high = _fold(
        program, pairs, lambda c: (c, c), lambda step, o: _operator(step).interval(o, dict(step.attributes))
    )
    shape = np.broadcast_shapes(np.shape(low), *(np.shape(end) for end, _ in pairs))
    return np.asarray(np.broadcast_to(low, shape)), np.asarray(np.broadcast_to(high, shape))
