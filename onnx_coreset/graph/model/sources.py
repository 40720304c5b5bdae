"""Constants that reach their reader through nodes that only move them.

Exporters that do not simplify write a weight as it is stored and turn it at run time: Transpose, Reshape, Flatten,
Squeeze, Unsqueeze, Identity, and Cast between floating-point types. A `Source` is a stored constant with the moves to
one tensor; numbers go through it in both directions, and nothing is computed but their layout and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper

Numbers = NDArray[np.generic]
Sizes = tuple[int, ...]
Settings = Callable[[gs.Tensor], Numbers | None]

_MOVING = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


def moving_node(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that writes `tensor` if it is one that may move a constant, or None."""
    if isinstance(tensor, gs.Variable) and len(tensor.inputs) == 1:
        node = tensor.inputs[0]
        if node.op in _MOVING and node.domain in (None, "", "ai.onnx") and len(node.inputs):
            return node
    return None


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Return whether `dtype` is a floating-point type, bfloat16 included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


@dataclass(frozen=True)
class Move:
    """What one node does to a constant.

    Attributes:
        node: The node.
        before: Shape of what it reads.
        after: Shape of what it writes.
        order: Order of the axes, of a Transpose; None for the others, which keep the order of the numbers.
        was: The dtype it reads.
        dtype: The dtype it writes.
    """

    node: gs.Node
    before: Sizes
    after: Sizes
    order: Sizes | None
    was: np.dtype[np.generic]
    dtype: np.dtype[np.generic]

    def forward(self, numbers: Numbers) -> Numbers:
        """Return what the node writes when it reads `numbers`."""
        moved = numbers.transpose(self.order) if self.order is not None else numbers.reshape(self.after)
        return moved.astype(self.dtype, copy=False)

    def backward(self, numbers: Numbers) -> Numbers | None:
        """Return what the node must read so that it writes `numbers`, or None where that cannot be told.

        Args:
            numbers: Of the shape `after`, or of one that differs from it along a single axis.
        """
        if numbers.ndim != len(self.after):
            return None
        if self.order is not None:
            turned = numbers.transpose(np.argsort(self.order))
            return turned.astype(self.was, copy=False)
        shape = resized(self.before, self.after, tuple(numbers.shape))
        return None if shape is None else numbers.reshape(shape).astype(self.was, copy=False)


def move(node: gs.Node, before: Sizes, was: np.dtype[np.generic], settings: Settings) -> Move | None:
    """Return what `node` does to a constant, or None where it does not only move it.

    Args:
        node: A node of an operator that may move constants.
        before: Shape of the constant.
        was: Its dtype.
        settings: Reads the node's further inputs; None for what is no constant.
    """
    order, dtype, after = None, was, before
    if node.op == "Transpose":
        order = tuple(int(a) for a in node.attrs.get("perm", range(len(before))[::-1]))
        if sorted(order) != list(range(len(before))):
            return None
        after = tuple(before[axis] for axis in order)
    elif node.op == "Cast":
        if node.attrs.get("to") not in _FLOATS or not is_float(was):
            return None
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(node.attrs["to"]))
    elif node.op != "Identity":
        found = _reshaped(node, before, settings)
        if found is None:
            return None
        after = found
    return Move(node, before, after, order, was, dtype)


def _reshaped(node: gs.Node, before: Sizes, settings: Settings) -> Sizes | None:
    """Return the shape that a Reshape, Flatten, Squeeze or Unsqueeze gives."""
    if node.op == "Flatten":
        axis = int(node.attrs.get("axis", 1))
        axis += len(before) if axis < 0 else 0
        return math.prod(before[:axis]), math.prod(before[axis:])
    given = node.attrs.get("axes")
    if given is None and len(node.inputs) > 1 and node.inputs[1].name:
        given = settings(node.inputs[1])
        if given is None:
            return None
    values = None if given is None else [int(v) for v in np.asarray(given).reshape(-1)]
    if node.op == "Reshape":
        return None if values is None else target_shape(before, values, bool(node.attrs.get("allowzero", 0)))
    if node.op == "Squeeze":
        axes = {a % len(before) for a in values} if values is not None else {i for i, n in enumerate(before) if n == 1}
        return tuple(n for i, n in enumerate(before) if i not in axes) if all(before[a] == 1 for a in axes) else None
    if values is None:
        return None
    rest, rank = iter(before), len(before) + len(values)
    axes = {a % rank for a in values}
    return tuple(1 if i in axes else next(rest) for i in range(rank)) if len(axes) == len(values) else None


