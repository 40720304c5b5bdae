"""The table of well-known activations, and recognition: which one a program is, by structure alone."""

from __future__ import annotations

from functools import cache

import numpy as np

from onnx_coreset.core.activations.algebra import Poly, Unnamed, match
from onnx_coreset.core.activations.canonical import canonical
from onnx_coreset.core.activations.operators import SELECTING
from onnx_coreset.core.activations.piecewise import PIECEWISE
from onnx_coreset.core.activations.program import Activation, Program
from onnx_coreset.core.activations.record import Composite, Named, Parameters, Record
from onnx_coreset.core.activations.smooth import SMOOTH

__all__ = ["ACTIVATIONS", "recognise"]

ACTIVATIONS: tuple[Record, ...] = (*PIECEWISE, *SMOOTH)
"""Every activation that has a name. Where two records could name a program, the earlier one does."""


def recognise(program: Program) -> Activation:
    """Return the activation that a program computes, by name where a record has it.

    The program's normal form must equal the normal form of one of the record's spellings: same structure, constants
    equal up to the rounding of float32, or of float16 or bfloat16 where the record has constants of its own. Two
    functions that are merely close never share a name.

    Args:
        program: A program of arity 1; constants () or (n,).

    Returns:
        A `Named`, or a `Composite` that evaluates the program itself. A slope that is equal for all neurons is a
        number: such a PRelu is named LeakyRelu.

    Raises:
        ValueError: The program takes more than one pre-activation.
    """
    if program.arity != 1:
        raise ValueError(f"an activation takes one pre-activation, not {program.arity}")
    try:
        form = canonical(program)
    except Unnamed:
        return Composite(program)
    for index, record in enumerate(ACTIVATIONS):
        parameters = record.read(form)
        if parameters is not None and any(match(form, known) for known in _forms(index, record, parameters)):
            selects = all(step.op in SELECTING for step in program.steps)
            return Named(record, parameters, selects, None if selects else _cancels(program))
    return Composite(program)


def _cancels(program: Program) -> float | None:
    """Return the largest constant of a program of several steps, None of one."""
    if len(program.steps) == 1:
        return None
    constants = [np.abs(o) for step in program.steps for o in step.operands if not isinstance(o, int)]
    return float(max((np.max(c, initial=0.0, where=np.isfinite(c)) for c in constants), default=0.0))


def _forms(index: int, record: Record, parameters: Parameters) -> tuple[Poly, ...]:
    """Return the normal forms of a record's spellings."""
    return _normal_forms(record, parameters) if parameters else _fixed_forms(index)


@cache
def _fixed_forms(index: int) -> tuple[Poly, ...]:
    """Return the normal forms of a record without parameters: they never change."""
    return _normal_forms(ACTIVATIONS[index], ())


def _normal_forms(record: Record, parameters: Parameters) -> tuple[Poly, ...]:
    forms = []
    for spelling in record.spellings(parameters):
        try:
            forms.append(canonical(spelling))
        except Unnamed:
            # Parameters that were read from a form of another record need not make sense for this one.
            continue
    return tuple(forms)
