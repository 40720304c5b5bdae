"""How much of a layer's error arrives at the outputs, measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api_models import built, mlp, run
from onnx_coreset.core.methods import METHODS
from onnx_coreset.edge.response import responses
from onnx_coreset.edge.runtime import choose
from onnx_coreset.options import Options
from onnx_coreset.stages.gains import gains
from onnx_coreset.stages.narrowing import Prepared, prepare
from onnx_coreset.stages.opening import open_model
from onnx_coreset.stages.sampling import sources

FLOAT = TensorProto.FLOAT
PROVIDER = choose("cpu")


def two_branches(scale: float) -> onnx.ModelProto:
    """Two equal layers side by side on inputs of their own; the output is the one plus `scale` times the other."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {"s": np.asarray([scale], "f4")}
    nodes = []
    for index in (0, 1):
        tensors[f"A{index}"] = rng.standard_normal((8, 20)).astype("f4")
        tensors[f"B{index}"] = rng.standard_normal((20, 6)).astype("f4")
        nodes += [
            helper.make_node("MatMul", [f"x{index}", f"A{index}"], [f"h{index}"]),
            helper.make_node("Relu", [f"h{index}"], [f"z{index}"]),
            helper.make_node("MatMul", [f"z{index}", f"B{index}"], [f"y{index}"]),
        ]
    nodes += [helper.make_node("Mul", ["y1", "s"], ["t"]), helper.make_node("Add", ["y0", "t"], ["y"])]
    return built(nodes, {f"x{i}": (FLOAT, ["N", 8]) for i in (0, 1)}, {"y": (FLOAT, ["N", 6])}, tensors)


def found_gains(model: onnx.ModelProto, **fields: Any) -> np.ndarray:
    options = Options.make(params=0.5, samples=1024, provider="cpu", **fields)
    opened = open_model(model, None, options)
    found = sources(opened, options, PROVIDER)
    chains = [prepare(space, opened, found, METHODS["backward"], options) for space in opened.spaces]
    good = [chain for chain in chains if isinstance(chain, Prepared)]
    curves = [(np.arange(1, c.space.width + 1), np.asarray(c.choice().path)) for c in good]
    return gains(good, curves, opened, found, options, PROVIDER)


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.2])
def test_gains_are_the_shares_of_the_outputs_spread(scale: float) -> None:
    first, second = found_gains(two_branches(scale))
    # Branches of equal spread are scaled 1 : scale, and independent: their shares of the spread are these.
    shares = np.array([1.0, scale]) / np.hypot(1.0, scale)
    assert first == pytest.approx(shares[0], rel=0.35) and second == pytest.approx(shares[1], rel=0.35)


def test_a_branch_that_is_hardly_heard_has_a_hundredth_of_the_largest_gain() -> None:
    first, second = found_gains(two_branches(1e-6))
    assert second == pytest.approx(first / 100)


def test_where_nothing_can_be_run_gains_are_one() -> None:
    model = mlp([10, 40, 5])
    model.graph.node.append(helper.make_node("Mystery", ["y"], ["m"], domain="nowhere"))
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    model.graph.output.append(helper.make_tensor_value_info("m", FLOAT, ["N", 5]))
    assert found_gains(model).tolist() == [1.0]


def test_gains_are_drawn_from_the_seed_alone() -> None:
    model = mlp([8, 20, 16, 4])
    assert np.array_equal(found_gains(model, seed=3), found_gains(model, seed=3))
    assert not np.array_equal(found_gains(model, seed=3), found_gains(model, seed=4))


def test_a_response_is_the_worst_relative_error_of_an_output() -> None:
    model = mlp([8, 20, 4])
    twice = mlp([8, 20, 4])
    bias = next(t for t in twice.graph.initializer if t.name == "b1")
    values = onnx.numpy_helper.to_array(bias) + np.asarray([0.5, 0, 0, 0], "f4")
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "b1"))
    x = np.random.default_rng(0).standard_normal((300, 8)).astype("f4")
    feeds = [{"x": x[:100]}, {"x": x[100:]}]
    same, other = responses(model, [model, twice], PROVIDER, feeds)
    spread = np.sqrt(np.mean(run(model, x)[0].astype("f8").var(axis=0)))
    # One output of four moves by a half.
    assert same == 0.0 and other == pytest.approx(0.25 / spread, rel=1e-5)


def test_a_variant_that_does_not_run_or_has_other_shapes_has_no_response() -> None:
    feeds = [{"x": np.ones((5, 8), "f4")}]
    broken = mlp([8, 20, 4])
    broken.graph.node[0].op_type = "Mystery"
    wider = mlp([8, 20, 7])
    assert np.isnan(list(responses(mlp([8, 20, 4]), [broken, wider], PROVIDER, feeds))).all()
