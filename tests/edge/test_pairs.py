"""What a reader reads and gives in two models, row by row: rows of equal inputs, finite ones, as many as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api_models import array, built, mlp
from onnx_coreset.edge.inputs import Given
from onnx_coreset.edge.pairs import Pair, Reader, pairs
from onnx_coreset.edge.provider import CPU
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session, with_outputs

U = float(np.finfo(np.float32).eps)
ON_CPU = Provider(CPU)
WIDE, OTHER = mlp([6, 20, 16, 4], seed=0), mlp([6, 20, 16, 4], seed=1)
MIDDLE, LAST = Reader("h0", -1, "t1", -1), Reader("h1", -1, "y", -1)


@dataclass(frozen=True)
class Endless:
    """Fresh normal inputs in runs of 50."""

    runs: int | None = None
    name: str = "endless"

    def feed(self, run: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": rng.standard_normal((50, 6)).astype("f4")}


def read(readers: list[Reader], feeder: Any, rows: int, runs: int, narrow: onnx.ModelProto = OTHER) -> list[Any]:
    names = [name for reader in readers for name in (reader.hidden, reader.output)]
    sessions = [Session(with_outputs(m, list(dict.fromkeys(names))), ON_CPU) for m in (WIDE, narrow)]
    found: Iterator[tuple[Pair, ...]] = pairs(*sessions, readers, feeder, rows, runs, np.random.default_rng(0))
    return list(found)


def test_rows_belong_together_and_to_the_right_models() -> None:
    for middle, last in read([MIDDLE, LAST], Endless(), 100, 20):
        for (hidden, narrow, wide), index in ((middle, 1), (last, 2)):
            w, b = (array(OTHER, f"{kind}{index}").astype("f8") for kind in "wb")
            # One product of at most 20 float32 numbers.
            size = np.abs(hidden) @ np.abs(w).T + np.abs(b)
            assert np.all(np.abs(hidden @ w.T + b - narrow) <= 25 * U * size)
            assert wide.shape == narrow.shape and not np.allclose(wide, narrow)


def test_original_and_narrower_are_run_on_the_same_inputs() -> None:
    for ((_, narrow, wide),) in read([LAST], Endless(), 100, 20, narrow=WIDE):
        assert np.array_equal(narrow, wide)


@pytest.mark.parametrize(("rows", "runs", "wanted"), [
    (80, 20, [10] * 8), (100, 20, [13] * 8), (4000, 3, [50] * 3), (60, 3, [20] * 3), (1000, 30, [50] * 20),
])  # fmt: skip
def test_as_many_rows_as_wanted_from_no_more_runs_than_allowed(rows: int, runs: int, wanted: list[int]) -> None:
    assert [len(hidden) for ((hidden, _, _),) in read([LAST], Endless(), rows, runs)] == wanted


def test_a_feeder_that_ends_is_read_once() -> None:
    feeds = tuple({"x": np.full((5, 6), float(i), "f4")} for i in range(3))
    assert [len(part[0][0]) for part in read([LAST], Given(feeds), 1000, 50)] == [5, 5, 5]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_left_out(bad: float) -> None:
    x = np.ones((5, 6), "f4")
    x[3] = bad
    (((hidden, narrow, wide),),) = read([LAST], Given(({"x": x},)), 10, 1)
    assert len(hidden) == len(narrow) == len(wide) == 4
    assert all(np.isfinite(part).all() for part in (hidden, narrow, wide))


def test_another_shape_is_refused() -> None:
    with pytest.raises(RuntimeRefused, match="shape"):
        read([MIDDLE], Endless(), 10, 1, narrow=mlp([6, 20, 15, 4]))


def test_other_axes_are_turned() -> None:
    w = np.random.default_rng(0).standard_normal((4, 6)).astype("f4")
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("MatMul", ["w", "h"], ["y"])]
    kind = TensorProto.FLOAT
    model = built(nodes, {"x": (kind, [6, "N"])}, {"y": (kind, [4, "N"])}, {"w": w})
    session = Session(with_outputs(model, ["h"]), ON_CPU)
    feeder = Given(({"x": np.random.default_rng(1).standard_normal((6, 9)).astype("f4")},))
    found = pairs(session, session, [Reader("h", -2, "y", -2)], feeder, 9, 1, np.random.default_rng(0))
    (((hidden, narrow, _),),) = list(found)
    assert hidden.shape == (9, 6) and np.allclose(hidden @ w.T, narrow, atol=60 * U)
