"""Small models of the form linear -> region -> linear, in the many ways that exporters write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, shape_inference

from graph_linear import (
    CONSUMERS,
    INPUTS,
    LEFT_CONSUMERS,
    LEFT_PRODUCERS,
    MICROSOFT,
    MOVES,
    NEURONS,
    OUTPUTS,
    PRODUCERS,
    RIGHT_CONSUMERS,
    RIGHT_PRODUCERS,
    ROWS,
    TYPES,
    Builder,
    Region,
)

__all__ = ["INPUTS", "NEURONS", "REGIONS", "ROWS", "Builder", "Spelling", "build", "finish", "fitting", "spellings"]


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
    shape = [*[1] * int(b.rng.integers(b.rank - b.left)), NEURONS, *[1] * b.left]
    return b.weight(b.normal(*shape), "c")


def _own(op: str, bias: bool = False, **attributes: float) -> Region:
    """Return an operator of ONNX Runtime's own; its bias runs along the last axis."""
    return lambda b, t: b.node(
        op, t, *([b.weight(b.normal(NEURONS), "C")] if bias else []), domain=MICROSOFT, **attributes
    )


REGIONS: Mapping[str, Region] = {
    "own_gelu": _own("Gelu"),
    "own_quick": _own("QuickGelu"),
    "own_quick_alpha": _own("QuickGelu", alpha=1.3),
    "own_fast": _own("FastGelu"),
    "own_fast_bias": _own("FastGelu", bias=True),
    "own_bias": _own("BiasGelu", bias=True),
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
SINGLE_REGIONS = ("gelu", "clip", "leaky", "elu", "prelu", "soft")
TAILS = ("one", "two", "apart")


@dataclass(frozen=True)
class Spelling:
    """One way to write a layer.

    Attributes:
        moves: How the constants reach their readers.
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
    moves: tuple[str, ...] = ()
    tails: str = "one"
    infos: bool = False
    seed: int = 0

    def __str__(self) -> str:
        flags = (
            f"{'-nodes' if self.as_nodes else ''}{'-infos' if self.infos else ''}{''.join('-' + m for m in self.moves)}"
        )
        place = f"r{self.rank}-o{self.opset}-ir{self.ir}-{self.dtype}"
        return f"{self.producer}-{self.region}-{self.consumer}-{self.tails}-{place}{flags}-{self.seed}"

    @property
    def shape(self) -> list[int | str]:
        """Shape of the model's input."""
        rows = ["N", 2, 2][: self.rank - 1]
        return [*rows[1:], INPUTS, rows[0]] if self.left else [*rows, INPUTS]

    @property
    def left(self) -> bool:
        """Whether the neurons run along the last axis but one."""
        return self.producer.startswith("left")


# What can be written without operators or types of version 9.
OLD_REGIONS = ("nothing", "relu", "sigm", "tanh", "leaky", "elu", "prelu", "div", "drop", "id", "silu", "clip", "batch")


def fitting(spelling: Spelling) -> Spelling:
    """Return `spelling` with its rank lowered and its opset raised to what its operators can do."""
    ends = (spelling.producer, spelling.consumer)
    opset = max(
        spelling.opset, 12 if "einsum" in "".join(ends) else 7 if spelling.region.startswith(OLD_REGIONS) else 9
    )
    if spelling.left and spelling.region.endswith("bias"):
        spelling = replace(spelling, region="own_gelu")
    single = "einsum" in "".join(ends) or "fused" in "".join(ends) or spelling.region.startswith("own")
    if single or (spelling.region.startswith(SINGLE_REGIONS) and spelling.dtype == "f8"):
        spelling = replace(spelling, dtype="f4")
    spelling = replace(spelling, opset=opset)
    if opset < 11:
        # A Gemm needed its third input.
        full = {"gemm": "gemm_vector", "gemm_add": "gemm_row", "left_gemm": "left_gemm_column"}
        consumer = full.get(spelling.consumer, spelling.consumer)
        spelling = replace(spelling, producer={"gemm": "gemm_vector"}.get(ends[0], ends[0]), consumer=consumer)
    if spelling.region in FLAT_REGIONS and spelling.left:
        ends = ("left_matmul_add", spelling.consumer if "matmul" in spelling.consumer else "left_matmul")
        return replace(spelling, rank=3, infos=True, producer=ends[0], consumer=ends[1])
    if spelling.region in FLAT_REGIONS and "gemm" not in spelling.producer:
        # A MatMul's rank is known from its declared shape alone.
        return replace(spelling, rank=2, infos=True, producer="matmul_add")
    flat = "gemm" in spelling.producer + spelling.consumer or spelling.region in FLAT_REGIONS
    rank = 2 if flat else spelling.rank
    producer = spelling.producer if rank > 2 else spelling.producer.replace("_leading", "")
    return replace(spelling, rank=rank, producer=producer)


def build(spelling: Spelling) -> onnx.ModelProto:
    """Return the model that `spelling` describes: input "x", outputs "y0" and, with two tails, "y1"."""
    s = spelling
    b = Builder(np.random.default_rng(s.seed), s.dtype, s.opset, s.rank, s.as_nodes, s.left, s.moves)
    made = PRODUCERS[s.producer](b, "x", INPUTS, NEURONS)
    hidden = REGIONS[s.region](b, made)
    read = {"one": [hidden], "two": [hidden, hidden], "apart": [hidden, made]}[s.tails]
    for index, tensor in enumerate(read):
        last = CONSUMERS[s.consumer](b, tensor, NEURONS, OUTPUTS)
        b.nodes.append(helper.make_node("Identity", [last], [f"y{index}"]))
    model = finish(b, s.shape, len(read), s.ir, s.infos)
    for output in model.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            # Shapes behind operators of ONNX Runtime's own are not inferred.
            rank = 4 if "wide" in s.consumer else max(s.rank, 3 if "leading" in s.consumer else 2)
            output.CopyFrom(helper.make_tensor_value_info(output.name, TYPES[s.dtype], [None] * rank))
    return model


def finish(b: Builder, shape: list[int | str], outputs: int = 1, ir: int = 8, infos: bool = False) -> onnx.ModelProto:
    """Return the model of a builder whose outputs are called "y0", "y1", ..."""
    kind = TYPES[b.dtype]
    ends = [helper.make_tensor_value_info(f"y{i}", kind, None) for i in range(outputs)]
    graph = helper.make_graph(b.nodes, "g", [helper.make_tensor_value_info("x", kind, shape)], ends, b.initializers)
    if ir < 4:
        for tensor in b.initializers:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", b.opset)])
    if any(node.domain == MICROSOFT for node in b.nodes):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
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
            "opset": pick((7, 9, 11, 13, 17, 20, 21, 24)),
            "ir": pick((3, 8, 8)),
            "dtype": pick(("f4", "f4", "f8", "f2")),
            "as_nodes": pick((False, False, True)),
            "moves": pick(((), (), (pick(MOVES),), (pick(MOVES), pick(MOVES)), ("transposed", "reshaped", "widened"))),
            "tails": pick(TAILS),
            "infos": pick((False, True)),
            "seed": int(rng.integers(1000)),
        }
        if "producer" not in fixed:
            makers = LEFT_PRODUCERS if "consumer" in fixed and fixed["consumer"] in LEFT_CONSUMERS else PRODUCERS
            makers = makers if "consumer" not in fixed or makers is LEFT_PRODUCERS else RIGHT_PRODUCERS
            free = "gemm" not in str(fixed.get("consumer", "gemm"))
            drawn["producer"] = pick(p for p in makers if not free or "gemm" not in p)
        if "consumer" not in fixed:
            producer = str({**drawn, **fixed}["producer"])
            readers = LEFT_CONSUMERS if producer in LEFT_PRODUCERS else RIGHT_CONSUMERS
            free = "gemm" not in producer and "producer" in fixed
            drawn["consumer"] = pick(c for c in readers if not free or "gemm" not in c)
        return fitting(Spelling(**{**drawn, **fixed}))  # type: ignore[arg-type]

    found = [one(producer=name) for name in PRODUCERS for _ in range(count)]
    found += [one(region=name) for name in REGIONS for _ in range(count)]
    found += [one(consumer=name) for name in CONSUMERS for _ in range(count)]
    return list(dict.fromkeys(found))
