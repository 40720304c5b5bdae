"""Graphs that a matcher of shapes cuts wrongly: other axes as long as the neurons', operands that broadcast upwards."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnx_coreset
from api_models import built, run
from test_hard_cases import HALF, NORM, Arrays, D, K, N, agree, feeds, hidden, integers, layers, number, twice

FLOAT = TensorProto.FLOAT
make = helper.make_node
WIDE = np.random.default_rng(0).standard_normal((N, N)).astype("f4")
Sizes = tuple[int | str, ...]


def odd(
    nodes: list[onnx.NodeProto], x: Sizes, y: Sizes, tensors: Arrays | None = None, left: bool = False
) -> onnx.ModelProto:
    """x -> p -> nodes -> h -> y, its layers without biases, the weights on the right or on the left."""
    weights = {name: values.T.copy() if left else values for name, values in layers().items() if name[0] == "W"}
    ends = [("W1", "x", "p"), ("W2", "h", "y")] if left else [("x", "W1", "p"), ("h", "W2", "y")]
    first, last = (make("MatMul", list(names[:2]), [names[2]]) for names in ends)
    return built([first, *nodes, last], {"x": (FLOAT, x)}, {"y": (FLOAT, y)}, weights | (tensors or {}))


def relu_of(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [*nodes, make("Relu", ["q"], ["h"])]


ADD = relu_of(make("Add", ["p", "c"], ["q"]))
BATCH_NORM = relu_of(make("BatchNormalization", ["p", "scale", "shift", "mean", "var"], ["q"]))
SHAPED = [make("Relu", ["p"], ["q"]), make("Reshape", ["q", "s"], ["h"])]
TURNED = [make("Relu", ["p"], ["q"]), make("Transpose", ["q"], ["h"], perm=[0, 2, 1])]
SLOPES = [make("PRelu", ["p", "c"], ["h"])]
STEP = [make("Greater", ["p", "z"], ["over"]), make("Where", ["over", "c", "z"], ["h"])]
GLU = [make("Transpose", ["p"], ["g"], perm=[1, 0]), make("Mul", ["p", "g"], ["h"])]

LEFT_ALONE = {
    "a constant of a row a sample": (odd(ADD, (N, D), (N, K), {"c": WIDE}), "varying-constant"),
    "a column of one number a sample": (odd(ADD, (N, D), (N, K), {"c": WIDE[:, :1]}), "varying-constant"),
    "a column that makes a table": (odd(ADD, ("N", 1, D), ("N", N, K), {"c": WIDE[:, :1]}), "varying-constant"),
    "slopes of one number a sample": (odd(SLOPES, (N, D), (N, K), {"c": WIDE[:, :1]}), "varying-constant"),
    "a bias along the sequence": (odd(ADD, ("N", D, N), ("N", K, N), {"c": twice(1)}, True), "varying-constant"),
    "slopes along the sequence": (odd(SLOPES, ("N", D, N), ("N", K, N), {"c": twice(1)}, True), "varying-constant"),
    "a norm along the sequence": (odd(BATCH_NORM, ("N", N, D), ("N", N, K), NORM), "norm"),
    "a sum along the sequence": (odd(TURNED, ("N", N, D), ("N", N, K)), "reshape"),
    "neurons among the rows": (odd([*SHAPED[:1], make("Transpose", ["q"], ["h"])], (N, D), (N, K)), "reshape"),
    "its own transpose": (odd(GLU, (N, D), (N, K)), "reshape"),
    "a product with itself": (odd([make("MatMul", ["p", "p"], ["h"])], (N, D), (N, K)), "dynamic-weight"),
}
CUT = {
    "rows regrouped to as many": odd(SHAPED, (2, HALF, D), ("A", "B", K), {"s": integers(1, N, N)}),
    "one slope": odd(SLOPES, ("N", D), ("N", K), {"c": number(0.1).reshape(1)}),
    "slopes on the left": odd(SLOPES, ("N", D, 7), ("N", K, 7), {"c": twice(1).reshape(N, 1)}, True),
    "a constant of more axes": odd(ADD, ("N", D), (1, "N", K), {"c": twice(1).reshape(1, 1, N)}),
    "a condition alone": odd(STEP, ("N", D), ("N", K), {"z": number(0), "c": twice(1)}),
    "a sequence as long as the layer is wide": odd(SHAPED, ("N", N, D), ("M", K), {"s": integers(-1, N)}),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_an_axis_that_is_as_long_is_not_taken_for_the_neurons(name: str) -> None:
    model, code = LEFT_ALONE[name]
    run(model, feeds(model, 3))
    result = onnx_coreset.optimize(model, ratio=0.5, samples=256)
    (chain,) = hidden(result)
    assert (chain.status, chain.code) == ("skipped", code)
    assert result.model == model


@pytest.mark.parametrize("name", CUT)
def test_operands_that_follow_the_neurons_are_cut_with_them(name: str) -> None:
    model = CUT[name]
    assert onnx_coreset.optimize(model, ratio=1.0).model == model
    result = onnx_coreset.optimize(model, ratio=0.5, samples=256)
    (chain,) = hidden(result)
    assert (chain.width_before, chain.width_after) == (N, HALF)
    agree(model, result.model, 1e-4, (2, 7))