def target_shape(before: Sizes, target: list[int], allowzero: bool = False) -> Sizes | None:
    """Return the shape that a Reshape to `target` gives an array of shape `before`, or None where it does not fit."""
    if any(n == 0 and not allowzero and i >= len(before) for i, n in enumerate(target)) or target.count(-1) > 1:
        return None
    sizes = [before[i] if n == 0 and not allowzero else n for i, n in enumerate(target)]
    if -1 in sizes:
        known = -math.prod(sizes)
        if known <= 0 or math.prod(before) % known:
            return None
        sizes[sizes.index(-1)] = math.prod(before) // known
    return tuple(sizes) if math.prod(sizes) == math.prod(before) else None


def resized(before: Sizes, after: Sizes, wanted: Sizes) -> Sizes | None:
    """Return the shape that, reshaped as `before` is to `after`, would give `wanted`.

    Args:
        before: Shape in front of a reshape.
        after: Shape behind it.
        wanted: A shape that differs from `after` along one axis at most.

    Returns:
        `before` with the size of that axis changed; None where the reshape merges or splits the axis.
    """
    if len(wanted) != len(after):
        return None
    changed = [axis for axis, (old, new) in enumerate(zip(after, wanted, strict=True)) if old != new]
    if not changed:
        return before
    if len(changed) > 1:
        return None
    (axis,) = changed
    lead = math.prod(after[:axis])
    for index, size in enumerate(before):
        if size == after[axis] and math.prod(before[:index]) == lead:
            return (*before[:index], wanted[axis], *before[index + 1 :])
    return None


def retargeted(before: Sizes, target: list[int], wanted: Sizes, allowzero: bool) -> list[int] | None:
    """Return the target, as like `target` as can be, that reshapes an array of shape `before` to `wanted`."""
    changed = [n if n in (0, -1) or n == size else size for n, size in zip(target, wanted, strict=True)]
    for candidate in (target, changed, list(wanted)):
        if target_shape(before, candidate, allowzero) == wanted:
            return candidate
    return None


@dataclass(frozen=True)
class Source:
    """A stored constant, and how it comes to a tensor.

    Attributes:
        root: The tensor that holds the numbers: an initializer or the output of a Constant node.
        moves: What stands between, from the root to the tensor.
        shape: Shape of the tensor.
        dtype: Its dtype.
    """

    root: gs.Tensor
    moves: tuple[Move, ...]
    shape: Sizes
    dtype: np.dtype[np.generic]

    def forward(self, stored: Numbers) -> Numbers:
        """Return the tensor's numbers from the stored ones."""
        for step in self.moves:
            stored = step.forward(stored)
        return stored

    def backward(self, numbers: Numbers, settings: Settings) -> tuple[Numbers, tuple[Change, ...]] | None:
        """Return what must be stored so that the tensor becomes `numbers`.

        Args:
            numbers: The tensor's new numbers.
            settings: Reads the further inputs of nodes.

        Returns:
            The numbers to store and what changes in each node, from the root on; None where the nodes between cannot
            give such a tensor.
        """
        changes: list[Change] = []
        for step in reversed(self.moves):
            wanted = tuple(numbers.shape)
            before = step.backward(numbers)
            if before is None:
                return None
            numbers, sizes, target = before, tuple(before.shape), None
            if step.node.op == "Reshape":
                given = settings(step.node.inputs[1])
                assert given is not None
                old = [int(n) for n in given.reshape(-1)]
                target = retargeted(sizes, old, wanted, bool(step.node.attrs.get("allowzero", 0)))
                if target is None:
                    return None
                target = None if target == old else target
            else:
                again = move(step.node, sizes, step.was, settings)
                if again is None or again.after != wanted:
                    return None
            changes.append(Change(step.node, wanted, target))
        return numbers, tuple(reversed(changes))


@dataclass(frozen=True)
class Change:
    """What becomes of a node when the constant it moves is given another size.

    Attributes:
        node: The node.
        shape: Shape of what it writes from now on.
        target: New target shape of a Reshape, or None where nothing changes.
    """

    node: gs.Node
    shape: Sizes
    target: list[int] | None
