"""Linear operators with constant weights, in the many ways that exporters and ONNX Runtime write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUTS, NEURONS, OUTPUTS, ROWS = 5, 7, 4, 3
MICROSOFT = "com.microsoft"
TYPES: Mapping[str, int] = {"f4": TensorProto.FLOAT, "f8": TensorProto.DOUBLE, "f2": TensorProto.FLOAT16}
Numbers = NDArray[np.generic]


@dataclass
class Builder:
    """Nodes and constants of a graph under construction."""

    rng: np.random.Generator
    dtype: str = "f4"
    opset: int = 17
    rank: int = 2
    as_nodes: bool = False
    left: bool = False
    moves: tuple[str, ...] = ()
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    count: Iterator[int] = field(default_factory=itertools.count)

    def normal(self, *shape: int) -> Numbers:
        return self.rng.standard_normal(shape)

    def constant(self, values: object, stem: str = "c", dtype: str | None = None) -> str:
        name = f"{stem}{next(self.count)}"
        tensor = numpy_helper.from_array(np.asarray(values, dtype=dtype or self.dtype), name)
        if self.as_nodes and (self.opset >= 9 or tensor.data_type != TensorProto.INT64):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def weight(self, values: Numbers, stem: str = "W") -> str:
        """Return a constant as exporters leave it that do not simplify: stored otherwise, and moved at run time."""
        steps: list[Callable[[str], str]] = []
        for kind in self.moves if values.ndim else ():
            values, step = MOVES[kind](self, values)
            steps.append(step)
        dtype = "f2" if "widened" in self.moves and values.ndim else None
        name = self.constant(values, stem, dtype)
        for step in reversed(steps):
            name = step(name)
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        name = f"t{next(self.count)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{name}", domain=domain, **attributes))
        return name

    def axes(self, op: str, x: str, axes: list[int]) -> str:
        """Return Squeeze or Unsqueeze of `x` in the form of the opset."""
        if self.opset < 13:
            return self.node(op, x, axes=axes)
        return self.node(op, x, self.constant(axes, dtype="i8"))


Move = Callable[[Builder, Numbers], tuple[Numbers, Callable[[str], str]]]


def _transposed(b: Builder, values: Numbers) -> tuple[Numbers, Callable[[str], str]]:
    order = list(range(values.ndim))[::-1]
    return values.transpose(), lambda name: b.node("Transpose", name, perm=order)


def _reshaped(b: Builder, values: Numbers) -> tuple[Numbers, Callable[[str], str]]:
    shape: list[int] = list(values.shape)
    if shape:
        shape[int(b.rng.integers(len(shape)))] = -1
    shape = [0 if b.rng.random() < 0.3 and n != -1 and i > 0 else n for i, n in enumerate(shape)]
    stored = values.reshape(*[1] * int(b.rng.integers(2)) * (0 not in shape), *values.shape)
    return stored, lambda name: b.node("Reshape", name, b.constant(shape, dtype="i8"))


def _unsqueezed(b: Builder, values: Numbers) -> tuple[Numbers, Callable[[str], str]]:
    ones = [axis for axis, size in enumerate(values.shape) if size == 1][:1]
    if not ones:
        return values, lambda name: b.node("Identity", name)
    return values.reshape([n for i, n in enumerate(values.shape) if i != ones[0]]), lambda name: b.axes(
        "Unsqueeze", name, ones
    )


MOVES: Mapping[str, Move] = {
    "transposed": _transposed,
    "turned": lambda b, v: (v.transpose(), lambda name: b.node("Transpose", name)),
    "reshaped": _reshaped,
    "identity": lambda b, v: (v, lambda name: b.node("Identity", name)),
    "squeezed": lambda b, v: (v.reshape(1, *v.shape), lambda name: b.axes("Squeeze", name, [0])),
    "unsqueezed": _unsqueezed,
    "flattened": lambda b, v: (
        (v.reshape(v.shape[0], 1, *v.shape[1:]), lambda name: b.node("Flatten", name, axis=1))
        if v.ndim == 2
        else (v, lambda name: b.node("Identity", name))
    ),
    "widened": lambda b, v: (v.astype("f2"), lambda name: b.node("Cast", name, to=TYPES[b.dtype])),
}


Linear = Callable[[Builder, str, int, int], str]
Region = Callable[[Builder, str], str]


def gemm(shape: tuple[int, ...] | str | None = None, transposed: bool = False, **attributes: float) -> Linear:
    """Return Gemm with a bias input of `shape`: None for no bias; "n" stands for the number of outputs."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        inputs = [x, b.weight(b.normal(n, d) if transposed else b.normal(d, n))]
        if shape is not None:
            inputs.append(b.weight(b.normal(*(n if size == "n" else size for size in shape)), "C"))
        extra = {"transB": 1} if transposed else {}
        return b.node("Gemm", *inputs, **attributes, **extra)

    return make


