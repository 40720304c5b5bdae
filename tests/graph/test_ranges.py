"""What a layer reads is followed back over moves and scales to a model input or a bounded operator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api_models import built
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.ranges import bounded, origin
from onnx_coreset.graph.space import Space, spaces

FLOAT = TensorProto.FLOAT


def behind(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """x -> nodes -> n -> Gemm, Relu, Gemm -> y."""
    rng = np.random.default_rng(0)
    given = {"W": rng.standard_normal((6, 5)).astype("f4"), "V": rng.standard_normal((5, 3)).astype("f4")}
    given |= tensors or {}
    layer = [
        helper.make_node("Gemm", ["n", "W"], ["t"]),
        helper.make_node("Relu", ["t"], ["h"]),
        helper.make_node("Gemm", ["h", "V"], ["y"]),
    ]
    return built([*nodes, *layer], {"x": (FLOAT, ["N", 6])}, {"y": (FLOAT, ["N", 3])}, given)


def found(model: onnx.ModelProto) -> tuple[str, float, float, tuple[str, float, float] | None]:
    document = decode(model)
    space = next(place for place in spaces(document) if isinstance(place, Space))
    source = origin(document, space)
    return source.tensor.name, source.scale, source.shift, bounded(document, source)


def scalar(value: float) -> np.ndarray:
    return np.array(value, "f4")


def test_moves_and_single_constants_are_followed_to_the_input() -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["a"]),
        helper.make_node("Div", ["a", "c255"], ["b"]),
        helper.make_node("Sub", ["b", "half"], ["c"]),
        helper.make_node("Sub", ["one", "c"], ["d"]),
        helper.make_node("Mul", ["two", "d"], ["e"]),
        helper.make_node("Add", ["e", "three"], ["n"]),
    ]
    tensors = {"c255": scalar(4), "half": np.full((1, 6), 0.5, "f4"), "one": scalar(1), "two": scalar(2)}
    # 2 (1 - (x / 4 - .5)) + 3 = 6 - x / 2
    assert found(behind(nodes, tensors | {"three": scalar(3)})) == ("x", -0.5, 6.0, None)


@pytest.mark.parametrize(
    ("node", "tensors"),
    [
        (helper.make_node("Mul", ["x", "v"], ["n"]), {"v": np.arange(6, dtype="f4")}),
        (helper.make_node("Mul", ["x", "v"], ["n"]), {"v": scalar(0)}),
        (helper.make_node("Div", ["v", "x"], ["n"]), {"v": scalar(2)}),
        (helper.make_node("Add", ["x", "x"], ["n"]), {}),
        (helper.make_node("Relu", ["x"], ["n"]), {}),
    ],
)
def test_what_is_no_single_scale_ends_the_way(node: onnx.NodeProto, tensors: dict[str, np.ndarray]) -> None:
    assert found(behind([node], tensors)) == ("n", 1.0, 0.0, None)


@pytest.mark.parametrize(
    ("op", "low", "high"), [("Sigmoid", 0, 1), ("Tanh", -1, 1), ("Softmax", 0, 1), ("Softsign", -1, 1), ("Sin", -1, 1)]
)
def test_a_bounded_operator_bounds_what_is_made_of_it(op: str, low: float, high: float) -> None:
    nodes = [helper.make_node(op, ["x"], ["a"]), helper.make_node("Mul", ["a", "minus"], ["n"])]
    name, scale, _, ends = found(behind(nodes, {"minus": scalar(-3)}))
    assert (name, scale) == ("a", -3.0) and ends is not None and ends[0] == op
    assert ends[1:] == pytest.approx((-3 * high, -3 * low), abs=1e-5)
    # Outwards: the operators of a runtime are approximations.
    assert ends[1] < -3 * high and ends[2] > -3 * low


def test_a_clip_needs_both_ends() -> None:
    tensors = {"low": scalar(-2), "high": scalar(5), "none": scalar(0)}
    both = [helper.make_node("Clip", ["x", "low", "high"], ["n"])]
    assert found(behind(both, tensors))[3] == ("Clip", -2.0, 5.0)
    assert found(behind([helper.make_node("Clip", ["x", "low"], ["n"])], tensors))[3] is None
