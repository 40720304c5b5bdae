"""Small models of the form linear -> region -> linear, in the many ways that exporters write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

INPUTS, NEURONS, OUTPUTS, ROWS = 5, 7, 4, 3
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
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    count: Iterator[int] = field(default_factory=itertools.count)

    def normal(self, *shape: int) -> Numbers:
        return self.rng.standard_normal(shape)

    def constant(self, values: object, stem: str = "c", dtype: str | None = None) -> str:
        name = f"{stem}{next(self.count)}"
        tensor = numpy_helper.from_array(np.asarray(values, dtype=dtype or self.dtype), name)
        if self.as_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{next(self.count)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{name}", **attributes))
        return name


Linear = Callable[[Builder, str, int, int], str]
Region = Callable[[Builder, str], str]


def gemm(shape: tuple[int, ...] | str | None = None, transposed: bool = False, **attributes: float) -> Linear:
    """Return Gemm with a bias input of `shape`: None for no bias; "n" stands for the number of outputs."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        inputs = [x, b.constant(b.normal(n, d) if transposed else b.normal(d, n), "W")]
        if shape is not None:
            inputs.append(b.constant(b.normal(*(n if size == "n" else size for size in shape)), "C"))
        extra = {"transB": 1} if transposed else {}
        return b.node("Gemm", *inputs, **attributes, **extra)

    return make


def matmul(op: str = "", shape: tuple[object, ...] = ("n",), first: bool = False, leading: int = 0) -> Linear:
    """Return MatMul, and behind it `op` with a constant of `shape`, on the left where `first`."""

    def make(b: Builder, x: str, d: int, n: int) -> str:
        y = b.node("MatMul", x, b.constant(b.normal(*[1] * leading, d, n), "W"))
        if not op:
            return y
        c = b.constant(b.normal(*(n if size == "n" else size for size in shape)), "C")
        return b.node(op, c, y) if first else b.node(op, y, c)

    return make


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
    "matmul_tail": lambda b, x, d, n: b.node("Tanh", matmul()(b, x, d, n)),
}


def _gelu(order: int) -> Region:
    def make(b: Builder, t: str) -> str:
        inner = b.node("Div", t, b.constant(np.sqrt(2.0))) if order % 2 else b.node("Mul", t, b.constant(0.5**0.5))
        one = b.node("Add", b.node("Erf", inner), b.constant(1.0))
        if order == 0:
            return b.node("Mul", b.node("Mul", t, one), b.constant(0.5))
        if order == 1:
            return b.node("Mul", b.node("Mul", b.constant(0.5), t), one)
        return b.node("Mul", t, b.node("Mul", one, b.constant(0.5)))

    return make


def _gelu_tanh(b: Builder, t: str) -> str:
    cube = b.node("Mul", b.node("Pow", t, b.constant(3.0)), b.constant(0.044715))
    inner = b.node("Mul", b.node("Add", t, cube), b.constant(np.sqrt(2.0 / np.pi)))
    return b.node("Mul", b.node("Mul", b.constant(0.5), t), b.node("Add", b.constant(1.0), b.node("Tanh", inner)))


def _clip(b: Builder, t: str) -> str:
    if b.opset < 11:
        return b.node("Clip", t, min=-0.5, max=1.25)
    return b.node("Clip", t, b.constant(-0.5), b.constant(1.25))


def _clip_above(b: Builder, t: str) -> str:
    return b.node("Clip", t, max=0.75) if b.opset < 11 else b.node("Clip", t, "", b.constant(0.75))


def _normalised(b: Builder, t: str) -> str:
    vectors = [b.constant(b.normal(NEURONS)) for _ in range(3)]
    variance = b.constant(b.normal(NEURONS) ** 2 + 0.1)
    return b.node("BatchNormalization", t, *vectors, variance, epsilon=1e-3)


def _dropout(b: Builder, t: str) -> str:
    if b.opset < 12:
        return b.node("Dropout", t, ratio=0.5)
    return b.node("Dropout", t, b.constant(0.5, dtype="f4"), b.constant(False, dtype="?"))


def _vector(b: Builder) -> str:
    return b.constant(b.normal(*[1] * int(b.rng.integers(b.rank)), NEURONS))


