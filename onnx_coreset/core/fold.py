"""Folding what is affine in front of an activation into the incoming weights.

Biases, scales and normalisations that stand between a linear operator and its activation are vectors over the neurons:
while the pre-activation t has a single reader, and that reader is affine in it,

    t -> t + c, t - c, c - t, t * c, t / c or -t,

the step is taken out of the program and applied to (incoming, bias). A BatchNormalization is a product and a sum a
neuron, wherever it stands, and becomes those two steps. Nothing is folded in the graph itself: there the vectors are
sliced.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.activations.program import Program, Step
from onnx_coreset.core.arrays import Array


def fold(program: Program, incoming: Array, bias: Array) -> tuple[Program, Array, Array]:
    """Return an equal layer whose program does not begin with affine steps.

    Args:
        program: Program of one pre-activation.
        incoming: Incoming weights, shape (n, d).
        bias: Biases, shape (n,).

    Returns:
        The rest of the program, without BatchNormalization, and the incoming weights and biases with the affine steps
        applied. O(n d) a step.
    """
    program = plain(program)
    while True:
        readers = [i for i, step in enumerate(program.steps) if any(_is(o, 0) for o in step.operands)]
        if len(readers) != 1 or readers[0] != 0 or len(program.steps) == 0:
            return program, incoming, bias
        affine = _affine(program.steps[0])
        if affine is None:
            return program, incoming, bias
        scale, shift = affine
        incoming, bias = incoming * np.broadcast_to(scale, bias.shape)[:, None], bias * scale + shift
        program = Program(tuple(_renumber(step) for step in program.steps[1:]), program.arity)


def plain(program: Program) -> Program:
    """Return an equal program of standard elementwise steps alone, without BatchNormalization."""
    return _without_normalization(spelled_out(program))


def spelled_out(program: Program) -> Program:
    """Return an equal program with ONNX Runtime's BiasGelu and FastGelu written as Add and Gelu."""
    steps: list[Step] = []
    place = list(range(program.arity))
    for step in program.steps:
        operands = tuple(place[o] if isinstance(o, int) else o for o in step.operands)
        if step.op in ("BiasGelu", "FastGelu"):
            if len(operands) > 1:
                steps.append(Step("Add", operands))
                operands = (program.arity + len(steps) - 1,)
            kind = "tanh" if step.op == "FastGelu" else "none"
            steps.append(Step("Gelu", operands, (("approximate", kind),)))
        else:
            steps.append(Step(step.op, operands, step.attributes))
        place.append(program.arity + len(steps) - 1)
    return Program(tuple(steps), program.arity)


def _without_normalization(program: Program) -> Program:
    """Return an equal program in which (t - mean) / sqrt(var + eps) * scale + shift is one Mul and one Add."""
    steps: list[Step] = []
    place = list(range(program.arity))
    for step in program.steps:
        operands = tuple(place[o] if isinstance(o, int) else o for o in step.operands)
        if step.op == "BatchNormalization":
            scale, shift, mean, variance = (np.asarray(o, dtype=np.float64) for o in operands[1:])
            factor = scale / np.sqrt(variance + float(dict(step.attributes).get("epsilon", 1e-5)))
            steps.append(Step("Mul", (operands[0], factor)))
            steps.append(Step("Add", (program.arity + len(steps) - 1, shift - mean * factor)))
        else:
            steps.append(Step(step.op, operands, step.attributes))
        place.append(program.arity + len(steps) - 1)
    return Program(tuple(steps), program.arity)


def _is(operand: int | Array, number: int) -> bool:
    return isinstance(operand, int) and operand == number


def _renumber(step: Step) -> Step:
    """The value the first step made becomes the pre-activation; all later ones move down by one."""
    return Step(step.op, tuple(o - 1 if isinstance(o, int) else o for o in step.operands), step.attributes)


def _affine(step: Step) -> tuple[Array, Array] | None:
    """Return (scale, shift), shape () or (n,), with step(t) = scale * t + shift, or None."""
    one, zero = np.ones(()), np.zeros(())
    numbers = [o for o in step.operands if not isinstance(o, int)]
    if sum(isinstance(o, int) for o in step.operands) != 1:
        return None
    first = isinstance(step.operands[0], int)
    if step.op in ("Neg", "Identity"):
        return (-one if step.op == "Neg" else one), zero
    if len(numbers) != 1:
        return None
    constant = numbers[0]
    if step.op == "Add":
        return one, constant
    if step.op == "Sub":
        return (one, -constant) if first else (-one, constant)
    if step.op == "Mul":
        return constant, zero
    if step.op == "Div" and first and bool(np.all(constant != 0)):
        return one / constant, zero
    return None
