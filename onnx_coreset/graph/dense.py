"""The matrix product of a linear operator, wherever its operands stand.

Gemm, FusedGemm           Y = alpha A B + beta C, an activation after it in FusedGemm
MatMul, FusedMatMul       Y = alpha A B, leading axes of size one allowed in the weights
Einsum                    a sum over one letter of the data and of a matrix

Either of A and B may hold the weights, and either may be transposed. What the product adds to its data is described by
axes counted from the end: which axis of the data it sums over, and which axis of the result its outputs run along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array
from onnx_coreset.graph.model.document import Document, Numbers
from onnx_coreset.graph.model.sources import is_float
from onnx_coreset.graph.skip import Stop
from onnx_coreset.graph.weightless import no_weights


def _names(words: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(words.split())


STANDARD = (None, "", "ai.onnx")
MICROSOFT = "com.microsoft"
GEMMS = ("Gemm", "FusedGemm")
_PRODUCTS = frozenset(
    {("", "Gemm"), ("", "MatMul"), ("", "Einsum")}
    | {(MICROSOFT, op) for op in ("FusedGemm", "FusedMatMul", "TransposeMatMul")}
)
_QUANTIZED = _names(
    "MatMulInteger QLinearMatMul ConvInteger QLinearConv QGemm MatMulNBits MatMulBnb4 MatMulFpQ4 "
    "DynamicQuantizeMatMul MatMulIntegerToFloat DynamicQuantizeLSTM QAttention"
)
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"), ()),
        **dict.fromkeys(("LeakyRelu", "ThresholdedRelu", "Elu", "Celu"), ("alpha",)),
        "HardSigmoid": ("alpha", "beta"),
        "Selu": ("alpha", "gamma"),
    }
)


@dataclass(frozen=True)
class Axes:
    """Where outputs and inputs run, counted from the end.

    Attributes:
        out_axis: Axis of the weights that the outputs run along.
        in_axis: Axis of the weights that is summed over.
        axis: Axis of the result that the outputs run along.
        data_axis: Axis of the data that is summed over.
        rank: Number of axes the operator wants its data to have, or None for any.
    """

    out_axis: int
    in_axis: int
    axis: int = -1
    data_axis: int = -1
    rank: int | None = None


@dataclass(frozen=True)
class Fused:
    """An activation inside a linear operator.

    Attributes:
        op: The standard operator it equals.
        attributes: That operator's attributes, sorted by name.
    """

    op: str
    attributes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Dense:
    """A node that multiplies its data by a constant matrix.

    Attributes:
        document: The model it is in.
        node: The node.
        data: Index of the data input.
        weight: Index of the weight input.
        axes: Where outputs and inputs run.
        fused: The activation that the node applies to the product, or None.
    """

    document: Document
    node: gs.Node
    data: int
    weight: int
    axes: Axes
    fused: Fused | None = None

    @property
    def output(self) -> gs.Tensor:
        """The product."""
        return self.node.outputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights as the node reads them."""
        shape = self.document.constant_shape(self.node.inputs[self.weight])
        assert shape is not None
        return shape

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.shape[self.axes.out_axis]

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.shape[self.axes.in_axis]

    @property
    def alpha(self) -> float:
        """Factor of the weights."""
        return float(self.node.attrs.get("alpha", 1.0)) if self.node.op not in ("MatMul", "Einsum") else 1.0

    @property
    def beta(self) -> float:
        """Factor of the bias input."""
        return float(self.node.attrs.get("beta", 1.0))

    @property
    def stored(self) -> Numbers:
        """The weights as the node reads them."""
        numbers = self.document.constant(self.node.inputs[self.weight])
        assert numbers is not None
        return numbers

    def matrix(self) -> Array:
        """Return the weights as (outputs, inputs), float64, alpha included."""
        flat = self.stored.reshape(self.shape[-2:]).astype(np.float64)
        laid: Array = flat if self.axes.out_axis == -2 else flat.T
        return laid if self.alpha == 1.0 else np.multiply(laid, self.alpha)

    def store(self, matrix: Array) -> Numbers:
        """Return `matrix` (outputs, inputs) as the node would read it: alpha taken out, transposed, in the dtype."""
        plain = matrix / self.alpha
        laid = plain if self.axes.out_axis == -2 else plain.T
        stored = self.stored
        return laid.reshape(*stored.shape[:-2], *laid.shape).astype(stored.dtype)

    def third(self) -> gs.Tensor | None:
        """Return the Gemm's bias input, or None where it has none; with beta = 0 only its shape matters."""
        inputs = self.node.inputs
        return inputs[2] if self.node.op in GEMMS and len(inputs) > 2 and inputs[2].name else None

    def bias_input(self) -> gs.Tensor | None:
        """Return the Gemm's bias input, or None where it has none or ignores it."""
        return self.third() if self.beta != 0 else None

    def along(self, values: Numbers) -> Numbers:
        """Return `values` (k,) shaped so that, added to the result, they run along its outputs."""
        return values.reshape(-1, *[1] * (-1 - self.axes.axis))


