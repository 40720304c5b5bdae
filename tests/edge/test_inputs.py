"""Inputs for whole models: drawn from a law, or cut out of a user's arrays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from api_models import built
from onnx_coreset.core.laws import SCALES
from onnx_coreset.core.suggested import Suggested
from onnx_coreset.edge.inputs import Given, Synthetic, batch_of, given
from onnx_coreset.edge.runtime import InputSpec
from onnx_coreset.errors import UsageError
from onnx_coreset.graph.indices import valid_ranges
from onnx_coreset.graph.model.codec import decode

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 3))


def spec(name: str, *shape: int | str | None, dtype: object = np.float32) -> InputSpec:
    return InputSpec(name, np.dtype(dtype), f"tensor({np.dtype(dtype).name})", shape)  # type: ignore[call-overload]


def drawn(one: InputSpec, shape: tuple[int, ...], seed: int = 0, **more: object) -> np.ndarray:
    feeder = Synthetic((one,), {one.name: shape}, more.pop("ranges", {}), **more)  # type: ignore[arg-type]
    return feeder.feed(0, np.random.default_rng(seed))[one.name]


def test_every_sample_has_one_scale_out_of_a_few() -> None:
    x = drawn(spec("x", "N", 4000), (60, 4000))
    # The rms of 4,000 normal numbers is within 5 / sqrt(8000) of its scale.
    scales = np.sqrt((x.astype(np.float64) ** 2).mean(axis=1))
    nearest = np.asarray(SCALES)[np.abs(scales[:, None] - SCALES).argmin(axis=1)]
    assert np.abs(scales / nearest - 1).max() <= 5 / np.sqrt(8000) and set(nearest) == set(SCALES)
    assert abs(x.mean()) <= 5 / np.sqrt(x.size) and x.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_floats_have_the_inputs_own_type(dtype: object) -> None:
    assert drawn(spec("x", "N", 3, dtype=dtype), (5, 3)).dtype == dtype


def test_a_scalar_is_drawn_as_one() -> None:
    for dtype in (np.float32, np.int64, np.bool_):
        value = drawn(spec("x", dtype=dtype), ())
        assert (value.shape, value.dtype) == ((), dtype)


def test_integers_come_from_their_range_and_reach_its_ends() -> None:
    ids = drawn(spec("x", "N", dtype=np.int64), (2000,), ranges={"x": (2, 7)})
    assert set(ids) == {2, 3, 4, 5, 6}
    assert set(drawn(spec("x", "N", dtype=np.int32), (2000,))) == {0, 1}


def test_truth_values_are_fair_coins() -> None:
    coins = drawn(spec("x", "N", dtype=np.bool_), (10_000,))
    assert abs(coins.mean() - 0.5) <= 5 * 0.5 / 100


def test_what_is_hinted_at_is_drawn() -> None:
    root = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    hint = Suggested(np.array([1.0, 2.0, 3.0]), root, 10.0)
    x = drawn(spec("x", "N", 3), (10_000, 3), hints={"x": hint}).astype(np.float64) - hint.centre
    assert np.abs(x[:, 1]).max() == 0 and np.abs(x[:, 0] - x[:, 2]).max() <= 1e-5
    # x_0 = 10 s (g_0 + g_2): its variance is 200 E s^2, within 5 standard errors, sqrt(E x^4 / N) each.
    power = 200 * np.mean(np.square(SCALES))
    assert abs(np.mean(x[:, 0] ** 2) - power) <= 5 * np.sqrt(3 * 200**2 * np.mean(np.power(SCALES, 4)) / 10_000)


def test_where_numbers_lie_is_the_unit_of_scales_and_clips_as_many_as_asked() -> None:
    hint = Suggested(np.zeros(200), np.eye(200), 1000.0)
    for more in ({}, {"hints": {"x": hint}}):
        x = drawn(spec("x", "N", 200), (3000, 200), ends=(0.0, 255.0), clipped=0.5, **more)
        inside = ((x >= 0) & (x <= 255)).all(axis=1)
        assert abs(inside.mean() - 0.5) <= 5 * 0.5 / np.sqrt(3000)
        scales = np.sqrt((x[~inside].astype(np.float64) ** 2).mean(axis=1)) / 255
        # The rms of 200 normal numbers is within 5 / sqrt(400) of its scale.
        assert (np.abs(scales[:, None] / SCALES - 1).min(axis=1) <= 5 / np.sqrt(400)).all()
    assert drawn(spec("x", "N", 3), (100, 3), ends=(0.0, 0.0)).any() == 0


def test_rows_of_a_last_axis_get_the_hint_each() -> None:
    hint = Suggested(np.array([1.0, -2.0]), np.zeros((2, 2)), 1.0)
    x = drawn(spec("x", "N", "T", 2), (3, 5, 2), hints={"x": hint})
    assert np.array_equal(x, np.broadcast_to(np.float32([1, -2]), (3, 5, 2)))


def test_the_law_of_a_hinted_input_is_known_in_closed_form() -> None:
    one, hint = spec("x", "N", 3), Suggested(np.arange(3.0), np.eye(3), 2.0)
    feeder = Synthetic((one,), {"x": (8, 3)}, {}, {"x": hint})
    parts = feeder.components("x")
    assert parts is not None and [part.scale for part in parts] == [2 * s for s in SCALES]
    # One array, so that the correlations of neurons are computed once.
    assert all(part.root is not None and np.shares_memory(part.root, hint.root) for part in parts)
    assert all(part.mean is not None and np.array_equal(part.mean, hint.centre) for part in parts)
    assert Synthetic((one,), {"x": (8, 3, 1)}, {}, {"x": hint}).components("x") is None


# Integers that index a table.


def ranges(*nodes: str, **tensors: np.ndarray) -> dict[str, tuple[int, int]]:
    made = []
    for text in nodes:
        left, right = text.split(" = ")
        op, _, rest = right.rstrip(")").partition("(")
        made.append(helper.make_node(op, rest.split(", "), [left]))
    model = built(made, {"ids": (TensorProto.INT64, ["N", 3])}, {"y": (1, None)}, tensors)
    return valid_ranges(decode(model))


TABLE = np.zeros((11, 4), np.float32)
SHORT = np.zeros((5, 4), np.float32)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (["y = Gather(table, ids)"], {"ids": (0, 11)}),
        (["a = Identity(ids)", "b = Unsqueeze(a, one)", "y = Gather(table, b)"], {"ids": (0, 11)}),
        (["a = Gather(table, ids)", "b = Gather(short, ids)", "y = Add(a, b)"], {"ids": (0, 5)}),
        (["y = OneHot(ids, depth, values)"], {"ids": (0, 7)}),
        (["y = Cast(ids)"], {}),
        (["y = Gather(ids, one)"], {}),
    ],
)
def test_the_range_is_that_of_the_smallest_table_reached(
    nodes: list[str], expected: dict[str, tuple[int, int]]
) -> None:
    one, depth = np.ones(1, np.int64), np.array(7, np.int64)
    tensors = {"table": TABLE, "short": SHORT, "one": one, "depth": depth, "values": np.zeros(2, np.float32)}
    assert ranges(*nodes, **tensors) == expected


# A user's arrays.


def test_a_stack_is_cut_by_a_fixed_first_dimension_and_leftovers_dropped() -> None:
    feeds = given((spec("x", 7, 3),), {"x": X}).feeds
    assert [feed["x"].shape for feed in feeds] == [(7, 3)] * 4
    assert np.array_equal(np.concatenate([feed["x"] for feed in feeds]), X[:28].astype(np.float32))


@pytest.mark.parametrize(("count", "runs", "size"), [(30, 5, 6), (3000, 15, 200), (3, 3, 1), (256 * 5, 5, 256)])
def test_a_stack_along_a_free_axis_is_cut_into_fives(count: int, runs: int, size: int) -> None:
    feeds = given((spec("x", "N", 3),), {"x": np.zeros((count, 3))}).feeds
    assert [len(feed["x"]) for feed in feeds] == [size] * runs


def test_an_array_of_one_rank_more_holds_a_run_an_entry() -> None:
    feeds = given((spec("x", "N", 3),), {"x": X.reshape(5, 6, 3)}).feeds
    assert [feed["x"].shape for feed in feeds] == [(6, 3)] * 5


def test_scalars_are_a_run_an_entry_or_one_run() -> None:
    assert [f["s"] for f in given((spec("s"),), {"s": np.arange(3.0)}).feeds] == [0.0, 1.0, 2.0]
    assert len(given((spec("s"),), {"s": np.array(2.0)}).feeds) == 1


def test_inputs_of_different_lengths_share_the_runs_of_the_shortest() -> None:
    found = given((spec("x", 2, 3), spec("m", dtype=np.bool_)), {"x": X, "m": np.ones(4, bool)})
    assert found.runs == 4 and all(set(feed) == {"x", "m"} for feed in found.feeds)


def test_runs_come_around_again() -> None:
    found = given((spec("x", 10, 3),), {"x": X})
    assert np.array_equal(found.feed(4, RNG)["x"], found.feed(1, RNG)["x"])


@pytest.mark.parametrize(
    ("dtype", "values", "fits"),
    [
        (np.int64, np.array([[1.0, 2.0, 3.0]]), True),
        (np.int64, np.array([[1.5, 2.0, 3.0]]), False),
        (np.uint8, np.array([[-1, 0, 1]]), False),
        (np.int64, np.array([[np.nan, 0, 1]]), False),
        (np.bool_, np.array([[0, 1, 1]]), True),
        (np.bool_, np.array([[0, 2, 1]]), False),
        (np.float32, np.array([[0.1, -np.inf, 1]]), True),
        (np.float16, np.array([[1e5, 0, 1]]), False),
        (np.float32, np.array([["1", "2", "3"]]), False),
        (np.float32, np.array([[1j, 0, 1]]), False),
    ],
)
def test_numbers_must_fit_the_inputs_type(dtype: object, values: np.ndarray, fits: bool) -> None:
    try:
        feeds = given((spec("x", "N", 3, dtype=dtype),), {"x": values}).feeds
    except UsageError as error:
        assert not fits and "--inputs: x" in str(error) and "\n" not in str(error)
    else:
        assert fits and feeds[0]["x"].dtype == dtype


def test_an_input_that_is_no_tensor_of_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match=r"tensor\(string\)"):
        given((InputSpec("x", None, "tensor(string)", ("N",)),), {"x": np.zeros(3)})


@pytest.mark.parametrize("shape", [(30, 4), (3,), (2, 5, 6, 3), (2, 6, 4)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="--inputs: x has"):
        given((spec("x", "N", 3),), {"x": np.zeros(shape)})


@pytest.mark.parametrize("arrays", [{}, {"x": X, "q": X}, {"q": X}])
def test_names_must_be_the_models(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="its inputs are x"):
        given((spec("x", "N", 3),), arrays)


# Halves, and samples of a run.


def runs(*sizes: int) -> Given:
    return Given(tuple({"x": np.full((size, 3), index)} for index, size in enumerate(sizes)))


def sizes(half: Given) -> list[int]:
    return [len(feed["x"]) for feed in half.feeds]


def test_halves_are_runs_in_their_order_or_parts_of_a_single_one() -> None:
    one, two = runs(4, 4, 4, 4, 4).halved(8, True) or pytest.fail("halves are large enough")
    assert (sizes(one), sizes(two)) == ([4, 4, 4], [4, 4])
    assert [feed["x"][0, 0] for feed in (*one.feeds, *two.feeds)] == [0, 1, 2, 3, 4]
    whole = given((spec("x", "N", 3),), {"x": X.reshape(1, 30, 3)})
    one, two = whole.halved(15, False) or pytest.fail("halves are large enough")
    assert np.array_equal(np.concatenate([one.feeds[0]["x"], two.feeds[0]["x"]]), whole.feeds[0]["x"])
    assert (sizes(one), sizes(two)) == ([15], [15]) and (one.name, one.drawn) == (whole.name, whole.drawn)


@pytest.mark.parametrize(
    ("count", "least", "fixed"), [((4,) * 5, 9, True), ((30,), 10, True), ((30,), 16, False), ((1,), 1, False)]
)
def test_halves_that_are_too_small_are_none(count: tuple[int, ...], least: int, fixed: bool) -> None:
    assert runs(*count).halved(least, fixed) is None


def test_the_first_axis_of_all_inputs_holds_the_samples_of_a_run() -> None:
    a, b, scalar = np.zeros((4, 2)), np.zeros(4), np.array(1.0)
    assert batch_of({"a": a, "b": b}) == 4
    assert [batch_of(feed) for feed in ({"a": a, "b": b[:3]}, {"a": a, "s": scalar}, {"a": a[:0]}, {})] == [1] * 4
