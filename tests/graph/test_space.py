"""The walk: what it finds, and for each thing that stops it the code and a sentence that names it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graph_layers import SIZES, array, found, model, parsed
from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.graph.rules.table import MOVES, REDUCTIONS, RULES
from onnx_coreset.graph.skip import REASONS
from onnx_coreset.graph.space import Space

LATER = frozenset({"excluded", "no-gain", "eps", "requested", "validation", "no-run", "requires", "non-finite"}) | {
    "budget"
}
FIRST, LAST = "h = MatMul(x, A)", "y = MatMul(z, B)"
BATCH = "z = BatchNormalization(h, a, a, a, a)"


def between(*nodes: onnx.NodeProto | str, **more: object) -> onnx.ModelProto:
    """Return x -> MatMul A -> h -> nodes -> z -> MatMul B -> y."""
    return model(FIRST, *nodes, LAST, **more)  # type: ignore[arg-type]


def branch(node: str, **attributes: object) -> onnx.NodeProto:
    inner = parsed(node)
    body = helper.make_graph(
        [inner], "body", [], [helper.make_tensor_value_info(inner.output[0], TensorProto.FLOAT, None)]
    )
    return helper.make_node("If", ["condition"], ["branched"], then_branch=body, else_branch=body)


FLAG = {"condition": np.asarray(True)}


def cuts(start: int, end: int) -> dict[str, np.ndarray]:
    """Return the settings s, e and i of a Slice of the last axis."""
    return {"s": np.asarray([start]), "e": np.asarray([end]), "i": np.asarray([-1])}


INTEGER = {"K": np.ones((3, 6), "i4"), "L": np.ones((6, 2), "i4")}
SKIPS: dict[str, tuple[str, onnx.ModelProto]] = {
    "hidden output": ("output", between("z = Relu(h)", outputs="y z")),
    "inner output": ("output", between("z = Relu(h)", outputs="y h")),
    "last layer": ("output", model("h = MatMul(x, A)", outputs="h")),
    "unread": ("unused", model("h = MatMul(x, A)", "z = Relu(h)", "y = Relu(x)")),
    "unread side": ("unused", model("h = MatMul(x, A)", "y = Relu(x)")),
    "cumulative": ("operator", between("z = CumSum(h, axis)", axis=np.asarray(1))),
    "rows together": ("operator", model(FIRST, parsed("z = ReduceMean(h)", axes=[0]), LAST)),
    "reduce": ("norm", model(FIRST, parsed("y = ReduceMean(h)", axes=[1]))),
    "norm written out": (
        "norm",
        between(parsed("m = ReduceMean(h)", axes=[-1]), "c = Sub(h, m)", "q = Mul(c, c)", "z = Mul(c, q)"),
    ),
    "own domain": ("operator", between(parsed("z = Relu(h)", domain="own"), infer=False)),
    "to integers": ("operator", between(parsed("i = Cast(h)", to=7), parsed("z = Cast(i)", to=1))),
    "used mask": ("operator", model(FIRST, "z, mask = Dropout(h)", LAST, "n = Not(mask)", "w = Where(n, y, y)")),
    "training": (
        "operator",
        between("z = Dropout(h, ratio, train)", ratio=np.asarray(0.5, "f4"), train=np.asarray(True)),
    ),
    "transposed data": ("reshape", model(FIRST, parsed("y = Gemm(h, B)", transA=1), infer=False)),
    "weights on the left of something": (
        "operator",
        model(
            parsed("u = Own(x)", domain="own"),
            "h = MatMul(L, u)",
            "y = MatMul(R, h)",
            L=array(4, 2),
            R=array(2, 4),
            infer=False,
        ),
    ),
    "left of it": ("reshape", model(FIRST, "y = MatMul(L, h)", L=array(4, 2), inputs={"x": [2, 3]})),
    "softmax": ("norm", between("z = Softmax(h)")),
    "layer norm": ("norm", between("z = LayerNormalization(h, a)")),
    "batch norm of unknown rank": (
        "norm",
        model(parsed("u = Own(x)", domain="own"), FIRST.replace("x", "u"), BATCH, LAST, infer=False),
    ),
    "batch norm in training": (
        "norm",
        model("h = Gemm(x, A)", parsed("z = BatchNormalization(h, a, a, a, a)", training_mode=1), LAST, infer=False),
    ),
    "reshape": ("reshape", between("z = Reshape(h, shape)", shape=np.asarray([-1, 3]), infer=False)),
    "heads": ("reshape", between("z = Reshape(h, shape)", shape=np.asarray([0, 2, 3]), infer=False)),
    "merged": ("reshape", between("z = Reshape(h, shape)", shape=np.asarray([1, -1]), infer=False)),
    "transpose": ("reshape", between(parsed("z = Transpose(h)", perm=[1, 0]), infer=False)),
    "concat": ("reshape", between(parsed("z = Concat(h, h)", axis=1), infer=False)),
    "concat of rows": ("reshape", between(parsed("z = Concat(h, h2)", axis=0), infer=False, h2=array(2, 6))),
    "shape of it": ("reshape", model(FIRST, LAST.replace("z", "h"), "n = Shape(h)", outputs="y n", infer=False)),
    "number of it": (
        "reshape",
        model(FIRST, LAST.replace("z", "h"), "n = Size(h)", "f = Cast(n)", outputs="y", infer=False),
    ),
    "counted": (
        "reshape",
        model(FIRST, LAST.replace("z", "h"), "n = Shape(h)", "u = ConstantOfShape(n)", outputs="y", infer=False),
    ),
    "shape of something else": (
        "reshape",
        model(FIRST, LAST.replace("z", "h"), "n = Shape(h)", "u = Reshape(A, n)", outputs="y u", infer=False),
    ),
    "squeezed": ("reshape", between("z = Squeeze(h)", infer=False)),
    "chosen by a table": ("reshape", between(parsed("z = Gather(h, i)", axis=1), i=np.ones((2, 3), "i8"), infer=False)),
    "third of it": ("reshape", between("z = Slice(h, s, e, i)", infer=False, **cuts(0, 2))),
    "residual": ("merge", between("z = Add(h, other)", inputs={"x": ["N", 3], "other": ["N", 6]})),
    "gate of another input": (
        "merge",
        between("u = Relu(x)", "g = MatMul(u, G)", "z = Mul(h, g)", G=array(3, 6)),
    ),
    "computed bias": ("merge", model("c = Relu(a)", "h = Gemm(x, A, c)", "y = MatMul(h, B)")),
    "computed bias behind": ("merge", model("h = MatMul(x, A)", "c = Relu(b)", "y = Gemm(h, B, c)")),
    "ignored bias behind": ("merge", model("h = MatMul(x, A)", "c = Relu(b)", parsed("y = Gemm(h, B, c)", beta=0.0))),
    "bias of itself": ("reshape", model("h = Gemm(x, A)", "y = Gemm(h, S, h)")),
    "computed statistics": (
        "merge",
        model("h = Gemm(x, A, a)", "c = Exp(a)", "z = BatchNormalization(h, a, a, a, c)", LAST),
    ),
    "per row": ("varying-constant", between("z = Mul(h, rows)", rows=array(4, 1))),
    "per entry": ("varying-constant", between("z = Add(h, table)", table=array(4, 6))),
    "bias per row": ("varying-constant", model("h = Gemm(x, A, c)", "z = Relu(h)", LAST, c=array(4, 6))),
    "weights computed": ("dynamic-weight", model(FIRST, "W = Relu(B)", "y = MatMul(h, W)")),
    "product with itself": ("dynamic-weight", model(FIRST, "T = Transpose(x)", "y = MatMul(T, h)")),
    "stack of weights": ("dynamic-weight", model(FIRST, "y = MatMul(h, K)", K=array(2, 6, 4))),
    "vector": ("dynamic-weight", model(FIRST, "y = MatMul(h, v)", v=array(6))),
    "quantize": (
        "quantized",
        between("z = QuantizeLinear(h, s, p)", s=np.ones((), "f4"), p=np.zeros((), "i1"), infer=False),
    ),
    "integer product": ("quantized", model("h = MatMulInteger(x, K)", "y = Relu(h)", infer=False, **INTEGER)),
    "conv": (
        "convolution",
        model("h = Conv(x, K)", "y = Relu(h)", inputs={"x": [1, 3, 5, 5]}, K=array(4, 3, 2, 2)),
    ),
    "conv of a caller's": (
        "convolution",
        model("h = Conv(x, K)", "y = Relu(h)", inputs={"x": [1, 3, 5, 5], "K": [4, 3, 2, 2]}, K=array(4, 3, 2, 2)),
    ),
    "conv reads it": (
        "convolution",
        model("h = MatMul(x, K)", "y = Conv(h, K2)", inputs={"x": [1, 3, 5, 5]}, K=array(5, 6), K2=array(4, 3, 2, 2)),
    ),
    "captured": ("subgraph", between("z = Relu(h)", branch("o = Relu(z)"), **FLAG)),
    "integers": ("dtype", model("h = MatMul(x, K)", "y = MatMul(h, L)", infer=False, **INTEGER)),
    "old operators": ("opset", between("z = Relu(h)", opset=6)),
    "one neuron": ("width", model("h = MatMul(x, k)", "z = Relu(h)", "y = MatMul(z, l)", k=array(3, 1), l=array(1, 2))),
}
OVERRIDABLE = {
    "weights": (model("h = MatMul(x, A)", "y = MatMul(h, B)"), "A"),
    "next weights": (model("h = MatMul(x, A)", "y = MatMul(h, B)"), "B"),
    "bias": (model("h = Gemm(x, A, a)", "y = MatMul(h, B)"), "a"),
    "next bias": (model("h = MatMul(x, A)", "y = Gemm(h, B, b)"), "b"),
    "slope": (model("h = MatMul(x, A)", "z = PRelu(h, a)", "y = MatMul(z, B)"), "a"),
}


@pytest.mark.parametrize("name", SKIPS)
def test_each_obstacle_has_its_code(name: str) -> None:
    code, proto = SKIPS[name]
    _, good, skips = found(proto)
    assert "h" not in [space.producer.output.name for space in good]
    assert skips["h"].code == code, skips["h"].reason
    assert skips["h"].reason and "\n" not in skips["h"].reason


def test_every_code_of_the_walk_is_provoked_and_no_other_exists() -> None:
    provoked = {code for code, _ in SKIPS.values()} | {"overridable", "function"}
    assert provoked | LATER == {code for code, _ in REASONS}
    assert not provoked & LATER


@pytest.mark.parametrize("name", OVERRIDABLE)
def test_a_weight_that_a_caller_may_replace_is_left_alone(name: str) -> None:
    proto, weight = OVERRIDABLE[name]
    proto.graph.input.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, SIZES[weight]))
    _, good, skips = found(proto)
    assert not good and "overridable" in [skip.code for skip in skips.values()]
    assert found(proto, constant_inputs=True)[1]
    proto.ir_version = 3
    assert found(proto)[1]


def test_a_branch_that_returns_the_hidden_tensor_reads_it() -> None:
    branch_graph = helper.make_graph([], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    node = helper.make_node("If", ["condition"], ["i"], then_branch=branch_graph, else_branch=branch_graph)
    _, good, skips = found(between("z = Relu(h)", node, infer=False, **FLAG))
    assert not good and skips["h"].code == "output"


def test_a_product_of_two_tensors_made_at_run_time_is_no_layer() -> None:
    _, good, skips = found(
        model("q = MatMul(x, A)", "k = MatMul(x, A)", "t = Transpose(k)", "s = MatMul(q, t)", "y = Relu(s)")
    )
    assert not good and set(skips) == {"q", "k"}


@pytest.mark.parametrize("op", sorted(RULES))
def test_every_elementwise_operator_that_passes_the_walk_can_be_evaluated(op: str) -> None:
    assert (
        op in ELEMENTWISE
        or op in MOVES
        or op in ("Cast", "Dropout", "BatchNormalization")
        or op in (*REDUCTIONS, "Shape")
    )


def test_spaces_are_named_by_what_the_consumer_reads_and_come_in_order() -> None:
    proto = model(
        "h = MatMul(x, A)", "z = Relu(h)", "t = MatMul(z, B)", "u = Add(t, b)", "v = Tanh(u)", "y = MatMul(v, C)"
    )
    _, good, skips = found(proto)
    assert [(s.name, s.width) for s in good] == [("z", 6), ("v", 5)]
    assert set(skips) == {"y"}


def test_two_arms_that_meet_again_are_one_space() -> None:
    proto = between("s = Sigmoid(h)", "t = Tanh(h)", "m = Mul(s, t)", "z = Add(m, h)")
    _, (space,), _ = found(proto)
    assert space.name == "z" and len(space.region.steps) == 4


def test_layers_inside_a_subgraph_are_found() -> None:
    nodes = [parsed("h = MatMul(x, A)"), parsed("z = Relu(h)"), parsed("o = MatMul(z, B)")]
    body = helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])
    proto = model(helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=body), infer=False, **FLAG)
    _, good, skips = found(proto)
    assert [s.name for s in good] == ["z", "z (then_branch)"] and {s.code for s in skips.values()} == {"output"}


@pytest.mark.parametrize("operand", ["ratio", "train"])
def test_a_setting_of_dropout_that_is_computed_stops_the_walk(operand: str) -> None:
    tensors = {"ratio": np.asarray(0.5, "f4"), "train": np.asarray(False)}
    del tensors[operand]
    proto = between("z = Dropout(h, ratio, train)", infer=False, inputs={"x": ["N", 3], operand: []}, **tensors)
    _, good, skips = found(proto)
    assert not good and skips["h"].code in ("merge", "operator")


def test_a_constant_with_more_axes_moves_the_axis_that_batch_norm_runs_along() -> None:
    # (N, 6) + (1, 1, 6) has shape (1, N, 6): axis 1 is the rows.
    nodes = ("h = Gemm(x, A)", "w = Add(h, wide)", "z = BatchNormalization(w, a, a, a, a)", "y = MatMul(z, B)")
    _, good, skips = found(model(*nodes, wide=array(1, 1, 6), infer=False))
    assert not good and skips["h"].code == "norm"


def test_neurons_that_meet_a_gate_of_one_number_a_row_stop() -> None:
    proto = between("g = MatMul(x, G)", "z = Mul(h, g)", G=array(3, 1))
    _, good, skips = found(proto)
    assert not good and {skips["h"].code, skips["g"].code} == {"merge"}


def test_a_bias_in_another_scope_is_not_the_consumers() -> None:
    node = branch("o = Add(y, b5)")
    node.attribute[1].g.node[0].CopyFrom(parsed("o = Neg(b5)"))
    proto = model("h = MatMul(x, A)", "y = MatMul(h, B)", node, outputs="branched", infer=False, b5=array(5), **FLAG)
    _, (space,), _ = found(proto)
    assert isinstance(space, Space) and space.consumers[0][0].bias() is None


def test_a_call_of_a_function_that_holds_a_layer_is_named_and_no_other() -> None:
    proto = model(
        parsed("h = Layer(x, A)", domain="own"),
        parsed("r = Outer(h, B)", domain="own"),
        parsed("y = Plain(r)", domain="own"),
        infer=False,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    proto.opset_import.append(opsets[1])
    for name, inputs, node in (
        ("Layer", ["u", "W"], parsed("v = MatMul(u, W)")),
        ("Outer", ["u", "W"], parsed("v = Layer(u, W)", domain="own")),
        ("Plain", ["u"], parsed("v = Relu(u)")),
    ):
        proto.functions.append(helper.make_function("own", name, inputs, ["v"], [node], opsets))
    _, good, skips = found(proto)
    assert not good and {name: skip.code for name, skip in skips.items()} == {"h": "function", "r": "function"}