def matmul(op: str = "", shape: tuple[object, ...] = ("n",), first: bool = False, leading: int = 0) -> Linear:
    """Return MatMul, and behind it `op` with a constant of `shape`, on the left where `first`."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        y = b.node("MatMul", x, b.weight(b.normal(*[1] * leading, d, n)))
        if not op:
            return y
        c = b.weight(b.normal(*(n if size == "n" else size for size in shape)), "C")
        return b.node(op, c, y) if first else b.node(op, y, c)

    return make


def left_matmul(op: str = "", shape: tuple[object, ...] = ("n", 1), first: bool = False, leading: int = 0) -> Linear:
    """Return MatMul with its weights first, and behind it `op` with a constant of `shape`."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        y = b.node("MatMul", b.weight(b.normal(*[1] * leading, n, d)), x)
        if not op:
            return y
        c = b.weight(b.normal(*(n if size == "n" else size for size in shape)), "C")
        return b.node(op, c, y) if first else b.node(op, y, c)

    return make


def left_gemm(shape: tuple[object, ...] | None = None, transposed: bool = False, **attributes: float) -> Linear:
    """Return Gemm with its weights first and a bias input of `shape`."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        inputs = [b.weight(b.normal(d, n) if transposed else b.normal(n, d)), x]
        if shape is not None:
            inputs.append(b.weight(b.normal(*(n if size == "n" else size for size in shape)), "C"))
        return b.node("Gemm", *inputs, **attributes, **({"transA": 1} if transposed else {}))

    return make


def fused_gemm(activation: str, transposed: bool = False, **attributes: object) -> Linear:
    """Return ONNX Runtime's FusedGemm."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        inputs = [x, b.weight(b.normal(n, d) if transposed else b.normal(d, n)), b.weight(b.normal(n), "C")]
        extra = {"transB": 1} if transposed else {}
        return b.node("FusedGemm", *inputs, domain=MICROSOFT, activation=activation, **attributes, **extra)

    return make


def fused_matmul(op: str = "", transposed: bool = False, **attributes: object) -> Linear:
    """Return ONNX Runtime's FusedMatMul, and behind it `op` with a constant."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        weights = b.weight(b.normal(n, d) if transposed else b.normal(d, n))
        y = b.node("FusedMatMul", x, weights, domain=MICROSOFT, transB=int(transposed), **attributes)
        return b.node(op, y, b.weight(b.normal(n), "C")) if op else y

    return make


def einsum(equation: str, op: str = "", shape: tuple[object, ...] = ("n",)) -> Linear:
    """Return Einsum; in its weights d is the letter summed over and f the one that is made."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        terms = equation.partition("->")[0].split(",")
        weight = next(i for i, term in enumerate(terms) if set(term) == {"d", "f"})
        values = b.weight(b.normal(*(d if letter == "d" else n for letter in terms[weight])))
        inputs = [x, values] if weight == 1 else [values, x]
        y = b.node("Einsum", *inputs, equation=equation)
        return b.node(op, y, b.weight(b.normal(*(n if size == "n" else size for size in shape)), "C")) if op else y

    return make


