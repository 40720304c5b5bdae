"""What a layer reads, followed back over nodes that only move or rescale numbers: a model input, or a bounded operator.

    x = scale * tensor + shift,      tensor an input of the model, or the output of Sigmoid, Tanh, Softmax, Clip, ...

Scale and shift are single numbers. Which entries of the tensor meet in one row does not matter to who asks: every entry
of x is one of them, rescaled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.graph.dense import STANDARD
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space

__all__ = ["SHAPES", "Origin", "bounded", "followed", "origin"]

SHAPES = frozenset(("Flatten", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Dropout"))
"""Operators that keep all entries, in their order."""

_MOVES = SHAPES | {"Transpose", "Gather", "Slice", "Split"}
_SLACK = 1e-6
"""What an operator's approximation of its function may leave its range by."""

_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "Sigmoid": (0.0, 1.0),
        "HardSigmoid": (0.0, 1.0),
        "Softmax": (0.0, 1.0),
        "Tanh": (-1.0, 1.0),
        "Softsign": (-1.0, 1.0),
        "Erf": (-1.0, 1.0),
        "Sin": (-1.0, 1.0),
        "Cos": (-1.0, 1.0),
    }
)


@dataclass(frozen=True)
class Origin:
    """Where the numbers that a layer reads come from: x = scale * tensor + shift, entry by entry.

    Attributes:
        tensor: A tensor.
        scale: Factor, not 0.
        shift: What is added.
    """

    tensor: gs.Tensor
    scale: float = 1.0
    shift: float = 0.0


def origin(document: Document, space: Space) -> Origin:
    """Return where the numbers come from that a space reads, as far back as moves and single constants lead.

    Args:
        document: The model.
        space: A space of it.
    """
    return followed(document, space.producer.input, _MOVES)


def followed(document: Document, tensor: gs.Tensor, moves: Collection[str]) -> Origin:
    """Return where the numbers of a tensor come from, as far back as single constants and the operators `moves` lead.

    Args:
        document: The model.
        tensor: A tensor of it.
        moves: Operators whose output holds numbers of their first input as they are.
    """
    found = Origin(tensor)
    for _ in range(len(document.graph.nodes) + 1):
        node = found.tensor.inputs[0] if len(found.tensor.inputs) == 1 else None
        step = None if node is None or node.domain not in STANDARD else _back(document, node, found, moves)
        if step is None:
            return found
        found = step
    return found


def _back(document: Document, node: gs.Node, found: Origin, moves: Collection[str]) -> Origin | None:
    """Return the origin one node further back, or None where it is not a move or a rescaling."""
    if not node.inputs:
        return None
    if node.op in moves:
        return Origin(node.inputs[0], found.scale, found.shift)
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    numbers = [_number(document, tensor) for tensor in node.inputs]
    if (numbers[0] is None) == (numbers[1] is None):
        return None
    first = numbers[1] is not None
    data, number = (node.inputs[0], numbers[1]) if first else (node.inputs[1], numbers[0])
    assert number is not None
    scale, shift = _step(node.op, first, number)
    return Origin(data, found.scale * scale, found.scale * shift + found.shift) if scale else None


def _step(op: str, first: bool, number: float) -> tuple[float, float]:
    """Return scale and shift of data op number, or of number op data; a scale of 0 where it is neither."""
    if op == "Add":
        return 1.0, number
    if op == "Sub":
        return (1.0, -number) if first else (-1.0, number)
    if op == "Mul":
        return number, 0.0
    return (1.0 / number, 0.0) if first and number else (0.0, 0.0)


def _number(document: Document, tensor: gs.Tensor) -> float | None:
    """Return the number that a constant holds again and again, or None where it is no such constant."""
    shape = document.constant_shape(tensor)
    if shape is None or 0 in shape:
        return None
    numbers = document.constant(tensor)
    values = None if numbers is None else np.asarray(numbers, dtype=np.float64)
    if values is None or not np.isfinite(values).all() or np.any(values != values.flat[0]):
        return None
    return float(values.flat[0])


def bounded(document: Document, found: Origin) -> tuple[str, float, float] | None:
    """Return the operator that bounds what a layer reads, and the bounds; None where none does.

    Args:
        document: The model.
        found: Where the numbers come from.
    """
    node = found.tensor.inputs[0] if len(found.tensor.inputs) == 1 else None
    if node is None or node.domain not in STANDARD:
        return None
    ends = _clip(document, node) if node.op == "Clip" else _RANGES.get(node.op)
    if ends is None:
        return None
    slack = 0.0 if node.op == "Clip" else _SLACK
    low, high = sorted(found.scale * end + found.shift for end in (ends[0] - slack, ends[1] + slack))
    return node.op, low, high


def _clip(document: Document, node: gs.Node) -> tuple[float, float] | None:
    ends = [node.attrs.get(name) for name in ("min", "max")]
    for place, tensor in enumerate(node.inputs[1:3]):
        if tensor.name:
            ends[place] = _number(document, tensor)
    low, high = ends
    if low is None or high is None or not float(low) <= float(high):
        return None
    return float(low), float(high)