REGIONS: Mapping[str, Region] = {
    "nothing": lambda b, t: t,
    "relu": lambda b, t: b.node("Relu", t),
    "sigmoid": lambda b, t: b.node("Sigmoid", t),
    "tanh": lambda b, t: b.node("Tanh", t),
    "gelu": lambda b, t: b.node("Gelu", t) if b.opset >= 20 else _gelu(0)(b, t),
    "gelu_approximate": lambda b, t: b.node("Gelu", t, approximate="tanh") if b.opset >= 20 else _gelu_tanh(b, t),
    "gelu_0": _gelu(0),
    "gelu_1": _gelu(1),
    "gelu_2": _gelu(2),
    "gelu_tanh": _gelu_tanh,
    "silu": lambda b, t: b.node("Mul", t, b.node("Sigmoid", t)),
    "silu_turned": lambda b, t: b.node("Mul", b.node("Sigmoid", t), t),
    "clip": _clip,
    "clip_above": _clip_above,
    "leaky": lambda b, t: b.node("LeakyRelu", t, alpha=0.2),
    "elu": lambda b, t: b.node("Elu", t, alpha=1.3),
    "prelu": lambda b, t: b.node("PRelu", t, _vector(b)),
    "prelu_scalar": lambda b, t: b.node("PRelu", t, b.constant(b.normal(1))),
    "scaled_before": lambda b, t: b.node("Relu", b.node("Add", b.node("Mul", _vector(b), t), _vector(b))),
    "scaled_after": lambda b, t: b.node("Sub", b.node("Mul", b.node("Tanh", t), _vector(b)), _vector(b)),
    "divided": lambda b, t: b.node("Sigmoid", b.node("Div", b.node("Neg", t), b.constant(0.7))),
    "batch_norm": lambda b, t: b.node("Relu", _normalised(b, t)),
    "batch_norm_after": lambda b, t: _normalised(b, b.node("Relu", t)),
    "dropout": lambda b, t: _dropout(b, b.node("Relu", t)),
    "identity": lambda b, t: b.node("Identity", b.node("Relu", b.node("Identity", t))),
    "sine": lambda b, t: b.node("Add", b.node("Sin", t), b.node("Mul", t, b.constant(0.3))),
    "square": lambda b, t: b.node("Add", b.node("Mul", t, t), t),
    "where": lambda b, t: b.node("Where", b.node("Less", t, _vector(b)), b.node("Neg", t), _vector(b)),
    "maximum": lambda b, t: b.node("Max", b.node("Min", t, b.constant(b.normal(1))), _vector(b), _vector(b)),
    "mask": lambda b, t: b.node("Mul", t, b.node("Cast", b.node("Greater", t, b.constant(0.1)), to=TYPES[b.dtype])),
    "soft": lambda b, t: b.node("Mul", t, b.node("Tanh", b.node("Softplus", t))),
    "reciprocal": lambda b, t: b.node("Reciprocal", b.node("Add", b.node("Exp", t), b.constant(1.0))),
}
FLAT_REGIONS = ("batch_norm", "batch_norm_after")
# Regions for which ONNX Runtime has no float64 kernels on the CPU.
SINGLE_REGIONS = ("gelu", "clip", "elu", "prelu", "soft")
TAILS = ("one", "two", "apart")


@dataclass(frozen=True)
class Spelling:
    """One way to write a layer.

    Attributes:
        tails: One consumer, two of the same tensor, or the second of the pre-activation.
        infos: Whether every tensor's shape is declared.
    """

    producer: str = "gemm_vector"
    region: str = "relu"
    consumer: str = "gemm_vector"
    rank: int = 2
    opset: int = 17
    ir: int = 8
    dtype: str = "f4"
    as_nodes: bool = False
    tails: str = "one"
    infos: bool = False
    seed: int = 0

    def __str__(self) -> str:
        flags = f"{'-nodes' if self.as_nodes else ''}{'-infos' if self.infos else ''}"
        place = f"r{self.rank}-o{self.opset}-ir{self.ir}-{self.dtype}"
        return f"{self.producer}-{self.region}-{self.consumer}-{self.tails}-{place}{flags}-{self.seed}"

    @property
    def shape(self) -> list[int | str]:
        """Shape of the model's input."""
        return [*["N", 2, 2][: self.rank - 1], INPUTS]