def dense(document: Document, node: gs.Node, rank: int | None = None) -> Dense | Stop | None:
    """Return the matrix product that `node` is.

    Args:
        document: The model.
        node: Any node.
        rank: Number of axes of the data, where the caller knows it; otherwise its declared or inferred shape is asked.

    Returns:
        The product; a Stop where it is one whose weights cannot be used; None where the node is something else.
    """
    if node.op in _QUANTIZED:
        return Stop("quantized", f"{node.op} is quantized: prune first, then quantize")
    domain = "" if node.domain in STANDARD else node.domain
    if (domain, node.op) not in _PRODUCTS or len(node.inputs) < 2:
        return None
    shapes = [document.constant_shape(tensor) for tensor in node.inputs[:2]]
    if all(shape is not None for shape in shapes):
        return None
    if all(shape is None for shape in shapes):
        return no_weights(document, node)
    weight = 1 if shapes[1] is not None else 0
    data = node.inputs[1 - weight]
    shape = shapes[weight]
    if node.op == "Einsum" and isinstance(stop := _einsum(node, weight, shape or ()), Stop):
        return stop
    if shape is None or len(shape) < 2 or any(size != 1 for size in shape[:-2]) or 0 in shape:
        return Stop("dynamic-weight", f"the weights of {node.op} are not a matrix, but of shape {list(shape or ())}")
    if node.op != "MatMul" and float(node.attrs.get("alpha", 1.0)) == 0.0:
        return Stop("operator", f"the {node.op} ignores its weights")
    if rank is None:
        rank = document.shapes.rank(data)
    axes = _einsum(node, weight, shape) if node.op == "Einsum" else _axes(node, weight, rank)
    if isinstance(axes, Stop):
        return axes
    fused = _fused(node)
    if isinstance(fused, Stop):
        return fused
    product = Dense(document, node, 1 - weight, weight, axes, fused)
    source = document.source(node.inputs[weight])
    assert source is not None
    if not is_float(source.dtype):
        kind = "strings" if source.dtype == object else source.dtype
        return Stop("dtype", f"the weights of {node.op} are {kind}, not floating point")
    bias = document.constant_shape(product.third()) if product.third() is not None else None
    if bias and len(bias) >= -axes.axis and bias[axes.axis] not in (1, product.outputs):
        return Stop("operator", f"the bias of {node.op}, of shape {list(bias)}, does not fit {product.outputs} outputs")
    return product


def _axes(node: gs.Node, weight: int, rank: int | None) -> Axes | Stop:
    """Return the axes of a Gemm or MatMul."""
    gemm = node.op in GEMMS
    plain = node.op == "MatMul"
    left, right = (not plain and bool(node.attrs.get(name, 0)) for name in ("transA", "transB"))
    if any(node.attrs.get(name, 0) for name in ("transBatchA", "transBatchB")) and not plain:
        return Stop("operator", f"the {node.op} moves the batch axes of its operands")
    wanted = 2 if gemm else None
    if weight == 1:
        out_axis, in_axis = (-2, -1) if right else (-1, -2)
        if left and not gemm and (rank is None or rank < 2):
            return Stop("operator", f"the {node.op} transposes data of unknown rank")
        return Axes(out_axis, in_axis, -1, -2 if left else -1, wanted)
    out_axis, in_axis = (-1, -2) if left else (-2, -1)
    if not gemm and rank is None:
        return Stop("operator", f"the weights of {node.op} stand on the left of data of unknown rank")
    if not gemm and rank == 1:
        return Stop("operator", f"the {node.op} transposes a vector") if right else Axes(out_axis, in_axis, rank=1)
    return Axes(out_axis, in_axis, -2, -1 if right else -2, wanted)


def _einsum(node: gs.Node, weight: int, shape: tuple[int, ...]) -> Axes | Stop:
    """Return the axes of an Einsum that is a matrix product: one letter summed over, one letter made."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    stop = Stop("operator", f"the Einsum {equation} is not a product of its data with a matrix")
    match = re.fullmatch(r"(\.{3})?([A-Za-z]*),(\.{3})?([A-Za-z]*)->(\.{3})?([A-Za-z]*)", equation)
    if match is None or len(node.inputs) != 2 or len(shape) != 2:
        return stop
    dots, terms = (match[1], match[3], match[5]), (match[2], match[4])
    data, matrix, result = terms[1 - weight], terms[weight], match[6]
    if dots[weight] or bool(dots[1 - weight]) != bool(dots[2]) or any(len(set(t)) != len(t) for t in (*terms, result)):
        return stop
    summed = [letter for letter in matrix if letter in data and letter not in result]
    made = [letter for letter in matrix if letter in result and letter not in data]
    if len(matrix) != 2 or len(summed) != 1 or len(made) != 1:
        return stop
    if [c for c in data if c != summed[0]] != [c for c in result if c != made[0]]:
        return stop
    return Axes(
        matrix.index(made[0]) - 2,
        matrix.index(summed[0]) - 2,
        result.index(made[0]) - len(result),
        data.index(summed[0]) - len(data),
        None if dots[2] else len(data),
    )


def _fused(node: gs.Node) -> Fused | Stop | None:
    """Return the activation inside a FusedGemm."""
    name = str(node.attrs.get("activation", "")) if node.op == "FusedGemm" else ""
    if not name:
        return None
    wanted = _ACTIVATIONS.get(name)
    given = {key: node.attrs.get(f"activation_{key}") for key in wanted or ()}
    if wanted is None or any(value is None for value in given.values()):
        return Stop("operator", f"the activation {name} inside {node.op} is unknown or lacks its parameters")
    return Fused(name, tuple((key, float(value)) for key, value in sorted(given.items()) if value is not None))
