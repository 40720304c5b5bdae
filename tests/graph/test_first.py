"""The layers that read an input first are found behind changes of shape and of scale, and behind nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api_models import built
from onnx_coreset.graph.first import First, first_layers
from onnx_coreset.graph.model.codec import decode

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)
TENSORS = {
    "W": RNG.standard_normal((6, 5)).astype("f4"),
    "b": RNG.standard_normal(5).astype("f4"),
    "V": RNG.standard_normal((5, 3)).astype("f4"),
    "mean": np.float32(2.0),
    "unit": np.float32(4.0),
    "each": np.arange(1, 7, dtype="f4"),
}


def firsts(front: list[onnx.NodeProto], reads: str, more: list[onnx.NodeProto] | None = None) -> list[First]:
    layers = [
        helper.make_node("Gemm", [reads, "W", "b"], ["t"]),
        helper.make_node("Relu", ["t"], ["h"]),
        helper.make_node("MatMul", ["h", "V"], ["y"]),
    ]
    nodes = [*front, *layers, *(more or [])]
    return list(first_layers(decode(built(nodes, {"x": (FLOAT, ["N", 6])}, {"y": (FLOAT, ["N", 3])}, TENSORS)), 100))


def test_a_layer_at_the_input_is_read_with_its_bias() -> None:
    (found,) = firsts([], "x")
    weights, bias = found.layers[0].read()
    assert (found.name, found.scale, found.shift) == ("x", 1.0, 0.0)
    assert np.array_equal(weights, TENSORS["W"].T) and np.array_equal(bias, TENSORS["b"])


def test_changes_of_shape_and_scale_are_followed() -> None:
    front = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Sub", ["f", "mean"], ["s"]),
        helper.make_node("Div", ["s", "unit"], ["d"]),
    ]
    (found,) = firsts(front, "d")
    assert (found.scale, found.shift) == (0.25, -0.5)


@pytest.mark.parametrize("node", [("Mul", ["x", "each"]), ("Relu", ["x"]), ("Add", ["x", "x"])])
def test_what_does_more_hides_the_input(node: tuple[str, list[str]]) -> None:
    assert firsts([helper.make_node(node[0], node[1], ["m"])], "m") == []


def test_layers_that_read_an_input_in_different_scales_suggest_nothing_together() -> None:
    more = [helper.make_node("Mul", ["x", "unit"], ["m"]), helper.make_node("MatMul", ["m", "W"], ["z"])]
    assert firsts([], "x", more) == []
    (found,) = firsts([], "x", [helper.make_node("MatMul", ["x", "W"], ["z"])])
    assert len(found.layers) == 2
