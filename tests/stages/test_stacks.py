"""Chains that follow each other as one network: which do, and that what is written is what was polished."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from api_models import mlp
from graph_layers import array, model, parsed
from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict
from onnx_coreset.core.network import Network
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.graph.cut import cut, written
from onnx_coreset.graph.extract import extract_stack, shrunk_stack
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened, open_model
from onnx_coreset.stages.sampling import LayerInputs
from onnx_coreset.stages.stacks import Stack, stacks

U = float(np.finfo(np.float32).eps)
FIRST = ["h = Gemm(x, A, a)", "r = Relu(h)"]
LAST = ["t = Tanh(k)", "y = Gemm(t, C, c)"]
C, D = array(4), array(4, 3)
SWISH = ["g = Gemm(x, A, a)", "u = Gemm(x, G, a)", "s = Sigmoid(g)", "f = Mul(g, s)", "r = Mul(f, u)"]
G, NORM = array(3, 6), array(5) ** 2 + np.float32(0.1)
TWO = {"c": C, "D": D}


def graph(*nodes: str | onnx.NodeProto, outputs: str = "y", **tensors: np.ndarray) -> onnx.ModelProto:
    """Return x -> A, Relu -> r; `nodes` go from r to y."""
    return model(*FIRST, *nodes, outputs=outputs, **{**TWO, **tensors})


MODELS: dict[str, tuple[onnx.ModelProto, list[int]]] = {
    "one layer": (model("h = Gemm(x, A, a)", "r = Relu(h)", "y = Gemm(r, B, b)"), [1]),
    "two layers": (graph("k = Gemm(r, B, b)", *LAST), [2]),
    "three layers": (
        graph("k = Gemm(r, B, b)", "t = Tanh(k)", "m = Gemm(t, C, c)", "q = Relu(m)", "y = MatMul(q, D)"), [3]),
    "products and sums": (
        model("l = MatMul(x, A)", "h = Add(l, a)", "r = Relu(h)", "n = MatMul(r, B)", "k = Add(b, n)", "t = Tanh(k)",
              "y = MatMul(t, C)"), [2]),
    "products alone": (
        model("h = MatMul(x, A)", "r = Relu(h)", "k = MatMul(r, B)", "t = Tanh(k)", "y = MatMul(t, C)"), [2]),
    "a constant that is added twice": (graph("n = Gemm(r, B, b)", "k = Add(n, b)", *LAST), [2]),
    "two heads at the end": (graph("k = Gemm(r, B, b)", *LAST, "o = MatMul(t, C)", outputs="y o"), [2]),
    "gated, then a layer": (model(*SWISH, "k = Gemm(r, B, b)", *LAST, G=G, **TWO), [1, 1]),
    "a layer, then gated": (
        graph("g = Gemm(r, B, b)", "u = MatMul(r, B)", "s = Sigmoid(g)", "t = Mul(s, u)", "y = Gemm(t, C, c)"), [1, 1]),
    "a function of several layers": (
        model("p = Gemm(x, A, a)", "q = Gemm(x, G, a)", "r = Max(p, q)", "k = Gemm(r, B, b)", *LAST, G=G, **TWO), [1]),
    "a skip": (graph("i = MatMul(x, E)", "n = Gemm(r, B, b)", "k = Add(n, i)", *LAST, E=array(3, 5)), [1]),
    "a second reader": (graph("k = Gemm(r, B, b)", *LAST, "o = MatMul(r, B)", outputs="y o"), [1, 1]),
    "a second reader of the sum": (graph("k = Gemm(r, B, b)", *LAST, "o = MatMul(k, C)", outputs="y o"), [1]),
    "a sum that is an output": (graph("k = Gemm(r, B, b)", *LAST, outputs="y k"), [1]),
    "batch norm between": (graph("n = Gemm(r, B, b)", "k = BatchNormalization(n, b, b, b, v)", *LAST, v=NORM), [1, 1]),
    "batch norm behind": (
        graph("n = Gemm(r, B, b)", "k = Tanh(n)", "t = BatchNormalization(k, b, b, b, v)", "y = Gemm(t, C, c)", v=NORM),
        [2]),
    "flattened between": (graph("n = Gemm(r, B, b)", "k = Flatten(n)", *LAST), [1, 1]),
    "joined with the input": (
        model(*FIRST, parsed("j = Concat(x, r)", axis=1), "k = Gemm(j, J, b)", *LAST, J=array(9, 5), **TWO), [1, 1]),
    "layer norm between": (graph("n = Gemm(r, B, b)", "k = LayerNormalization(n, b)", *LAST), [1]),
    "a scale between": (graph("n = Gemm(r, B, b)", "k = Mul(n, b)", *LAST), [1, 1]),
    "an activation of several nodes": (
        graph("k = Gemm(r, B, b)", "s = Sigmoid(k)", "t = Mul(k, s)", "y = Gemm(t, C, c)"), [2]),
    "one weight at two places": (
        graph("y = MatMul(r, B)", "e = MatMul(x, F)", "n = LayerNormalization(e, a)", "k = MatMul(n, B)", "t = Tanh(k)",
              "o = MatMul(t, C)", outputs="y o", F=array(3, 6)), [1, 1]),
    "declared shapes": (
        model(*FIRST[:1], "e = Relu(h)", "r = BatchNormalization(e, a, a, a, w)", "k = MatMul(r, B)", "i = Tanh(k)",
              "t = BatchNormalization(i, b, b, b, v)", "y = MatMul(t, C)", infos=True, v=NORM, w=array(6) ** 2), [2]),
}  # fmt: skip


def opened(proto: onnx.ModelProto) -> Opened:
    return open_model(proto, None, Options(ratio=0.5))


def drawn(layer: HiddenLayer, seed: int) -> Coreset:
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(layer.width, layer.width // 2, replace=False))
    outgoing = tuple(rng.standard_normal((r.outputs, kept.size, r.features.columns)) for r in layer.readouts)
    return Coreset(kept, outgoing, tuple(r.constant + rng.standard_normal(r.outputs) for r in layer.readouts))


def chains(place: Opened, seed: int = 0, own: bool = False) -> list[Narrowed]:
    """Return every chain cut by half, to random outgoing weights or with `own` to its own; no inputs are looked at."""
    found = []
    for number, space in enumerate(p for p in place.places if isinstance(p, Space)):
        layer = read(place.document, space)
        coreset = drawn(layer, seed + number)
        coreset = restrict(layer, coreset.kept) if own else coreset
        found.append(Narrowed(space, layer, nothing(), coreset, None))
    return found


def nothing() -> LayerInputs:
    return None  # type: ignore[return-value]


def outputs(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    name = proto.graph.input[0].name
    results = Session(proto, choose("cpu"), threads=1).run({name: x})
    return np.concatenate([results[o.name].astype("f8").reshape(len(x), -1) for o in proto.graph.output], axis=1)


def moved(stack: Stack, seed: int) -> Network:
    """Return the student with random parameters, but for those that are fixed."""
    rng = np.random.default_rng(seed)
    arrays = [
        a if i in stack.fixed else rng.standard_normal(a.shape).astype("f4")
        for i, a in enumerate(stack.student.parameters())
    ]
    return stack.student.with_parameters(arrays)


def agree(found: np.ndarray, wanted: np.ndarray, net: Network) -> bool:
    """Return whether outputs are equal up to float32's rounding of each block's sums, of 8 terms and fewer."""
    size = np.prod([1 + 8 * max(np.abs(a).max() for a in b.weights) for b in net.blocks]) * (1 + np.abs(wanted).max())
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= 16 * U * size)


X = np.random.default_rng(5).standard_normal((17, 3)).astype("f4")


def of(name: str, alone: bool = False, own: bool = False) -> tuple[Opened, list[Narrowed], list[Stack]]:
    place = opened(MODELS[name][0])
    found = chains(place, own=own)
    return place, found, stacks(found, place, alone)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_one_stack(name: str) -> None:
    _, found, together = of(name)
    assert [len(stack.chains) for stack in together] == MODELS[name][1]
    assert [len(stack.chains) for stack in of(name, alone=True)[2]] == [1] * sum(MODELS[name][1])
    members = [chain for stack in together for chain in stack.chains]
    assert all(any(chain is member for chain in found) for member in members)


@pytest.mark.parametrize("name", MODELS)
def test_a_stack_alone_is_its_teacher(name: str) -> None:
    place, _, together = of(name)
    for stack in together:
        x = np.random.default_rng(1).standard_normal((9, stack.chains[0].layer.inputs)).astype("f4")
        alone = extract_stack(place.document, [chain.space for chain in stack.chains])
        assert agree(outputs(alone, x), stack.teacher(x), stack.teacher)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_student_that_nobody_moved_is_the_coresets(name: str, alone: bool) -> None:
    place, found, together = of(name, alone)
    before = {chain.space.name: chain.coreset for chain in found}
    after = dict(before)
    for stack in together:
        x = np.random.default_rng(1).standard_normal((9, stack.chains[0].layer.inputs)).astype("f4")
        coresets = stack.coresets(stack.student)
        after |= {chain.space.name: coreset for chain, coreset in zip(stack.chains, coresets, strict=True)}
        model = extract_stack(place.document, [chain.space for chain in stack.chains])
        assert agree(outputs(shrunk_stack(model, coresets), x), stack.student(x), stack.student)
    one, two = (outputs(written(place.model, named), X) for named in (before, after))
    assert np.abs(one - two).max() <= 1e3 * U * (1 + np.abs(one).max())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_what_was_polished(name: str, alone: bool, seed: int) -> None:
    place, found, together = of(name, alone)
    named = {chain.space.name: chain.coreset for chain in found}
    for stack in together:
        net = moved(stack, seed)
        coresets = stack.coresets(net)
        named |= {chain.space.name: coreset for chain, coreset in zip(stack.chains, coresets, strict=True)}
        x = np.random.default_rng(seed).standard_normal((9, stack.chains[0].layer.inputs)).astype("f4")
        model = extract_stack(place.document, [chain.space for chain in stack.chains])
        assert agree(outputs(shrunk_stack(model, coresets), x), net(x), net)
    result, _ = cut(place.model, named)
    onnx.checker.check_model(result, full_check=True)
    ends = [consumer.output.name for consumer, _ in together[0].chains[-1].space.consumers]
    if len(together[0].chains) == len(found) and ends == [output.name for output in place.model.graph.output]:
        assert agree(outputs(written(place.model, named), X), moved(together[0], seed)(X), moved(together[0], seed))


@pytest.mark.parametrize("sizes", [(5, 8, 4), (5, 8, 7, 4), (5, 8, 7, 6, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_perceptron_is_one_stack_whatever_its_depth(sizes: Sequence[int], bias: bool) -> None:
    place = opened(mlp(sizes, bias=bias))
    (stack,) = stacks(chains(place), place, alone=False)
    depth = len(sizes) - 2
    assert len(stack.chains) == len(stack.student.blocks) == depth and stack.movable
    assert [len(b.biases[0]) for b in stack.student.blocks] == [n // 2 for n in sizes[1:-1]]
    assert [len(b.biases[0]) for b in stack.teacher.blocks] == list(sizes[1:-1])
    # Without a bias in front the first layer has none that could be replaced; behind it one is inserted.
    assert stack.fixed == (frozenset() if bias else {1})
    x = np.random.default_rng(0).standard_normal((9, sizes[0])).astype("f4")
    net = moved(stack, 0)
    named = {c.space.name: coreset for c, coreset in zip(stack.chains, stack.coresets(net), strict=True)}
    assert agree(outputs(cut(place.model, named)[0], x), net(x), net)


def test_what_another_chain_writes_is_not_written_twice() -> None:
    """A layer whose weights are the readout of one that is cut too keeps them, unless they are one stack."""
    _, _, (first, second) = of("flattened between")
    assert first.movable and not second.movable
    assert second.fixed >= {0, 1} and second.coresets(second.student)[0].incoming is None


def test_a_chain_kept_whole_ends_a_stack() -> None:
    place = opened(MODELS["three layers"][0])
    found = chains(place)
    middle = restrict(found[1].layer, np.arange(found[1].space.width))
    found[1] = Narrowed(found[1].space, found[1].layer, nothing(), middle, None)
    first, last = stacks(found, place, alone=False)
    assert [s.chains for s in (first, last)] == [(found[0],), (found[2],)] and first.movable and last.movable
    named = {chain.space.name: chain.coreset for chain in found}
    nets = [moved(stack, 3) for stack in (first, last)]
    for stack, net in zip((first, last), nets, strict=True):
        named[stack.chains[0].space.name] = stack.coresets(net)[0]
    wanted = nets[1](np.tanh(nets[0](X)))
    assert agree(outputs(cut(place.model, named)[0], X), wanted, nets[1])


def test_a_rank_that_is_declared_alone_is_known_in_the_stack() -> None:
    """Nothing infers shapes behind an operator of ONNX Runtime's own, and BatchNormalization needs the rank."""
    proto = onnx.ModelProto()
    proto.CopyFrom(MODELS["declared shapes"][0])
    product = next(node for node in proto.graph.node if "k" in node.output)
    product.op_type, product.domain = "FusedMatMul", "com.microsoft"
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    place = opened(proto)
    (stack,) = stacks(chains(place), place, alone=False)
    net = moved(stack, 0)
    alone = extract_stack(place.document, [chain.space for chain in stack.chains])
    assert agree(outputs(shrunk_stack(alone, stack.coresets(net)), X), net(X), net)