def fitting(spelling: Spelling) -> Spelling:
    """Return `spelling` with its rank lowered and its opset raised to what its operators can do."""
    flat = "gemm" in spelling.producer + spelling.consumer or spelling.region in FLAT_REGIONS
    rank = 2 if flat else spelling.rank
    if "gemm" in spelling.producer + spelling.consumer and spelling.opset < 11:
        # A Gemm needed its third input.
        ends = [
            {"gemm": "gemm_vector", "gemm_add": "gemm_row"}.get(e, e) for e in (spelling.producer, spelling.consumer)
        ]
        spelling = replace(spelling, producer=ends[0], consumer=ends[1])
    if spelling.region.startswith(SINGLE_REGIONS) and spelling.dtype == "f8":
        spelling = replace(spelling, dtype="f4")
    consumer, producer = spelling.consumer, spelling.producer
    if spelling.region in FLAT_REGIONS and not producer.startswith("gemm"):
        # A MatMul's rank is known from its declared shape alone.
        return replace(spelling, rank=2, consumer=consumer, infos=True, producer=producer.replace("_leading", ""))
    return replace(spelling, rank=rank, producer=producer if rank > 2 else producer.replace("_leading", ""))


def build(spelling: Spelling) -> onnx.ModelProto:
    """Return the model that `spelling` describes: input "x", outputs "y0" and, with two tails, "y1"."""
    s = spelling
    b = Builder(np.random.default_rng(s.seed), s.dtype, s.opset, s.rank, s.as_nodes)
    made = PRODUCERS[s.producer](b, "x", INPUTS, NEURONS)
    hidden = REGIONS[s.region](b, made)
    read = {"one": [hidden], "two": [hidden, hidden], "apart": [hidden, made]}[s.tails]
    for index, tensor in enumerate(read):
        last = CONSUMERS[s.consumer](b, tensor, NEURONS, OUTPUTS)
        b.nodes.append(helper.make_node("Identity", [last], [f"y{index}"]))
    return finish(b, s.shape, len(read), s.ir, s.infos)


def finish(b: Builder, shape: list[int | str], outputs: int = 1, ir: int = 8, infos: bool = False) -> onnx.ModelProto:
    """Return the model of a builder whose outputs are called "y0", "y1", ..."""
    kind = TYPES[b.dtype]
    ends = [helper.make_tensor_value_info(f"y{i}", kind, None) for i in range(outputs)]
    graph = helper.make_graph(b.nodes, "g", [helper.make_tensor_value_info("x", kind, shape)], ends, b.initializers)
    if ir < 4:
        for tensor in b.initializers:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", b.opset)])
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    for end, known in zip(model.graph.output, inferred.graph.output, strict=True):
        end.CopyFrom(known)
    return inferred if infos else model


def spellings(count: int = 3, seed: int = 0) -> list[Spelling]:
    """Return spellings in which every producer, region and consumer occurs `count` times and more, among all else."""
    rng = np.random.default_rng(seed)

    def pick(options: object) -> object:
        choices = list(options)  # type: ignore[call-overload]
        return choices[int(rng.integers(len(choices)))]

    def one(**fixed: object) -> Spelling:
        drawn: dict[str, object] = {
            "producer": pick(PRODUCERS),
            "region": pick(REGIONS),
            "consumer": pick(CONSUMERS),
            "rank": pick((2, 3, 4)),
            "opset": pick((9, 13, 17, 20)),
            "ir": pick((3, 8, 8)),
            "dtype": pick(("f4", "f4", "f8", "f2")),
            "as_nodes": pick((False, False, True)),
            "tails": pick(TAILS),
            "infos": pick((False, True)),
            "seed": int(rng.integers(1000)),
        }
        if "matmul" in str(fixed.get("producer", "")):
            drawn["consumer"] = pick(c for c in CONSUMERS if "matmul" in c)
        if "matmul" in str(fixed.get("consumer", "")):
            drawn["producer"] = pick(c for c in PRODUCERS if "matmul" in c)
        return fitting(Spelling(**{**drawn, **fixed}))  # type: ignore[arg-type]

    found = [one(producer=name) for name in PRODUCERS for _ in range(count)]
    found += [one(region=name) for name in REGIONS for _ in range(count)]
    found += [one(consumer=name) for name in CONSUMERS for _ in range(count)]
    return list(dict.fromkeys(found))