LEFT_PRODUCERS: Mapping[str, Linear] = {
    "left_matmul": left_matmul(),
    "left_matmul_add": left_matmul("Add"),
    "left_matmul_sub": left_matmul("Sub", first=True),
    "left_matmul_leading": left_matmul("Add", leading=1),
    "left_gemm": left_gemm(("n", 1), alpha=0.7),
    "left_gemm_all": left_gemm(("n", 1), transposed=True, alpha=-0.7, beta=1.6),
    "left_einsum": einsum("...ds,df->...fs"),
}
LEFT_CONSUMERS: Mapping[str, Linear] = {
    "left_matmul": left_matmul(),
    "left_matmul_add": left_matmul("Add"),
    "left_matmul_sub": left_matmul("Sub"),
    "left_matmul_scalar": left_matmul("Add", ()),
    "left_matmul_one": left_matmul("Add", (1, 1)),
    "left_matmul_leading": left_matmul("Add", leading=1),
    "left_gemm": left_gemm(),
    "left_gemm_column": left_gemm(("n", 1), beta=-3.0),
    "left_gemm_one": left_gemm((1,)),
    "left_gemm_row": left_gemm((ROWS,), beta=1.3),
    "left_gemm_all": left_gemm(("n", ROWS), transposed=True, alpha=2.3, beta=0.6),
    "left_einsum": einsum("fd,...ds->...fs", "Add", ("n", 1)),
}
PRODUCERS: Mapping[str, Linear] = {
    "gemm": gemm(),
    "gemm_vector": gemm(("n",)),
    "gemm_scalar": gemm(()),
    "gemm_one": gemm((1,)),
    "gemm_row": gemm((1, "n"), alpha=0.3),
    "gemm_all": gemm(("n",), transposed=True, alpha=-0.7, beta=1.6),
    "gemm_beta0": gemm(("n",), beta=0.0),
    "matmul": matmul(),
    "matmul_add": matmul("Add"),
    "add_matmul": matmul("Add", (1, "n"), first=True),
    "matmul_sub": matmul("Sub"),
    "sub_matmul": matmul("Sub", first=True),
    "matmul_add_scalar": matmul("Add", ()),
    "matmul_leading": matmul("Add", leading=1),
    "fused_gemm": fused_gemm("Sigmoid"),
    "fused_gemm_relu": fused_gemm("Relu", transposed=True, alpha=0.4, beta=2.0),
    "fused_gemm_leaky": fused_gemm("LeakyRelu", activation_alpha=0.3),
    "fused_gemm_hard": fused_gemm("HardSigmoid", activation_alpha=0.3, activation_beta=0.4),
    "fused_matmul": fused_matmul("Add", alpha=0.7),
    "fused_matmul_transposed": fused_matmul(transposed=True),
    "einsum": einsum("...d,df->...f", "Add"),
    "einsum_turned": einsum("fd,...d->...f"),
    **LEFT_PRODUCERS,
}
CONSUMERS: Mapping[str, Linear] = {
    "gemm": gemm(),
    "gemm_vector": gemm(("n",)),
    "gemm_scalar": gemm(()),
    "gemm_one": gemm((1,), beta=0.4),
    "gemm_row": gemm((1, "n"), beta=-3.0),
    "gemm_rows": gemm((ROWS, "n"), beta=1.7),
    "gemm_column": gemm((ROWS, 1)),
    "gemm_all": gemm(("n",), transposed=True, alpha=2.3, beta=0.6),
    "gemm_beta0": gemm(("n",), alpha=0.3, beta=0.0),
    "gemm_add": lambda b, x, d, n: b.node("Add", gemm()(b, x, d, n), b.constant(b.normal(n))),
    "matmul": matmul(),
    "matmul_add": matmul("Add"),
    "add_matmul": matmul("Add", first=True),
    "matmul_sub": matmul("Sub"),
    "sub_matmul": matmul("Sub", first=True),
    "matmul_add_scalar": matmul("Add", ()),
    "matmul_add_one": matmul("Add", (1,)),
    "matmul_add_wide": matmul("Add", (1, 1, 1, "n")),
    "matmul_leading": matmul("Add", leading=1),
    "fused_gemm": fused_gemm("Softsign", transposed=True, alpha=0.6),
    "fused_gemm_tanh": fused_gemm("Tanh", beta=0.7),
    "fused_matmul": fused_matmul("Add", transposed=True, alpha=-0.7),
    "einsum": einsum("...d,fd->...f"),
    "einsum_add": einsum("df,...d->...f", "Add"),
    **LEFT_CONSUMERS,
    "matmul_tail": lambda b, x, d, n: b.node("Tanh", matmul()(b, x, d, n)),
}


RIGHT_PRODUCERS = [name for name in PRODUCERS if name not in LEFT_PRODUCERS]
RIGHT_CONSUMERS = [name for name in CONSUMERS if name not in LEFT_CONSUMERS]
