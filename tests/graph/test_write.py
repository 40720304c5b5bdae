"""Writing where layers meet: adjacent chains, shared and tied weights, and what is worth cutting."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from graph_layers import array, model, parsed
from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict, shrink
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.lens import read, write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.graph.space import Space, spaces

CPU = choose("cpu")
ROUNDINGS = 2**-24


def named(document: Document, name: str) -> Space:
    return next(s for s in spaces(document) if isinstance(s, Space) and s.name == name)


def stored(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def fewer(layer: HiddenLayer, kept: list[int], seed: int = 0, constant: bool = True) -> Coreset:
    rng = np.random.default_rng(seed)
    outgoing = tuple(rng.standard_normal((r.outputs, len(kept), 1)).astype("f4") for r in layer.readouts)
    constants = tuple(rng.standard_normal(r.outputs).astype("f4") if constant else r.constant for r in layer.readouts)
    return Coreset(np.asarray(kept), outgoing, constants)


def rows(coreset: Coreset, kept: list[int]) -> Coreset:
    """Return a coreset whose readout gives the outputs `kept` alone: the next layer has lost the others."""
    outgoing, constant = (tuple(a[kept] for a in arrays) for arrays in (coreset.outgoing, coreset.constant))
    return Coreset(coreset.kept, outgoing, constant)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return Session(proto, CPU, threads=1).run({"x": x})["y"].astype("f8")


def assert_valid(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


MIDDLES = {
    "matmul": ("u = MatMul(z, B)",),
    "gemm": ("u = Gemm(z, B)",),
    "gemm bias": ("u = Gemm(z, B, b)",),
    "gemm number": ("u = Gemm(z, B, one)",),
    "add": ("t = MatMul(z, B)", "u = Add(t, b)"),
    "sub": ("t = MatMul(z, B)", "u = Sub(t, b)"),
    "number": ("t = MatMul(z, B)", "u = Add(one, t)"),
    "turned": ("t = MatMul(z, B)", "u = Sub(b, t)"),
    "per neuron": ("t = MatMul(z, B)", "u = Mul(t, b)"),
}


def adjacent(middle: str, infos: bool = True) -> onnx.ModelProto:
    nodes = ("h = MatMul(x, A)", "z = Relu(h)", *MIDDLES[middle], "v = Tanh(u)", "y = MatMul(v, C)")
    return model(*nodes, one=array(1), infos=infos)


FIRST, SECOND = [0, 2, 5], [1, 2, 4]


@pytest.mark.parametrize("infos", [True, False])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("middle", MIDDLES)
def test_adjacent_chains_may_be_written_in_either_order(middle: str, constant: bool, infos: bool) -> None:
    proto = adjacent(middle, infos)
    document = decode(proto)
    first, second = (read(document, named(document, name)) for name in "zv")
    one, two = fewer(first, FIRST, 1, constant), fewer(second, SECOND, 2, constant)

    forwards = decode(proto)
    write(forwards, named(forwards, "z"), one)
    write(forwards, named(forwards, "v"), two)
    backwards = decode(proto)
    write(backwards, named(backwards, "v"), two)
    write(backwards, named(backwards, "z"), rows(one, SECOND))

    result = encode(forwards)
    assert result == encode(backwards)
    assert_valid(result)
    both = cut(proto, {"z": one, "v": two})
    assert both == (result, frozenset())
    again = decode(result)
    assert np.array_equal(read(again, named(again, "v")).readouts[0].outgoing, two.outgoing[0])
    assert np.array_equal(read(again, named(again, "z")).readouts[0].outgoing, one.outgoing[0][SECOND])


@pytest.mark.parametrize("middle", MIDDLES)
def test_adjacent_chains_written_compute_what_their_layers_do_in_turn(middle: str) -> None:
    proto = adjacent(middle)
    document = decode(proto)
    first, second = (read(document, named(document, name)) for name in "zv")
    one, two = fewer(first, FIRST, 1), fewer(second, SECOND, 2)
    result, _ = cut(proto, {"z": one, "v": two})
    x = array(11, 3)
    (u,) = shrink(first, one).evaluate(x)
    # What stands between the first readout and the second activation is no part of the first layer.
    b = stored(proto).get("b", np.zeros(5)).astype("f8")
    t = {"turned": b - u, "per neuron": u * b}.get(middle, u)[:, SECOND]
    aim = np.tanh(t) @ two.outgoing[0][:, :, 0].T + two.constant[0]
    # Sizes stay below 100, and no chain of operations is longer than 40.
    assert np.abs(run(result, x) - aim).max() <= 40 * 100 * ROUNDINGS


def test_three_chains_in_a_row_commute() -> None:
    nodes = ("h = MatMul(x, A)", "z = Relu(h)", "u = MatMul(z, B)", "v = Tanh(u)", "s = MatMul(v, C)", "w = Relu(s)")
    proto = model(*nodes, "y = MatMul(w, D)", D=array(4, 2))
    document = decode(proto)
    kept = {"z": [0, 3], "v": [1, 2, 3], "w": [0, 2, 3]}
    coresets = {name: fewer(read(document, named(document, name)), kept[name], 3) for name in kept}
    results = []
    after = {"z": "v", "v": "w"}
    for order in itertools.permutations(kept):
        edited = decode(proto)
        for index, name in enumerate(order):
            coreset = coresets[name]
            if after.get(name) in order[:index]:
                coreset = rows(coreset, kept[after[name]])
            write(edited, named(edited, name), coreset)
        results.append(encode(edited))
    assert all(result == results[0] for result in results)
    assert_valid(results[0])


def test_weights_shared_by_two_chains_are_copied_for_the_one_that_changes() -> None:
    nodes = (
        "h = MatMul(x, A)",
        "z = Relu(h)",
        "p = MatMul(z, B)",
        "k = MatMul(x, A)",
        "w = Tanh(k)",
        "q = MatMul(w, B)",
    )
    proto = model(*nodes, "y = Add(p, q)")
    document = decode(proto)
    layer = read(document, named(document, "z"))
    coreset = fewer(layer, [1, 3], constant=False)
    write(document, named(document, "z"), coreset)
    after = encode(document)
    assert_valid(after)
    old, new = stored(proto), stored(after)
    assert np.array_equal(new["A"], old["A"]) and np.array_equal(new["B"], old["B"])
    assert np.array_equal(new["A_1"], old["A"][:, [1, 3]])
    x = array(7, 3)
    aim = np.tanh(x.astype("f8") @ old["A"]) @ old["B"] + shrink(layer, coreset).evaluate(x)[0]
    assert np.abs(run(after, x) - aim).max() <= 40 * 100 * ROUNDINGS


def test_when_both_chains_that_share_are_cut_no_weight_is_left_over() -> None:
    nodes = (
        "h = MatMul(x, A)",
        "z = Relu(h)",
        "p = MatMul(z, B)",
        "k = MatMul(x, A)",
        "w = Tanh(k)",
        "q = MatMul(w, B)",
    )
    proto = model(*nodes, "y = Add(p, q)")
    document = decode(proto)
    coresets = {
        n: fewer(read(document, named(document, n)), [1, 3], s, constant=False) for n, s in (("z", 1), ("w", 2))
    }
    result, whole = cut(proto, coresets)
    assert not whole and parameters(result) == 2 * (3 * 2 + 2 * 5) and len(result.graph.initializer) == 4


@pytest.mark.parametrize("consumer, transposed", [("y = MatMul(z, S)", 0), ("y = Gemm(z, S)", 1)])
def test_a_weight_that_makes_the_neurons_and_reads_them_is_cut_on_both_sides(consumer: str, transposed: int) -> None:
    last = parsed(consumer, transB=1) if transposed else parsed(consumer)
    proto = model("h = MatMul(x, S)", "z = Relu(h)", last, inputs={"x": ["N", 6]})
    document = decode(proto)
    layer = read(document, named(document, "z"))
    coreset = fewer(layer, [0, 2, 5], constant=False)
    write(document, named(document, "z"), coreset)
    after = encode(document)
    assert_valid(after)
    x = array(7, 6)
    assert np.abs(run(after, x) - shrink(layer, coreset).evaluate(x)[0]).max() <= 40 * 100 * ROUNDINGS


def test_a_vector_read_twice_within_a_region_is_cut_for_both_readers() -> None:
    proto = model(
        "h = MatMul(x, A)", "s = Mul(h, a)", "t = Tanh(s)", "m = Add(t, a)", "z = Max(m, a, a)", "y = MatMul(z, B)"
    )
    document = decode(proto)
    layer = read(document, named(document, "z"))
    write(document, named(document, "z"), restrict(layer, np.asarray([0, 4])))
    after = encode(document)
    assert_valid(after)
    x = array(7, 3)
    aim = shrink(layer, restrict(layer, np.asarray([0, 4]))).evaluate(x)[0]
    assert np.abs(run(after, x) - aim).max() <= 40 * 100 * ROUNDINGS


def test_one_bias_for_two_layers_is_cut_for_each_alone() -> None:
    proto = model("h = Gemm(x, A, a)", "z = Relu(h)", "u = Gemm(z, S, a)", "v = Relu(u)", "y = MatMul(v, B)")
    document = decode(proto)
    coresets = {
        "z": restrict(read(document, named(document, "z")), np.asarray([0, 1])),
        "v": restrict(read(document, named(document, "v")), np.asarray([3, 4, 5])),
    }
    result, _ = cut(proto, coresets)
    assert_valid(result)
    assert sorted(t.dims[0] for t in result.graph.initializer if len(t.dims) == 1) == [2, 3]


@pytest.mark.parametrize("readers", [2, 3])
def test_a_cut_that_copies_more_than_it_saves_is_not_made(readers: int) -> None:
    # B is read by other chains too, so cutting this one adds a copy of most of it.
    nodes = [
        f"{p} = {n}" for i in range(readers) for p, n in ((f"k{i}", "MatMul(x, A)"), (f"q{i}", f"MatMul(k{i}, B)"))
    ]
    proto = model(*nodes, f"y = Sum({', '.join(f'q{i}' for i in range(readers))})")
    document = decode(proto)
    name = named(document, "k0").name
    result, whole = cut(proto, {name: restrict(read(document, named(document, name)), np.arange(5))})
    assert whole == {name} and result == proto


def test_a_bias_made_longer_counts_against_a_cut() -> None:
    proto = model("h = MatMul(x, k)", "z = Relu(h)", "y = MatMul(z, l)", k=array(3, 3), l=array(3, 40))
    document = decode(proto)
    layer = read(document, named(document, "z"))
    # One neuron of three saves 43 numbers and the constant costs 40.
    assert cut(proto, {"z": fewer(layer, [0, 1])})[1] == frozenset()
    small = model(
        "h = MatMul(x, k)", "z = Relu(h)", "y = MatMul(z, l)", inputs={"x": ["N", 1]}, k=array(1, 3), l=array(3, 40)
    )
    layer = read(decode(small), named(decode(small), "z"))
    saves = cut(small, {"z": fewer(layer, [0, 1])})
    assert saves[1] == frozenset() and parameters(saves[0]) == 2 + 80 + 40 < parameters(small)


def test_a_model_output_keeps_its_name_when_a_constant_is_added() -> None:
    proto = model("h = MatMul(x, A)", "z = Relu(h)", "y = MatMul(z, B)")
    document = decode(proto)
    write(document, named(document, "z"), fewer(read(document, named(document, "z")), [0, 1]))
    after = encode(document)
    assert [n.op_type for n in after.graph.node] == ["MatMul", "Relu", "MatMul", "Add"]
    assert after.graph.output == proto.graph.output and after.graph.node[3].output == ["y"]


def test_a_bias_that_beta_ignores_is_used_when_a_constant_is_needed() -> None:
    proto = model("h = MatMul(x, A)", "z = Relu(h)", parsed("y = Gemm(z, B, b)", beta=0.0))
    document = decode(proto)
    coreset = fewer(read(document, named(document, "z")), [0, 1])
    write(document, named(document, "z"), coreset)
    after = encode(document)
    assert len(after.graph.node) == 3 and after.graph.node[2].attribute[0].f == 1.0
    assert np.array_equal(stored(after)["b"], coreset.constant[0].astype("f4"))


def test_a_chain_in_a_loop_body_is_cut_with_weights_held_outside() -> None:
    nodes = [
        parsed("h = MatMul(state, S)"),
        parsed("z = Relu(h)"),
        parsed("next = MatMul(z, T)"),
        parsed("go = Identity(c)"),
    ]
    scalar = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", 6])
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    following = helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N", 6])
    body = helper.make_graph(nodes, "body", [*scalar, state], [go, following])
    loop = helper.make_node("Loop", ["trips", "flag", "x"], ["y"], body=body)
    proto = model(
        loop, inputs={"x": ["N", 6]}, trips=np.asarray(2), flag=np.asarray(True), T=array(6, 6), S=array(6, 6)
    )
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6]))
    document = decode(proto)
    layer = read(document, named(document, "z"))
    coreset = fewer(layer, [0, 2, 3])
    write(document, named(document, "z"), coreset)
    after = encode(document)
    assert_valid(after)
    x = array(4, 6)
    once = shrink(layer, coreset).evaluate(x)[0]
    twice = shrink(layer, coreset).evaluate(once)[0]
    assert np.abs(run(after, x) - twice).max() <= 40 * 1000 * ROUNDINGS
    assert parameters(after) < parameters(proto)


@pytest.mark.parametrize("case", ["the product is an output", "the product has another reader", "the sum is wider"])
def test_an_add_that_is_not_the_readouts_alone_keeps_its_constant(case: str) -> None:
    weights = {"l": array(6, 1)} if case == "the sum is wider" else {"l": array(6, 5)}
    last = ("y = Add(s, w)", "w = Tanh(p)") if case == "the product has another reader" else ("y = Identity(s)",)
    nodes = ("h = MatMul(x, A)", "z = Relu(h)", "p = MatMul(z, l)", "s = Add(p, b)", *reversed(last))
    proto = model(*nodes, outputs="y p" if case == "the product is an output" else "y", **weights)
    document = decode(proto)
    layer = read(document, named(document, "z"))
    assert np.array_equal(layer.readouts[0].constant, np.zeros(layer.outputs))
    coreset = fewer(layer, [0, 2])
    write(document, named(document, "z"), coreset)
    after = encode(document)
    assert_valid(after)
    assert np.array_equal(stored(after)["b"], stored(proto)["b"])
    x = array(7, 3)
    p = shrink(layer, coreset).evaluate(x)[0]
    aim = p + stored(proto)["b"] + (np.tanh(p) if case == "the product has another reader" else 0)
    assert np.abs(run(after, x) - aim).max() <= 40 * 100 * ROUNDINGS
