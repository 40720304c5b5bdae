"""Models for the fuzzer: spellings of layers, layers that follow each other with distractors between them, odd forms.

What is made is decided by a `Chooser`, which is a seeded generator in long runs and Hypothesis in the tests, so that
what fails there is made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graph_forms import FORMS
from graph_linear import CONSUMERS, MOVES, PRODUCERS, Builder
from graph_oddities import ODDITIES, base
from graph_spellings import REGIONS, TAILS, Spelling, build, finish, fitting
from test_odd_graphs import CUT, LEFT_ALONE

__all__ = ["MAKERS", "Chooser", "Seeded"]

_T = TypeVar("_T")


class Chooser(Protocol):
    """Where decisions come from."""

    def integer(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both included."""
        ...

    def one(self, options: Sequence[_T]) -> _T:
        """Return one of some."""
        ...

    def chance(self, share: float) -> bool:
        """Return True with a probability."""
        ...


@dataclass
class Seeded:
    """Decisions of a seeded generator."""

    rng: np.random.Generator

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def one(self, options: Sequence[_T]) -> _T:
        return options[self.integer(0, len(options) - 1)]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)


def spelling(c: Chooser) -> onnx.ModelProto:
    """A layer in one of the many ways to write it."""
    producer = c.one(sorted(PRODUCERS))
    same = [name for name in sorted(CONSUMERS) if name.startswith("left") == producer.startswith("left")]
    flat = "gemm" in producer
    return build(
        fitting(
            Spelling(
                producer=producer,
                region=c.one(sorted(REGIONS)),
                consumer=c.one([name for name in same if flat or "gemm" not in name]),
                rank=c.integer(2, 4),
                opset=c.one((7, 9, 11, 13, 17, 20, 21, 24)),
                ir=c.one((3, 8)),
                dtype=c.one(("f4", "f8", "f2")),
                as_nodes=c.chance(0.3),
                moves=tuple(c.one(sorted(MOVES)) for _ in range(c.integer(0, 2))),
                tails=c.one(TAILS),
                infos=c.chance(0.5),
                seed=c.integer(0, 999),
            )
        )
    )


