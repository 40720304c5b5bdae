"""Samples of layer inputs: the same whatever memory allows, and of shapes that the model runs on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from api_models import array, built, mlp
from onnx_coreset.edge import statistics
from onnx_coreset.edge.inputs import Given, Synthetic
from onnx_coreset.edge.provider import CPU
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session
from onnx_coreset.edge.statistics import Samples, collect, synthetic

F = TensorProto.FLOAT
ON_CPU = Provider(CPU)
MODEL = mlp([6, 20, 16, 4], bias=False)
for _value, _size in ((MODEL.graph.input[0], 6), (MODEL.graph.output[0], 4)):
    _value.CopyFrom(helper.make_tensor_value_info(_value.name, F, ["N", "S", _size]))
NAMES = ["x", "h0", "h1"]


def rng(seed: int = 5) -> Callable[[], np.random.Generator]:
    return lambda: np.random.default_rng(seed)


def feeder(shape: tuple[int, ...] = (8, 100, 6)) -> Synthetic:
    return Synthetic(Session(MODEL, ON_CPU).inputs, {"x": shape}, {})


def equal(one: dict[str, Samples], other: dict[str, Samples]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[n].rows, other[n].rows) for n in one)


@pytest.mark.parametrize("budget", [1, 60_000, 100_000])
def test_the_memory_budget_does_not_change_what_is_collected(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    every = collect(MODEL, ON_CPU, NAMES, feeder(), 500, rng())
    monkeypatch.setattr(statistics, "_BUDGET", budget)
    assert equal(collect(MODEL, ON_CPU, NAMES, feeder(), 500, rng()), every)


@pytest.mark.parametrize("names", [["h1"], ["h1", "x"], ["h1", "h0"], ["h0", "h1", "h0"]])
def test_what_else_is_collected_moves_no_rows(names: list[str]) -> None:
    every = collect(MODEL, ON_CPU, NAMES, feeder(), 500, rng())
    some = collect(MODEL, ON_CPU, names, feeder(), 500, rng())
    assert set(some) == set(names) and np.array_equal(some["h1"].rows, every["h1"].rows)


def test_rows_are_what_the_model_computes() -> None:
    # 8 runs of 16 rows, of which 128 are wanted: none is left out, so that rows of different tensors belong together.
    found = collect(MODEL, ON_CPU, NAMES, feeder((4, 4, 6)), 128, rng())
    x = found["x"].rows.astype(np.float64)
    h0 = np.maximum(x @ array(MODEL, "w0").astype(np.float64), 0.0)
    h1 = np.maximum(h0 @ array(MODEL, "w1").astype(np.float64), 0.0)
    for name, exact in (("h0", h0), ("h1", h1)):
        # Products of at most 20 float32 numbers, twice.
        scale = np.abs(exact).max()
        assert found[name].rows.shape == exact.shape and found[name].rank == 3
        assert np.abs(found[name].rows - exact).max() <= 40 * np.finfo(np.float32).eps * scale * 10


def test_a_run_gives_an_eighth_of_the_rows_at_most() -> None:
    found = collect(MODEL, ON_CPU, ["x"], feeder(), 80, rng())["x"].rows
    runs = np.random.default_rng(5)
    parts = [feeder().feed(run, runs)["x"].reshape(-1, 6) for run in range(8)]
    for index, part in enumerate(parts):
        mine = found[10 * index : 10 * index + 10]
        assert all((part == row).all(axis=1).any() for row in mine)


def test_a_user_with_few_runs_loses_no_rows() -> None:
    x = np.random.default_rng(0).standard_normal((2, 50, 1, 6)).astype(np.float32)
    found = collect(MODEL, ON_CPU, ["x"], Given(({"x": x[0]}, {"x": x[1]})), 100, rng())
    assert np.array_equal(found["x"].rows, x.reshape(100, 6))


def test_there_are_no_more_runs_than_allowed() -> None:
    one = feeder((1, 4, 6))
    found = collect(MODEL, ON_CPU, ["x"], one, 80, rng(), most=3)["x"].rows
    # Four rows a run.
    assert len(found) == 12 and len(collect(MODEL, ON_CPU, ["x"], one, 80, rng())["x"].rows) == 80


def looping() -> onnx.ModelProto:
    """Return the model with a loop of one round behind it."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", F, None)],
        [value("d", TensorProto.BOOL, []), value("w", F, None)],
    )
    copy = onnx.ModelProto()
    copy.CopyFrom(MODEL)
    copy.graph.initializer.append(numpy_helper.from_array(np.int64(1), "one"))
    copy.graph.node.append(helper.make_node("Loop", ["one", "", "y"], ["z"], body=body))
    copy.graph.output.append(value("z", F, None))
    return copy


