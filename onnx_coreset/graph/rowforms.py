"""Tensors read as forms of one row x, operator by operator, as far back as a normalisation may reach.

Which tensor x is, is tried: one that a mean is taken of, one that is squared, or what a fused operator reads. No
operator but those of the table below, and no constant that differs between rows, is followed: what is read holds for
every x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.rows import Form, Size, Squares
from onnx_coreset.graph.dense import MICROSOFT, STANDARD
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.model.sources import is_float

__all__ = ["SAME", "Reader", "near", "passes", "roots", "single", "writer"]

_Value = Form | Size | Squares | None
_MOST = 48
_CENTRED = ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")
_NO_BETA = 99
_SCALES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        # Where gamma and beta stand among the inputs.
        "LayerNormalization": (1, 2),
        "SimplifiedLayerNormalization": (1, _NO_BETA),
        "RMSNormalization": (1, _NO_BETA),
        "SkipLayerNormalization": (2, 3),
        "SkipSimplifiedLayerNormalization": (2, _NO_BETA),
        "EmbedLayerNormalization": (5, 6),
    }
)
SAME = frozenset({"Identity", "Cast", "Dropout"})
_SPELLED = SAME | {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "ReduceMean"}


def near(tensor: gs.Tensor) -> dict[int, gs.Tensor]:
    """Return the tensors that `tensor` is made of, by identity, through operators that a normalisation may have."""
    found = {id(tensor): tensor}
    queue = [tensor]
    while queue and len(found) < _MOST:
        node = writer(queue.pop(0))
        if node is None or (node.op not in _SPELLED and node.op not in _SCALES):
            continue
        for made in node.inputs:
            if id(made) not in found:
                found[id(made)] = made
                if node.op in _SPELLED:
                    queue.append(made)
    return found


def roots(close: dict[int, gs.Tensor]) -> list[gs.Tensor | gs.Node]:
    """Return what may be x, each once: tensors, and operators that sum their operands before they normalise."""
    found: dict[int, gs.Tensor | gs.Node] = {}
    for tensor in close.values():
        node = writer(tensor)
        if node is None or not node.inputs:
            continue
        squares = node.op == "Pow" or (node.op == "Mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1])
        if squares or node.op == "ReduceMean" or node.op in _SCALES:
            root = node if _skips(node) else node.inputs[0]
            found.setdefault(id(root), root)
    return list(found.values())


@dataclass
class Reader:
    """Reads tensors as forms of one row x.

    Attributes:
        document: The model.
        root: The tensor whose rows x is, or the operator that makes x of several.
        size: Number of entries d of a row.
        near: Tensors that may be followed, by identity.
        exact: Whether all that was read so far is in single precision or better.
    """

    document: Document
    root: gs.Tensor | gs.Node
    size: int
    near: frozenset[int]
    exact: bool = True
    known: dict[int, _Value] = field(default_factory=dict)

    def value(self, tensor: gs.Tensor) -> _Value:
        """Return what `tensor` is, or None where it is no form of x."""
        if id(tensor) not in self.known:
            # A tensor is not part of itself; where a graph says so, it is nothing.
            self.known[id(tensor)] = None
            self.known[id(tensor)] = self._read(tensor)
        return self.known[id(tensor)]

    def _read(self, tensor: gs.Tensor) -> _Value:
        if tensor is self.root:
            return Form(a=np.ones(()))
        constant = self._constant(tensor)
        if constant is not None:
            return Form(c=constant)
        node = writer(tensor)
        if node is None or id(tensor) not in self.near:
            return None
        if node.op in _SCALES:
            return self._fused(node) if (node if _skips(node) else node.inputs[0]) is self.root else None
        if node.op not in _SPELLED or node.domain not in STANDARD:
            return None
        self.exact = self.exact and single(node)
        operands = [self.value(made) for made in node.inputs[: 1 if node.op in SAME or node.op == "ReduceMean" else 2]]
        if any(operand is None for operand in operands):
            return None
        if node.op in SAME:
            return operands[0] if passes(node) else None
        if node.op == "ReduceMean":
            one = operands[0]
            return one.mean() if isinstance(one, Form | Squares) and self._last_axis(node) else None
        return _unary(node.op, operands[0]) if len(operands) == 1 else _binary(node, operands[0], operands[1])

    def _constant(self, tensor: gs.Tensor) -> Array | None:
        """Return a constant with an entry a feature, or one number, shape (d,) or (); None for others."""
        shape = self.document.constant_shape(tensor)
        if shape is None or any(size != 1 for size in shape[:-1]):
            return None
        numbers = self.document.constant(tensor)
        if numbers is None or not is_float(numbers.dtype):
            return None
        self.exact = self.exact and numbers.dtype.itemsize >= 4
        values = numbers.astype(np.float64).reshape(-1)
        if values.size not in (1, self.size):
            return None
        return values.reshape(()) if values.size == 1 else values

    def _fused(self, node: gs.Node) -> Form | None:
        """Return what a fused normalisation of rows computes."""
        skips = _skips(node)
        eps = float(node.attrs.get("epsilon", 1e-12 if skips else 1e-5))
        if node.domain not in ((MICROSOFT,) if skips else (*STANDARD, MICROSOFT)) or not eps >= 0.0:
            return None
        axis, rank = int(node.attrs.get("axis", -1)), self.document.shapes.rank(node.inputs[0])
        if not skips and axis != -1 and axis + 1 != rank:
            return None
        at_gamma, at_beta = _SCALES[node.op]
        parts = []
        for index in (at_gamma, at_beta):
            given = index < len(node.inputs) and bool(node.inputs[index].name)
            parts.append(self._constant(node.inputs[index]) if given else np.asarray(float(index == at_gamma)))
        gamma, beta = parts
        if gamma is None or beta is None:
            return None
        centred = node.op in _CENTRED
        return Form(a=gamma, b=-gamma if centred else np.zeros(()), c=beta, size=Size(centred, eps, True))

    def _last_axis(self, node: gs.Node) -> bool:
        """Return whether a ReduceMean is over the last axis alone, and keeps it."""
        axes = node.attrs.get("axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1].name:
            axes = self.document.constant(node.inputs[1])
        if axes is None or not int(node.attrs.get("keepdims", 1)):
            return False
        given = [int(axis) for axis in np.asarray(axes).reshape(-1)]
        return given == [-1] or (len(given) == 1 and given[0] + 1 == self.document.shapes.rank(node.inputs[0]))


def _unary(op: str, one: _Value) -> _Value:
    if isinstance(one, Size):
        return {"Sqrt": one.power(0.5), "Reciprocal": one.power(-1.0)}.get(op)
    return one.times(Form(c=-np.ones(()))) if op == "Neg" and isinstance(one, Form) else None


def _binary(node: gs.Node, one: _Value, two: _Value) -> _Value:
    if node.op == "Mul" and node.inputs[0] is node.inputs[1]:
        return one.squared() if isinstance(one, Form) else None
    if node.op == "Add" and isinstance(two, Size):
        one, two = two, one
    if isinstance(one, Size):
        if not isinstance(two, Form):
            return None
        return one.plus(two) if node.op == "Add" else _raised(one, two) if node.op == "Pow" else None
    if not isinstance(one, Form) or not isinstance(two, Form | Size):
        return None
    if node.op == "Div":
        return one.over(two)
    if not isinstance(two, Form):
        return None
    if node.op == "Pow":
        return _raised(one, two)
    return one.times(two) if node.op == "Mul" else one.plus(two, -1.0 if node.op == "Sub" else 1.0)


def _raised(base: Form | Size, exponent: Form) -> _Value:
    """Return a power with a constant exponent."""
    if not exponent.constant or exponent.c.shape != ():
        return None
    power = float(exponent.c)
    return base.power(power) if isinstance(base, Size) else base.squared() if power == 2.0 else None


def passes(node: gs.Node) -> bool:
    """Return whether an Identity, Cast or Dropout leaves numbers as they are, but for rounding."""
    if node.op == "Cast":
        kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
        return node.attrs.get("to") in kinds
    return node.op == "Identity" or (len(node.inputs) < 3 and bool(node.attrs.get("is_test", 1)))


def single(node: gs.Node) -> bool:
    """Return whether a node gives single precision or better, as far as it says."""
    return node.op != "Cast" or node.attrs.get("to") in (TensorProto.FLOAT, TensorProto.DOUBLE)


def _skips(node: gs.Node) -> bool:
    """Return whether a fused normalisation sums several operands first."""
    return str(node.op).startswith(("Skip", "Embed"))


def writer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that has `tensor` as its first output, or None."""
    node = tensor.inputs[0] if isinstance(tensor, gs.Variable) and len(tensor.inputs) == 1 else None
    return node if node is not None and node.outputs[0] is tensor else None
