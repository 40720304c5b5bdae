"""What is added up run by run is what all runs together say."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnx_coreset.core.measure import spread
from onnx_coreset.edge import differences
from onnx_coreset.edge.differences import Differences, stays_finite


def together(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """Return max, rms and spread of all runs, each samples x entries, at once."""
    old, new = (np.concatenate(parts).astype(np.float64) for parts in zip(*runs, strict=True))
    return float(np.abs(new - old).max()), float(np.sqrt(np.mean((new - old) ** 2))), spread(old)


def found(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    table = Differences()
    for old, new in runs:
        table.add(old, new)
    error = table.error("y")
    return error.max, error.rms, error.spread


def made(sizes: list[tuple[int, ...]], dtype: type = np.float32, middle: float = 0.0) -> list:
    rng = np.random.default_rng(len(sizes))
    pairs = [(middle + rng.standard_normal(size), rng.standard_normal(size)) for size in sizes]
    return [(old.astype(dtype), (old + 0.1 * step).astype(dtype)) for old, step in pairs]


@pytest.mark.parametrize("numbers", [1, 7, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_runs_of_one_size_are_rows_below_each_other(numbers: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "_NUMBERS", numbers)
    runs = made([(5, 3, 4), (1, 3, 4), (8, 3, 4)], dtype)
    flat = [(old.reshape(len(old), -1), new.reshape(len(new), -1)) for old, new in runs]
    assert found(runs) == pytest.approx(together(flat), rel=1e-12)


def test_runs_of_other_sizes_are_pooled_entry_by_entry() -> None:
    runs = made([(5, 3), (4, 3), (2, 7), (6, 1), (5, 3)])
    flat = [(old.reshape(-1, 1), new.reshape(-1, 1)) for old, new in runs]
    assert found(runs) == pytest.approx(together(flat), rel=1e-12)
    # A vector or a number is one sample of that many entries.
    runs = made([(3,), (3,), (4,), ()])
    flat = [(old.reshape(-1, 1), new.reshape(-1, 1)) for old, new in runs]
    assert found(runs) == pytest.approx(together(flat), rel=1e-12)


def test_far_from_zero_nothing_is_lost() -> None:
    runs = made([(50, 4)] * 20, np.float64, middle=1e9)
    # Rounding of the values themselves, 1e9 * 2**-53, over a spread of 1.
    assert found(runs)[2] == pytest.approx(together(runs)[2], rel=1e-6)


def test_constant_outputs_do_not_vary_at_all() -> None:
    row = np.float32([[0.1, 0.2, 0.3]])
    assert found([(np.repeat(row, n, axis=0), np.repeat(row, n, axis=0)) for n in (3, 5, 1)]) == (0.0, 0.0, 0.0)
    same = [(np.full((n, k), 0.1), np.full((n, k), 0.1)) for n, k in ((3, 2), (5, 3))]
    assert found(same)[2] == pytest.approx(0.0, abs=1e-16)


def test_samples_that_are_not_finite_in_both_are_left_out() -> None:
    ((old, new),) = made([(6, 3)])
    old[1, 2], new[4, 0] = np.nan, np.inf
    left = [0, 2, 3, 5]
    assert found([(old, new)]) == pytest.approx(together([(old[left], new[left])]), rel=1e-12)
    assert np.isnan(found([(np.full((2, 3), np.nan), np.zeros((2, 3)))])).all()
    # Also among runs of other sizes, in any order.
    lost, other = (np.array([[1.0, np.nan]]), np.array([[5.0, 2.0]])), (np.ones((1, 1)), np.full((1, 1), 2.0))
    assert found([lost, other]) == found([other, lost]) == (1.0, 1.0, 0.0)
    # A run without any before one with some.
    nothing = (np.full((2, 3), np.inf), np.zeros((2, 3)))
    assert found([nothing, (old, new), nothing]) == found([(old, new)])


def test_no_runs_and_runs_without_entries_are_told_apart() -> None:
    table = Differences()
    assert table.empty
    table.add(np.zeros((0, 6)), np.zeros((0, 6)))
    assert not table.empty and np.isnan(table.error("y").rms)
    table.add(np.zeros((2, 0)), np.zeros((2, 0)))
    assert np.isnan(table.error("y").rms)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_only_what_was_finite_can_be_lost(dtype: type) -> None:
    old, new = np.array([1.0, np.nan, np.inf, 2.0]).astype(dtype), np.array([1.0, 2.0, np.nan, 3.0]).astype(dtype)
    assert stays_finite(old, new) and not stays_finite(new, old)
