"""Two models on the same inputs: what is measured, what is random by design, and what is no longer acceptable."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from api_models import array, mlp, run, with_nodes
from onnx_coreset.edge import validation
from onnx_coreset.edge.inputs import Given, Synthetic
from onnx_coreset.edge.provider import CPU
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session
from onnx_coreset.edge.statistics import Samples
from onnx_coreset.edge.validation import Comparison, compare, layer_outputs, runs_for

F = TensorProto.FLOAT
ON_CPU = Provider(CPU)
MODEL = mlp([6, 20, 4])
X = np.random.default_rng(0).standard_normal((4, 8, 6)).astype(np.float32)
FEEDER = Given(tuple({"x": x} for x in X))


def changed(**tensors: np.ndarray) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(MODEL)
    for tensor in copy.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name], tensor.name))
    return copy


def compared(after: onnx.ModelProto, before: onnx.ModelProto = MODEL, **more: Any) -> Comparison:
    inner = more.pop("inner", {})
    return compare(before, after, ON_CPU, more.pop("feeder", FEEDER), 4, np.random.default_rng(0), inner, **more)


def test_errors_at_outputs_are_those_of_running_both() -> None:
    after = changed(b1=array(MODEL, "b1") + np.float32([0.5, 0, 0, -1]))
    (found,) = compared(after).outputs
    x = X.reshape(-1, 6)
    old, new = (run(m, x)[0].astype(np.float64) for m in (MODEL, after))
    tiny = 1e-5  # float32 sums of other batches
    assert found.name == "y" and found.max == pytest.approx(np.abs(new - old).max(), abs=tiny)
    assert found.rms == pytest.approx(np.sqrt(np.mean((new - old) ** 2)), abs=tiny)
    assert found.spread == pytest.approx(np.sqrt(old.var(axis=0).mean()), rel=1e-5)


def test_equal_models_differ_by_nothing() -> None:
    found = compared(MODEL)
    assert (found.outputs[0].max, found.faults, found.random, found.samples) == (0.0, (), (), 32)


def test_inner_tensors_are_compared_on_the_columns_that_are_left() -> None:
    kept = np.array([1, 4, 7])
    after = changed(w0=array(MODEL, "w0")[kept], b0=array(MODEL, "b0")[kept], w1=array(MODEL, "w1")[:, kept])
    found = compared(after, inner={"h0": kept})
    assert found.faults == () and found.carried["h0"].max <= 1e-6 < found.outputs[0].max


@pytest.mark.parametrize("noise", ["RandomNormalLike", "RandomUniformLike"])
def test_outputs_that_differ_between_equal_runs_are_random_by_design(noise: str) -> None:
    nodes = [helper.make_node(noise, ["y"], ["r"], dtype=1), helper.make_node("Add", ["y", "r"], ["z"])]
    model = with_nodes(MODEL, *nodes, outputs={"z": F})
    found = compared(model, model, inner={"r": None})
    assert found.random == ("z",) and [o.name for o in found.outputs] == ["y"] and "r" not in found.carried


def test_a_result_of_another_shape_is_a_fault() -> None:
    wide = {"w1": np.zeros((5, 20), np.float32), "b1": np.zeros(5, np.float32)}
    after = changed(**wide)
    after.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    (fault,) = compared(after).faults
    assert fault == "y changed its shape from [8, 4] to [8, 5]"


def test_new_values_that_are_not_finite_are_a_fault_and_old_ones_are_not() -> None:
    broken = changed(b1=np.float32([0, np.inf, 0, 0]))
    assert compared(broken).faults == ("y has new values that are not finite",)
    assert compared(broken, broken).faults == () and compared(MODEL, broken).faults == ()


def test_what_was_not_finite_before_hides_nothing_new() -> None:
    before, after = (changed(b1=np.float32(b)) for b in ([0, np.inf, 0, 0], [0, np.inf, 0, np.inf]))
    assert compared(after, before).faults == ("y has new values that are not finite",)


def test_samples_that_were_never_finite_have_no_error() -> None:
    broken = changed(b1=np.float32([0, np.inf, 0, 0]))
    (found,) = compared(broken, broken).outputs
    assert np.isnan(found.rms) and np.isnan(found.max)


def test_a_result_that_does_not_run_is_a_fault_and_an_original_that_does_not_a_refusal() -> None:
    after = changed(w1=np.zeros((4, 19), np.float32))
    with pytest.raises(RuntimeRefused):
        compared(MODEL, after)


def test_integers_and_samples_without_axes_are_no_trouble() -> None:
    nodes = [
        helper.make_node("ArgMax", ["y"], ["i"], axis=1),
        helper.make_node("ReduceSum", ["y"], ["s"], keepdims=0),
    ]
    model = with_nodes(MODEL, nodes[0], outputs={"i": TensorProto.INT64})
    model.graph.node.append(nodes[1])
    model.graph.output.append(helper.make_tensor_value_info("s", F, []))
    found = compared(model, model)
    assert [(o.name, o.rms) for o in found.outputs] == [("y", 0.0), ("s", 0.0)] and found.random == ()


def test_runs_without_entries_are_no_trouble() -> None:
    found = compared(MODEL, feeder=Given(({"x": np.zeros((0, 6), np.float32)},)))
    assert found.faults == () and np.isnan(found.outputs[0].rms)


def test_runs_of_different_sizes_are_pooled() -> None:
    after = changed(b1=array(MODEL, "b1") + np.float32(1))
    (found,) = compared(after, feeder=Given(({"x": X[0]}, {"x": X[1][:3]}))).outputs
    assert found.rms == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("allowed", "samples"), [(1, 16), (2, 16), (3, 24), (100, 32)])
def test_slow_models_are_run_fewer_times_but_twice(allowed: int, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "runs_within", lambda *_: allowed)
    assert compared(MODEL).samples == samples


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_a_layer_gives_the_same_whatever_its_rank(rank: int) -> None:
    layer = mlp([6, 20, 4], bias=False)
    for value, size in ((layer.graph.input[0], 6), (layer.graph.output[0], 4)):
        sizes = [f"a{i}" for i in range(rank - 1)]
        value.CopyFrom(helper.make_tensor_value_info(value.name, F, [*sizes, size]))
    rows = np.random.default_rng(1).standard_normal((5000, 6)).astype(np.float32)
    (found,) = layer_outputs(layer, ON_CPU, Samples(rows, rank))
    exact = np.maximum(rows @ array(layer, "w0"), 0) @ array(layer, "w1")
    assert found.shape == (5000, 4) and found == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize(("feeder", "batch", "runs"), [(FEEDER, 8, 4), (FEEDER, 300, 2), (None, 8, 64), (None, 600, 2)])
def test_as_many_runs_as_give_the_samples_wanted(feeder: Given | None, batch: int, runs: int) -> None:
    source = Synthetic(Session(MODEL, ON_CPU).inputs, {"x": (batch, 6)}, {}) if feeder is None else feeder
    assert runs_for(source, 512, batch) == runs
