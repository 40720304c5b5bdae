"""Which rows of a run are independent draws: that is tried on the model, and rows of one draw count once."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from api_models import built
from onnx_coreset.core.arrays import Indices
from onnx_coreset.edge.independence import per_draw, separate
from onnx_coreset.edge.inputs import Synthetic
from onnx_coreset.edge.provider import CPU
from onnx_coreset.edge.runtime import Provider, Session
from onnx_coreset.edge.statistics import Origin, collect

F = TensorProto.FLOAT
ON_CPU = Provider(CPU)
SHAPE = (6, 4, 3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def model(*nodes: str, shape: tuple[int | str, ...] = ("N", 4, 3)) -> ModelProto:
    """A model x -> y of nodes such as "y = Relu(x)"."""
    made = []
    for node in nodes:
        out, call = node.split(" = ")
        operator, arguments = call.rstrip(")").split("(")
        made.append(helper.make_node(operator, arguments.split(", "), [out]))
    tensors = {"axis": np.array([0]), "flat": np.array([-1, 3])}
    return built(made, {"x": (F, shape)}, {"y": (F, None)}, tensors)


@pytest.mark.parametrize(
    ("nodes", "apart"),
    [
        (["y = Relu(x)"], True),
        (["y = Reshape(x, flat)"], True),
        (["y = Softmax(x)"], True),
        # The mean over the samples of a run, which no exchange of two of them would change.
        (["m = ReduceMean(x)", "y = Sub(x, m)"], False),
        (["y = CumSum(x, zero)"], False),
        (["y = Transpose(x)"], False),
        (["m = ReduceMean(x)", "t = Mul(m, tiny)", "y = Sub(x, t)"], True),
    ],
)
def test_samples_that_do_not_see_each_other_are_found_by_running(nodes: list[str], apart: bool) -> None:
    made = model(*nodes)
    made.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT64, [], [0]))
    made.graph.initializer.append(helper.make_tensor("tiny", F, [], [1e-7]))
    feed = {"x": rng().standard_normal(SHAPE).astype(np.float32)}
    found = separate(Session(made, ON_CPU), ["x", "y"], feed, rng(1))
    assert ("y" in found) == apart and "x" in found


def test_numbers_on_one_axis_and_single_samples_are_one_draw() -> None:
    one = model("y = Relu(x)", shape=("N",))
    assert not separate(Session(one, ON_CPU), ["y"], {"x": rng().standard_normal(5).astype(np.float32)}, rng())
    single = {"x": rng().standard_normal((1, 4, 3)).astype(np.float32)}
    assert not separate(Session(model("y = Relu(x)"), ON_CPU), ["y"], single, rng())


def origin(places: list[tuple[int, int]], rows: int, samples: int) -> Origin:
    run, sample = (np.array(column, dtype=np.intp) for column in zip(*places, strict=True))
    return Origin(run, sample, np.full_like(run, rows), np.full_like(run, samples))


def test_rows_of_a_whole_draw_count_by_their_worst() -> None:
    errors = np.array([1.0, 5.0, 2.0, 3.0, 0.0, 4.0, 7.0, 6.0])
    whole = origin([(r, s) for r in range(2) for s in range(2) for _ in range(2)], 4, 2)
    values, kind = per_draw(errors, whole, True, rng())
    assert (sorted(values), kind) == ([3.0, 4.0, 5.0, 7.0], "worst")
    values, kind = per_draw(errors, whole, False, rng())
    assert (sorted(values), kind) == ([5.0, 7.0], "worst")
    alone = origin([(r, s) for r in range(2) for s in range(4)], 4, 4)
    values, kind = per_draw(errors, alone, True, rng())
    assert (sorted(values), kind) == (sorted(errors), "row")


def test_of_the_rows_of_part_of_a_draw_one_at_random_counts() -> None:
    # The last draw may have been cut off where enough was collected.
    part = origin([(0, 0), (0, 0), (0, 1), (0, 2), (0, 2), (0, 3)], 16, 4)
    errors = np.array([1.0, 2.0, 10.0, 100.0, 200.0, 1000.0])
    seen = set()
    for seed in range(30):
        values, kind = per_draw(errors, part, True, rng(seed))
        assert kind == "random" and len(values) == 3 and 10.0 in values and 1000.0 not in values
        seen |= set(values)
    assert seen == {1.0, 2.0, 10.0, 100.0, 200.0}
    assert per_draw(errors, part, False, rng())[0].size == 0


def test_a_draw_with_many_rows_counts_no_more_often_than_one_with_few() -> None:
    places = [(0, 0)] * 90 + [(0, s) for s in range(1, 11)] + [(1, 0)]
    values, _ = per_draw(np.array([1.0] * 90 + [0.0] * 11), origin(places, 1000, 10), True, rng())
    assert sorted(values) == [0.0] * 10 + [1.0]


def collected(count: int, *nodes: str) -> tuple[Indices, Origin]:
    made = model(*nodes)
    feeder = Synthetic(Session(made, ON_CPU).inputs, {"x": SHAPE}, {})
    found = collect(made, ON_CPU, ["y"], feeder, count, rng)["y"]
    assert found.origin is not None
    # What every sample is, once more: the inputs of each run in turn.
    source = rng()
    runs = [feeder.feed(run, source)["x"] for run in range(int(found.origin.run.max()) + 1)]
    for row, run, sample in zip(found.rows, found.origin.run, found.origin.sample, strict=True):
        assert (np.maximum(runs[run][sample], 0) == row).all(axis=1).any()
    return np.asarray(found.origin.run), found.origin


@pytest.mark.parametrize("count", [192, 80, 100])
def test_every_row_knows_its_sample(count: int) -> None:
    run, found = collected(count, "y = Relu(x)")
    assert len(run) == count and set(found.rows) == {24} and set(found.samples) == {6}
    assert (np.diff(run) >= 0).all()


def test_rows_that_no_number_of_samples_divides_are_the_runs() -> None:
    made = model("y = ReduceSum(x, axis)")
    feeder = Synthetic(Session(made, ON_CPU).inputs, {"x": (5, 4, 3)}, {})
    found = collect(made, ON_CPU, ["y"], feeder, 32, rng)["y"].origin
    assert found is not None and set(found.samples) == {1} and set(found.sample) == {0} and set(found.rows) == {4}
