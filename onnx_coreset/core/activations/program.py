"""An activation as what the graph computes: a short program of elementwise steps.

Values are numbered: 0 .. arity-1 are the pre-activations (shape (..., n) each), and step i (from 0) yields value
arity+i. The last value is the result; a program without steps is the identity. A constant operand is a number,
shape (), or has one entry for each neuron, shape (n,). Booleans are 0.0 and 1.0. A lower bound that a Clip lacks while
it has an upper one is the constant -inf.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from onnx_coreset.core.arrays import Array, Indices, frozen

Operand = int | Array
"""The number of an earlier value, or a constant of shape () or (n,)."""


class Activation(Protocol):
    """An elementwise function of one pre-activation, with parameters that may differ between neurons."""

    @property
    def name(self) -> str:
        """Name of the record, or "composite"."""

    def __call__(self, t: Array) -> Array:
        """Return f(t), shape (..., n), of pre-activations (..., n)."""

    def take(self, kept: Indices) -> Activation:
        """Return the function of the neurons `kept` (m,) alone."""

    def interval(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return lower and upper bounds (n,) of f on [low, high], (n,) each; infinite ends are allowed."""

    def supremum(self, low: Array, high: Array) -> Array:
        """Return an upper bound (n,) of |f| on [low, high]."""


@dataclass(frozen=True)
class Step:
    """One elementwise operation.

    Attributes:
        op: The ONNX operator's name ("Relu", "Mul", "Erf", ...).
        operands: Earlier values by number, or constants of shape () or (n,).
        attributes: The operator's attributes that matter, sorted by name, defaults included or not.
    """

    op: str
    operands: tuple[Operand, ...]
    attributes: tuple[tuple[str, float | int | str], ...] = ()

    def __post_init__(self) -> None:
        operands = tuple(o if isinstance(o, int) else frozen(o) for o in self.operands)
        object.__setattr__(self, "operands", operands)

    def take(self, kept: Indices) -> Step:
        """Return the step for the neurons `kept` (m,) alone."""
        operands = tuple(o if isinstance(o, int) or o.ndim == 0 else o[kept] for o in self.operands)
        return Step(self.op, operands, self.attributes)


@dataclass(frozen=True)
class Program:
    """A sequence of elementwise steps from `arity` pre-activations to one result.

    Attributes:
        steps: The steps, in an order in which every operand exists.
        arity: Number of pre-activations (1, or 2 for gated layers).
    """

    steps: tuple[Step, ...] = field(default=())
    arity: int = 1

    def take(self, kept: Indices) -> Program:
        """Return the program for the neurons `kept` (m,) alone."""
        return Program(tuple(step.take(np.asarray(kept)) for step in self.steps), self.arity)