def test_a_model_with_a_loop_is_run_as_often_as_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "runs_within", lambda *_: 4)
    one = feeder((1, 4, 6))
    # Four rows a run; without loops the clock is not asked.
    for model, rows in ((looping(), 16), (MODEL, 80)):
        assert len(collect(model, ON_CPU, ["h0"], one, 80, rng())["h0"].rows) == rows


def test_rows_that_are_not_finite_are_left_out() -> None:
    x = np.ones((6, 1, 6), np.float32)
    x[[1, 4], 0, 2] = np.nan, np.inf
    found = collect(MODEL, ON_CPU, ["x", "h0"], Given(({"x": x},)), 6, rng())
    assert len(found["x"].rows) == 4 and all(np.isfinite(s.rows).all() for s in found.values())


def test_a_model_that_does_not_run_is_refused() -> None:
    with pytest.raises(RuntimeRefused):
        collect(MODEL, ON_CPU, ["h0"], Given(({"x": np.ones((2, 1, 7), np.float32)},)), 6, rng())


# Shapes.


def shapes(model: object, fixed: dict[str, tuple[int, ...]] | None = None) -> dict[str, tuple[int, ...]]:
    session = Session(model, ON_CPU)  # type: ignore[arg-type]
    return dict(synthetic(session, {}, fixed or {}, np.random.default_rng(0)).shapes)


def test_an_unknown_first_axis_holds_samples_and_others_the_largest_that_runs() -> None:
    assert shapes(MODEL) == {"x": (statistics.BATCH, 64, 6)}
    nodes = [helper.make_node("Add", ["x", "table"], ["y"])]
    table = {"table": np.zeros((8, 3), np.float32)}
    assert shapes(built(nodes, {"x": (F, ["N", "S", 3])}, {"y": (F, ["N", 8, 3])}, table)) == {
        "x": (statistics.BATCH, 8, 3)
    }


def joined() -> object:
    nodes = [helper.make_node("Concat", ["a", "b"], ["y"], axis=1)]
    return built(nodes, {"a": (F, ["N", "S"]), "b": (F, ["N", 3])}, {"y": (F, ["N", "T"])}, {})


def test_axes_of_one_name_have_one_size() -> None:
    found = shapes(joined())
    assert found["a"][0] == found["b"][0]


def test_a_given_size_holds_for_every_axis_of_its_name() -> None:
    assert shapes(joined(), {"a": (7, 5)}) == {"a": (7, 5), "b": (7, 3)}


def test_a_fixed_shape_is_kept_and_a_scalar_has_none() -> None:
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"])]
    model = built(nodes, {"x": (F, [2, 3]), "s": (F, [])}, {"y": (F, [2, 3])}, {})
    assert shapes(model) == {"x": (2, 3), "s": ()}


def test_a_large_input_gets_fewer_samples() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    ((batch, size),) = shapes(built(nodes, {"x": (F, ["N", 2**18])}, {"y": (F, ["N", 2**18])}, {})).values()
    assert batch < statistics.BATCH and batch * size <= statistics._BATCH_NUMBERS


def test_unknown_axes_of_a_huge_input_are_short() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = built(nodes, {"x": (F, [2, 2**20, "S"])}, {"y": (F, [2, 2**20, "S"])}, {})
    assert shapes(model) == {"x": (2, 2**20, 8)}
    model = built(nodes, {"x": (F, [2, 2**24, "S"])}, {"y": (F, [2, 2**24, "S"])}, {})
    assert shapes(model) == {"x": (2, 2**24, 1)}
    # Unless it does not run so.
    nodes = [helper.make_node("Gather", ["x", "last"], ["y"], axis=2)]
    table = {"last": np.array([9], np.int64)}
    model = built(nodes, {"x": (F, [2, 2**20, "S"])}, {"y": (F, [2, 2**20, 1])}, table)
    assert shapes(model)["x"][2] > 9


def test_no_shape_that_runs_is_a_refusal() -> None:
    nodes = [helper.make_node("Add", ["x", "table"], ["y"])]
    table = {"table": np.zeros((7, 3), np.float32)}
    with pytest.raises(RuntimeRefused):
        shapes(built(nodes, {"x": (F, [2, 3])}, {"y": (F, [7, 3])}, table))


def test_strings_are_no_numbers_to_draw() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    kind = TensorProto.STRING
    with pytest.raises(RuntimeRefused, match="string"):
        shapes(built(nodes, {"x": (kind, ["N"])}, {"y": (kind, ["N"])}, {}))