@dataclass
class Net:
    """A net in the making: the tensor that is last, its width, and what else is there."""

    c: Chooser
    b: Builder
    last: str
    width: int
    seen: list[tuple[str, int]]
    ends: list[str]

    def dense(self, x: str, d: int, n: int) -> str:
        """A linear operator, its neurons twice now and then, some of them dead or alike."""
        w = self.b.normal(d, n) / np.sqrt(d)
        bias = 0.3 * self.b.normal(n)
        if n > 1 and self.c.chance(0.3):
            w[:, n // 2 :], bias[n // 2 :] = w[:, : n - n // 2], bias[: n - n // 2]
        if n > 2 and self.c.chance(0.2):
            w[:, 0], bias[0] = 0, self.c.one((-1.0, 0.0, 2.0))
        form = self.c.integer(0, 4)
        if form == 0:
            return self.b.node("Gemm", x, self.b.weight(w), self.b.weight(bias, "C"))
        if form == 1:
            return self.b.node("Gemm", x, self.b.weight(w.T), self.b.weight(bias, "C"), transB=1)
        if form == 2:
            return self.b.node("MatMul", x, self.b.weight(w))
        y = self.b.node("MatMul", x, self.b.weight(w))
        return self.b.node("Add", y, self.b.weight(bias, "C")) if form == 3 else self.b.node("Relu", y)


def _gate(n: Net) -> None:
    other = n.dense(n.seen[-1][0], n.seen[-1][1], n.width)
    n.last = n.b.node("Mul", n.b.node("Sigmoid", n.last), other)


def _join(n: Net) -> None:
    tensor, width = n.c.one(n.seen)
    n.last, n.width = n.b.node("Concat", n.last, tensor, axis=1), n.width + width


def _residual(n: Net) -> None:
    same = [tensor for tensor, width in n.seen if width == n.width]
    if same:
        n.last = n.b.node("Add", n.last, n.c.one(same))


def _split(n: Net) -> None:
    if n.width > 1:
        first = n.c.integer(1, n.width - 1)
        left, right = f"{n.last}_l", f"{n.last}_r"
        sizes = n.b.constant([first, n.width - first], dtype="i8")
        n.b.nodes.append(helper.make_node("Split", [n.last, sizes], [left, right], axis=-1))
        if n.c.chance(0.5):
            n.last = n.b.node("Concat", right, n.b.node("Tanh", left), axis=-1)
        else:
            n.last, n.width = left, first


def _select(n: Net) -> None:
    taken = [n.c.integer(-n.width, n.width - 1) for _ in range(n.c.integer(1, n.width))]
    n.last, n.width = n.b.node("Gather", n.last, n.b.constant(taken, dtype="i8"), axis=1), len(taken)


def _moved(n: Net) -> None:
    up = n.b.node("Reshape", n.last, n.b.constant([-1, 1, n.width], dtype="i8"))
    turned = n.b.node("Transpose", n.b.node("Relu", up), perm=[0, 2, 1])
    n.last = n.b.node("Flatten", turned, axis=1)


def _regrouped(n: Net) -> None:
    for size in (2, 3, 5):
        if n.width % size == 0:
            wide = n.b.node("Reshape", n.last, n.b.constant([-1, size, n.width // size], dtype="i8"))
            n.last = n.b.node("Reshape", n.b.node("Softmax", wide, axis=-1), n.b.constant([-1, n.width], dtype="i8"))
            return


def _norm(n: Net) -> None:
    n.last = n.b.node("LayerNormalization", n.last, n.b.weight(n.b.normal(n.width), "C"), axis=-1)


def _mean(n: Net) -> None:
    mean = n.b.node("ReduceMean", n.last, axes=[1], keepdims=1)
    n.last = n.b.node("Sub", n.last, mean)


def _exposed(n: Net) -> None:
    n.ends.append(n.last)


def _head(n: Net) -> None:
    n.ends.append(n.dense(n.last, n.width, n.c.integer(1, 3)))


def _branch(n: Net) -> None:
    kind = {"f4": TensorProto.FLOAT, "f8": TensorProto.DOUBLE, "f2": TensorProto.FLOAT16}[n.b.dtype]
    out = f"{n.last}_if"
    bodies = []
    for op in ("Relu", "Tanh"):
        inner = f"{out}_{op}"
        end = helper.make_tensor_value_info(inner, kind, None)
        bodies.append(helper.make_graph([helper.make_node(op, [n.last], [inner])], op, [], [end]))
    condition = n.b.constant(n.c.chance(0.5), dtype="?")
    n.b.nodes.append(helper.make_node("If", [condition], [out], then_branch=bodies[0], else_branch=bodies[1]))
    n.last = out


def _quantised(n: Net) -> None:
    scale, zero = n.b.constant(0.05, dtype="f4"), n.b.constant(0, dtype="i1")
    if n.b.dtype == "f4":
        n.last = n.b.node("DequantizeLinear", n.b.node("QuantizeLinear", n.last, scale, zero), scale, zero)


def _shared(n: Net) -> None:
    weight = n.b.weight(n.b.normal(n.width, n.width) / np.sqrt(n.width))
    inner = n.b.node("Relu", n.b.node("MatMul", n.last, weight))
    n.last = n.b.node("MatMul", inner, weight)


def _same_shape(n: Net) -> None:
    n.last = n.b.node("Expand", n.last, n.b.node("Shape", n.last))


DISTRACTORS: Mapping[str, Callable[[Net], None]] = {
    "gate": _gate,
    "join": _join,
    "residual": _residual,
    "split": _split,
    "select": _select,
    "moved": _moved,
    "regrouped": _regrouped,
    "norm": _norm,
    "mean": _mean,
    "exposed": _exposed,
    "head": _head,
    "branch": _branch,
    "quantised": _quantised,
    "shared": _shared,
    "same shape": _same_shape,
}
_SIMPLE = ("relu", "sigmoid", "tanh", "gelu_0", "silu", "clip", "leaky", "elu", "square", "sine", "soft", "nothing")
_WORDS = ("a b", "ñandú/層", 'say "no"', "{y}", "%s", "[bold]", "x=3", "*", "-", "a\tb", "..", "0")


def net(c: Chooser) -> onnx.ModelProto:
    """Layers that follow each other, with distractors between them."""
    rng = np.random.default_rng(c.integer(0, 2**20))
    b = Builder(rng, c.one(("f4", "f4", "f4", "f8", "f2")), 17, 2, c.chance(0.2))
    b.moves = tuple(c.one(sorted(MOVES)) for _ in range(c.integer(0, 1)))
    width = c.integer(1, 6)
    n = Net(c, b, "x", width, [("x", width)], [])
    inputs = width
    for _ in range(c.integer(1, 4)):
        n.seen.append((n.last, n.width))
        wide = c.one((1, 2, 5, 8, 12, 16, 24))
        n.last, n.width = n.dense(n.last, n.width, wide), wide
        # ONNX Runtime has no kernels of these for other types, and loads no model with them.
        names = [r for r in _SIMPLE if b.dtype == "f4" or r not in ("clip", "leaky", "elu", "soft", "gelu_0")]
        n.last = REGIONS[c.one(names)](b, n.last)
        while c.chance(0.35):
            DISTRACTORS[c.one(sorted(DISTRACTORS))](n)
    ends = [*n.ends, n.dense(n.last, n.width, c.integer(1, 4)) if c.chance(0.9) else n.last]
    for i, end in enumerate(ends):
        b.nodes.append(helper.make_node("Identity", [end], [f"y{i}"]))
    model = finish(b, [c.one(("N", "N", 3)), inputs], len(ends), c.one((3, 8, 8, 10)), c.chance(0.3))
    dressed(c, model)
    return model


def dressed(c: Chooser, model: onnx.ModelProto) -> None:
    """Change what does not change what a model computes: names, order of nodes, metadata, what nobody reads."""
    graph = model.graph
    if c.chance(0.2):
        order = np.random.default_rng(c.integer(0, 99)).permutation(len(graph.node))
        nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(nodes)
    if c.chance(0.3):
        for node in graph.node:
            node.name = f"{c.one(_WORDS)}{len(node.name)}{node.output[0]}" if c.chance(0.5) else ""
    if c.chance(0.3):
        old = sorted({name for node in graph.node for name in node.output} - {o.name for o in graph.output})
        renamed = {name: f"{c.one(_WORDS)}{i}" for i, name in enumerate(old) if c.chance(0.3)}
        captured = {i for n in graph.node for a in n.attribute for m in a.g.node for i in m.input}
        for node in graph.node:
            for field in (node.input, node.output):
                field[:] = [name if name in captured else renamed.get(name, name) for name in field]
        del graph.value_info[:]
    if c.chance(0.2) and model.ir_version >= 4:
        graph.initializer.append(numpy_helper.from_array(np.ones((3, 40), "f4"), "nobody"))
    if c.chance(0.2):
        model.doc_string, model.domain, model.model_version = c.one(_WORDS), "d", 7
        model.metadata_props.add(key=c.one(_WORDS), value="v")


def odd(c: Chooser) -> onnx.ModelProto:
    """A small model with several oddities."""
    model = base()
    for name in sorted(ODDITIES):
        if c.chance(0.15):
            ODDITIES[name](model)
    return model


def form(c: Chooser) -> onnx.ModelProto:
    """A layer whose neurons are moved, taken apart or joined, or one that a matcher cuts wrongly."""
    found = onnx.ModelProto()
    known = {**FORMS, **{k: v[0] for k, v in LEFT_ALONE.items()}, **CUT}
    found.CopyFrom(known[c.one(sorted(known))])
    return found


MAKERS: Mapping[str, Callable[[Chooser], onnx.ModelProto]] = {
    "spelling": spelling,
    "net": net,
    "form": form,
    "odd": odd,
}
