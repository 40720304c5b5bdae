"""Weights behind nodes that move them, shared ones, and what the products of ONNX Runtime allow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graph_layers import array, found, model, parsed
from onnx_coreset.core.layer import restrict, shrink
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.edge.statistics import collect
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.lens import read, write
from onnx_coreset.graph.model.codec import encode
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.graph.model.sources import resized, retargeted, target_shape

CPU = choose("cpu")
KEPT = np.asarray([0, 2, 5])


def narrowed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model of one space cut to three neurons, having checked that it computes what it should."""
    document, (space,), _ = found(proto)
    layer = read(document, space)
    coreset = restrict(layer, KEPT)
    write(document, space, coreset)
    after = encode(document)
    onnx.checker.check_model(after)
    shape = [d.dim_value or 7 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = array(*shape)
    got = next(iter(Session(after, CPU, threads=1).run({"x": x}).values()))
    rows = np.moveaxis(x, space.input_axis, -1).reshape(-1, layer.inputs)
    axis = space.consumers[0][0].dense.axes.axis
    aim = shrink(layer, coreset).evaluate(rows)[0]
    got = np.moveaxis(got, axis, -1).reshape(aim.shape)
    # Sums of ten products of numbers below 10, in float32.
    assert np.abs(got - aim).max() <= 100 * 20 * 2.0**-24
    return after


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_a_weight_behind_a_transpose_is_cut_where_it_is_stored() -> None:
    proto = model("T = Transpose(W)", "h = MatMul(x, T)", "z = Relu(h)", "y = MatMul(z, B)", W=array(6, 3))
    after = narrowed(proto)
    assert ops(after) == ops(proto) and [list(t.dims) for t in after.graph.initializer] == [[3, 5], [3, 3]]


def test_the_target_of_a_reshape_follows() -> None:
    shape = np.asarray([3, 6])
    proto = model("R = Reshape(W, s)", "h = MatMul(x, R)", "z = Relu(h)", "y = MatMul(z, B)", W=array(1, 3, 6), s=shape)
    stored = {t.name: numpy_helper.to_array(t) for t in narrowed(proto).graph.initializer}
    assert stored["W"].shape == (1, 3, 3) and list(stored["s"]) == [3, 3]


def test_a_reshape_that_splits_the_neurons_gives_way_to_a_constant() -> None:
    shape = np.asarray([3, 6])
    nodes = ("R = Reshape(W, s)", "h = MatMul(x, R)", "z = Relu(h)", "y = MatMul(z, B)")
    after = narrowed(model(*nodes, infos=True, W=array(3, 2, 3), s=shape))
    assert ops(after) == ["MatMul", "Relu", "MatMul"] and len(after.graph.initializer) == 2
    assert "R" not in [value.name for value in after.graph.value_info]


def test_a_squeeze_of_every_axis_of_one_keeps_the_last_neuron() -> None:
    # Squeezed without axes, one neuron alone would lose its axis.
    proto = model("q = Squeeze(v)", "h = Gemm(x, A, q)", "z = Relu(h)", "y = MatMul(z, B)", v=array(1, 6))
    document, (space,), _ = found(proto)
    layer = read(document, space)
    write(document, space, restrict(layer, np.asarray([4])))
    after = encode(document)
    onnx.checker.check_model(after, full_check=True)
    x = array(7, 3)
    aim = shrink(layer, restrict(layer, np.asarray([4]))).evaluate(x)[0]
    assert np.abs(Session(after, CPU, threads=1).run({"x": x})["y"] - aim).max() <= 100 * 10 * 2.0**-24


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_a_cast_weight_keeps_the_dtype_it_is_stored_in(dtype: str) -> None:
    nodes = (parsed("K = Cast(W)", to=TensorProto.FLOAT), "h = MatMul(x, K)", "z = Relu(h)", "y = MatMul(z, B)")
    after = narrowed(model(*nodes, W=array(3, 6, dtype=dtype)))
    assert numpy_helper.to_array(next(t for t in after.graph.initializer if t.name == "W")).dtype == dtype


def test_a_cast_from_integers_is_no_weight() -> None:
    nodes = (parsed("K = Cast(W)", to=TensorProto.FLOAT), "h = MatMul(x, K)", "z = Relu(h)", "y = MatMul(z, B)")
    assert not found(model(*nodes, W=np.ones((3, 6), "i4")))[1]


def test_a_tied_weight_turned_for_its_second_reader_is_cut_for_both() -> None:
    proto = model("h = MatMul(x, A)", "z = Relu(h)", "T = Transpose(A)", "y = MatMul(z, T)")
    after = narrowed(proto)
    assert ops(after) == ["MatMul", "Relu", "MatMul"] and parameters(after) == 2 * 3 * 3


def test_products_of_one_weight_behind_moves_are_counted_together() -> None:
    nodes = ("T = Transpose(A)", "U = Transpose(T)", "h = MatMul(x, U)", "z = Relu(h)", "p = MatMul(z, S)")
    more = ("k = MatMul(x, A)", "w = Tanh(k)", "q = MatMul(w, S)", "y = Add(p, q)")
    proto = model(*nodes, *more)
    document, spaces, _ = found(proto)
    coresets = {s.name: restrict(read(document, s), KEPT[:2]) for s in spaces}
    result, whole = cut(proto, coresets)
    assert not whole and parameters(result) == 2 * (6 + 12) and "Transpose" not in ops(result)


@pytest.mark.parametrize("rank", [2, 4])
def test_both_products_may_share_one_square_weight(rank: int) -> None:
    weight = array(*[1] * (rank - 2), 6, 6)
    proto = model("h = MatMul(x, W)", "z = Relu(h)", "y = MatMul(z, W)", inputs={"x": [2, 6]}, W=weight)
    assert sorted(list(t.dims)[-2:] for t in narrowed(proto).graph.initializer) == [[3, 6], [6, 3]]


@pytest.mark.parametrize("shape", [[3], [3, 1], [1, 3, 1], [2, 3, 4]])
def test_weights_on_the_left_of_vectors_and_columns(shape: list[int]) -> None:
    bias = array(6) if len(shape) == 1 else array(6, 1)
    nodes = ("h = MatMul(L, x)", "u = Add(h, c)", "z = Relu(u)", "y = MatMul(R, z)")
    after = narrowed(model(*nodes, inputs={"x": list(shape)}, infos=True, L=array(6, 3), R=array(4, 6), c=bias))
    assert ops(after) == ["MatMul", "Add", "Relu", "MatMul"]


def test_inputs_along_another_axis_are_collected_as_rows() -> None:
    class Feeder:
        runs = None

        def feed(self, run: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
            return {"x": np.arange(24, dtype="f4").reshape(2, 3, 4) + run}

    proto = model(
        "h = MatMul(L, x)", "z = Relu(h)", "y = MatMul(R, z)", inputs={"x": [2, 3, 4]}, L=array(6, 3), R=array(4, 6)
    )
    rng = np.random.default_rng
    samples = collect(proto, CPU, ["x"], Feeder(), 8, lambda: rng(0), {"x": -2})["x"]  # type: ignore[arg-type]
    assert samples.rows.shape == (8, 3) and samples.axis == -2 and samples.rank == 3
    assert np.array_equal(np.diff(samples.rows, axis=1), np.full((8, 2), 4.0))


REFUSED = {
    "heads": ("operator", "bsd,dhk->bshk", (3, 2, 3)),
    "traced": ("operator", "bd,df->bdf", (3, 6)),
    "turned rows": ("operator", "abd,df->baf", (3, 6)),
    "implicit": ("operator", "bd,df", (3, 6)),
    "batched": ("operator", "bd,bdf->bf", (1, 3, 6)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_einsum_that_is_no_plain_product_is_listed(name: str) -> None:
    code, equation, shape = REFUSED[name]
    einsum = helper.make_node("Einsum", ["x", "W"], ["h"], equation=equation)
    _, good, skips = found(model(einsum, "y = Relu(h)", W=array(*shape), infer=False))
    assert not good and skips["h"].code == code and "Einsum" in skips["h"].reason


def fused(op: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, ["x", "A"], ["h"], domain="com.microsoft", **attributes)


@pytest.mark.parametrize(
    "node",
    [
        fused("FusedMatMul", transBatchA=1),
        fused("FusedMatMul", transA=1),
        fused("FusedMatMul", alpha=0.0),
        fused("FusedGemm", activation="Unheard"),
        fused("FusedGemm", activation="LeakyRelu"),
    ],
)
def test_what_a_fused_product_may_do_beside_is_refused(node: onnx.NodeProto) -> None:
    proto = model("x = Exp(u)", node, "y = MatMul(h, B)", inputs={"u": ["N", 3]}, infer=False)
    _, good, skips = found(proto)
    assert not good and skips["h"].code == "operator"


@pytest.mark.parametrize("inputs", [["a", "h"], ["h", "h"], ["h", ""]])
def test_a_fused_gelu_whose_bias_is_the_hidden_tensor_or_missing_stops_the_walk(inputs: list[str]) -> None:
    node = helper.make_node("FastGelu", inputs, ["z"], domain="com.microsoft")
    _, good, skips = found(model("h = MatMul(x, A)", node, "y = MatMul(z, B)", infer=False))
    assert not good and skips["h"].code == "operator"


QUANTIZED = ("MatMulNBits", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearMatMul")


@pytest.mark.parametrize("op", QUANTIZED)
def test_a_quantized_layer_says_to_prune_first(op: str) -> None:
    node = helper.make_node(op, ["x", "A"], ["h"], domain="com.microsoft")
    _, _, skips = found(model(node, "y = Relu(h)", infer=False))
    assert skips["h"].code == "quantized" and "prune first" in skips["h"].reason
    after = helper.make_node(op, ["h", "B"], ["y"], domain="com.microsoft")
    assert found(model("h = MatMul(x, A)", after, infer=False))[2]["h"].code == "quantized"


@pytest.mark.parametrize("moved", [False, True])
def test_weights_behind_a_dequantizer_say_to_prune_first(moved: bool) -> None:
    last = ("T = Transpose(D)", "h = MatMul(x, T)") if moved else ("h = MatMul(x, D)",)
    nodes = ("D = DequantizeLinear(Q, s)", *last, "y = MatMul(h, B)")
    whole = model(*nodes, infer=False, Q=np.ones((6, 3) if moved else (3, 6), "i1"), s=np.ones((), "f4"))
    assert found(whole)[2]["h"].code == "quantized"


def test_shapes_go_backwards_through_a_reshape() -> None:
    assert resized((1, 3, 6), (3, 6), (3, 4)) == (1, 3, 4)
    assert resized((3, 2, 3), (3, 6), (3, 4)) is None
    assert resized((3, 6), (3, 6), (2, 4)) is None
    assert resized((3, 6), (3, 6, 1), (3, 6)) is None
    assert target_shape((2, 6), [0, -1]) == (2, 6) and target_shape((2, 6), [5, -1]) is None
    assert target_shape((2, 6), [-1, -1]) is None and target_shape((2, 6), [0, 0, 0]) is None
    assert retargeted((3, 4), [3, -1], (3, 4), False) == [3, -1]
    assert retargeted((3, 4), [-1, 6], (3, 4), False) == [-1, 4]
    assert retargeted((4, 1, 3), [0, 3], (4, 3), False) == [0, 3]
