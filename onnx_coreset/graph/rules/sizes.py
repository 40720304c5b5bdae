"""Sizes that a graph computes: what a Shape, Gather, Slice, Concat or a little arithmetic makes of a tensor's shape.

A size that depends on the number of neurons is kept as its values for every number of neurons there may be from now on,
1 .. n: two such sizes are the same when all those values are. A size that is not known is equal to itself alone, or to
one of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Indices
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.rules.values import Value

_MOST = 64
_DEEPEST = 24


@dataclass(frozen=True)
class Literal:
    """Where an integer of the graph stands: (node that reads it, index of the input, position in it)."""

    node: gs.Node
    index: int
    position: int


@dataclass(frozen=True)
class Size:
    """One size.

    Attributes:
        value: Its value, where it is known and does not depend on the neurons.
        along: Its values for 1 .. n neurons, where it depends on them.
        token: What it is called, where it is not known.
        literal: Where it is written, if it is.
    """

    value: int | None = None
    along: Indices | None = field(default=None, compare=False)
    token: object = None
    literal: Literal | None = field(default=None, compare=False)

    @staticmethod
    def unknown() -> Size:
        """Return a size that is equal to nothing but itself."""
        return Size(token=object())


Sizes = tuple[Size, ...]


@dataclass(frozen=True)
class Reader:
    """Reads sizes off a graph in which some tensors hold neurons.

    Attributes:
        document: The model.
        values: The tensors of the space, by identity.
        width: Number of neurons n.
    """

    document: Document
    values: Mapping[int, Value]
    width: int

    def shape(self, tensor: gs.Tensor) -> Sizes | None:
        """Return the sizes of `tensor`, or None where its rank is not known, or how it depends on the neurons."""
        known = self.document.constant_shape(tensor) or self.document.shapes.of(tensor)
        value = self.values.get(id(tensor))
        if known is None and value is not None and value.rank is not None:
            known = (None,) * value.rank
        if known is None:
            return None
        sizes = [
            Size(value=n) if isinstance(n, int) else Size(token=n if n is not None else (id(tensor), i))
            for i, n in enumerate(known)
        ]
        if value is not None:
            totals = value.layout.totals(self.width)
            if len(sizes) < -value.axis or totals is None:
                return None
            sizes[value.axis] = Size(along=totals)
        return tuple(sizes)

    def entries(self, node: gs.Node, index: int, depth: int = 0) -> Sizes | None:
        """Return the integers that input `index` of `node` holds, or None where they cannot be told."""
        tensor = node.inputs[index]
        numbers = self.document.constant_shape(tensor)
        if numbers is not None:
            if int(np.prod(numbers)) > _MOST:
                return None
            held = self.document.constant(tensor)
            assert held is not None
            if held.dtype.kind not in "iu":
                return None
            flat = enumerate(held.reshape(-1))
            return tuple(Size(value=int(n), literal=Literal(node, index, i)) for i, n in flat)
        if len(tensor.inputs) != 1 or depth > _DEEPEST:
            return None
        return self.made(tensor.inputs[0], depth + 1)

    def made(self, node: gs.Node, depth: int = 0) -> Sizes | None:
        """Return the integers that `node` makes, or None where they cannot be told."""
        if node.domain not in (None, "", "ai.onnx") or not node.inputs:
            return None
        if node.op == "Shape":
            sizes = self.shape(node.inputs[0])
            if sizes is None:
                return None
            return sizes[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
        if node.op not in COMPUTES:
            return None
        if node.op in _ARITHMETIC:
            return self._arithmetic(node, depth)
        if node.op == "Concat":
            parts = [self.entries(node, i, depth) for i in range(len(node.inputs))]
            known = [part for part in parts if part is not None]
            return tuple(size for part in known for size in part) if len(known) == len(parts) else None
        data = self.entries(node, 0, depth)
        if data is None or node.op not in ("Gather", "Slice"):
            return data
        settings = [self.document.constant(tensor) for tensor in node.inputs[1:]]
        if any(setting is None for setting in settings) or not settings:
            return None
        numbers = [np.asarray(setting).reshape(-1) for setting in settings]
        if node.op == "Gather":
            return tuple(data[int(i)] for i in numbers[0]) if np.all(np.abs(numbers[0] + 0.5) < len(data)) else None
        step = int(numbers[3][0]) if len(numbers) > 3 else 1
        return data[int(numbers[0][0]) : int(numbers[1][0]) : step]

    def _arithmetic(self, node: gs.Node, depth: int) -> Sizes | None:
        left, right = (self.entries(node, i, depth) for i in (0, 1))
        if left is None or right is None or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return None
        count = max(len(left), len(right))
        pairs = zip(left * (count // len(left)), right * (count // len(right)), strict=True)
        return tuple(_computed(_ARITHMETIC[node.op], a, b) for a, b in pairs)


def _quotient(a: Indices, b: Indices) -> Indices:
    """Return a / b, rounded towards zero, as ONNX divides integers."""
    return np.asarray(np.trunc(np.divide(a, b)), dtype=np.intp)


_ARITHMETIC: Mapping[str, Callable[[Indices, Indices], Indices]] = MappingProxyType(
    {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _quotient}
)
COMPUTES = frozenset(_ARITHMETIC) | {"Concat", "Gather", "Slice", "Unsqueeze", "Squeeze", "Identity", "Cast", "Reshape"}
"""Operators through which integers are followed."""


def _computed(function: Callable[[Indices, Indices], Indices], a: Size, b: Size) -> Size:
    numbers = [s.along if s.along is not None else s.value for s in (a, b)]
    if any(n is None for n in numbers) or (function is _quotient and np.any(np.asarray(numbers[1]) == 0)):
        return Size.unknown()
    result = function(np.asarray(numbers[0]), np.asarray(numbers[1]))
    return Size(value=int(result)) if result.ndim == 0 else Size(along=result)


def same_product(a: Sequence[Size], b: Sequence[Size]) -> bool:
    """Return whether the products of two lists of sizes, none of which depends on the neurons, are surely equal."""
    rest = list(b)
    product = 1
    for size in a:
        if size.value is not None:
            product *= size.value
        elif size in rest:
            rest.remove(size)
        else:
            return False
    return all(size.value is not None for size in rest) and product == int(np.prod([s.value or 0 for s in rest] or [1]))
