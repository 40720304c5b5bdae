"""Programs written as nested expressions: ("Mul", "x", ("Sigmoid", "x")) is x sigmoid(x)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_coreset.core.activations.program import Operand, Program, Step

__all__ = ["spell"]


def spell(expression: object) -> Program:
    """Return the program of an expression.

    Args:
        expression: "x" for the pre-activation; a number or an array for a constant; a tuple (operator, operand, ...)
            whose last entry may be a mapping of attributes.

    Returns:
        A program of arity 1, one step for each tuple.
    """
    steps: list[Step] = []

    def write(part: object) -> Operand:
        if isinstance(part, str):
            return 0
        if not isinstance(part, tuple):
            return np.asarray(part, dtype=np.float64)
        attributes = part[-1] if isinstance(part[-1], Mapping) else {}
        operands = tuple(write(p) for p in part[1:] if not isinstance(p, Mapping))
        steps.append(Step(part[0], operands, tuple(sorted(attributes.items()))))
        return len(steps)

    if isinstance(expression, str):
        return Program()
    result = write(expression)
    if not isinstance(result, int):
        raise ValueError("a constant is no activation")
    return Program(tuple(steps))
