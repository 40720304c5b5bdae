"""The norms of a difference, against tables worked out by hand, and what sampling explains of an excess."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.core.measure import errors, row_errors, spread

BEFORE = np.array([[0.0, 10.0], [2.0, 10.0], [4.0, 10.0], [6.0, 10.0]])
AFTER = BEFORE + np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-3.0, 2.0]])


def test_the_norms_of_a_table_are_those_worked_out_by_hand() -> None:
    found = errors([BEFORE], [AFTER])
    # Squares 1, 1, 1, 9 and 0, 0, 0, 4: 16 over 8 entries, 12 over the 4 of the first output.
    assert found.rms == pytest.approx(np.sqrt(2.0))
    assert found.max == 3.0
    # Sorted 0 0 0 1 1 1 2 3, place 0.99 * 7 = 6.93.
    assert found.p99 == pytest.approx(2.93)
    # Variances 5 and 0.
    assert found.spread == pytest.approx(np.sqrt(2.5))
    assert found.worst_output == pytest.approx(np.sqrt(3.0) / np.sqrt(2.5))
    assert found.samples == 4
    np.testing.assert_allclose(found.row_squares, [0.5, 0.5, 0.5, 6.5])
    np.testing.assert_array_equal(found.exceeding, [1, 1, 1, 3])


@pytest.mark.parametrize(("name", "value"), [("rms", np.sqrt(2.0)), ("p99", 2.93), ("max", 3.0)])
def test_a_norm_is_over_the_spread_unless_absolute(name: str, value: float) -> None:
    found = errors([BEFORE], [AFTER])
    assert found.norm(name, absolute=True) == pytest.approx(value)
    assert found.norm(name, absolute=False) == pytest.approx(value / np.sqrt(2.5))


def test_several_heads_are_each_divided_by_their_own_spread_first() -> None:
    found = errors([BEFORE, 100 * BEFORE], [AFTER, 100 * AFTER])
    alone = errors([BEFORE], [AFTER])
    assert found.spread == found.unit == 1.0
    for name in ("rms", "max", "worst_output"):
        assert getattr(found, name) == pytest.approx(alone.norm(name, name == "worst_output"))


def test_a_head_that_does_not_vary_counts_in_its_own_numbers() -> None:
    still = np.full((4, 2), 7.0)
    found = errors([BEFORE, still], [BEFORE, still + 0.5])
    assert found.max == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outputs_that_do_not_vary_have_spread_zero_and_unit_one(value: float, dtype: type) -> None:
    still = np.full((1000, 3), value, dtype)
    found = errors([still], [still])
    assert (found.spread, found.unit, spread(still)) == (0.0, 1.0, 0.0)


def test_a_spread_far_from_zero_keeps_its_digits_in_float32() -> None:
    # 0 and 1, shifted by 2^20: exact in float32; the mean of the squares would not be.
    table = (2.0**20 + np.tile([0.0, 1.0], 500))[:, None].astype(np.float32)
    assert spread(table) == pytest.approx(0.5, rel=1e-12)


def test_differences_are_taken_in_float64() -> None:
    before = np.array([[1.0], [2.0]], np.float16)
    found = errors([before], [np.array([[1.0 + 2.0**-20], [2.0]], np.float64)])
    assert found.max == 2.0**-20


@pytest.mark.parametrize("name", ["rms", "p99", "max"])
def test_equal_tables_have_error_zero(name: str) -> None:
    found = errors([BEFORE], [BEFORE])
    assert found.norm(name, False) == 0.0
    assert found.explained(name, False, 0.0)


@pytest.mark.parametrize("shape", [(0, 3), (5, 0)])
def test_empty_tables_have_error_zero(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape)
    found = errors([empty], [empty])
    assert (found.rms, found.p99, found.max, found.spread) == (0.0, 0.0, 0.0, 0.0)


def sampled(count: int = 2000, outputs: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A table of spread about 1, and a difference of normal entries, rms 0.1."""
    rng = np.random.default_rng(seed)
    before = rng.standard_normal((count, outputs))
    return before, before + 0.1 * rng.standard_normal((count, outputs))


@pytest.mark.parametrize("absolute", [False, True])
def test_an_rms_is_explained_within_three_standard_errors_and_no_further(absolute: bool) -> None:
    before, after = sampled()
    found = errors([before], [after])
    squares = ((after - before) ** 2)[:, 0]
    edge = np.sqrt(squares.mean() - 3 * squares.std() / np.sqrt(2000)) / (1.0 if absolute else found.spread)
    assert found.norm("rms", absolute) > edge
    assert found.explained("rms", absolute, edge * (1 + 1e-9))
    assert not found.explained("rms", absolute, edge * (1 - 1e-9))


def test_a_largest_error_is_explained_while_three_rows_exceed_it() -> None:
    before = np.zeros((100, 2))
    after = np.zeros((100, 2))
    after[:3] = 1.0
    assert errors([before], [after]).explained("max", True, 0.5)
    after[3, 0] = 1.0
    assert not errors([before], [after]).explained("max", True, 0.5)


@pytest.mark.parametrize("outputs", [1, 50])
@pytest.mark.parametrize("scale", [1.0, 10.0], ids=["even", "by row"])
def test_a_p99_of_fresh_samples_is_explained_by_the_true_one(outputs: int, scale: float) -> None:
    rng = np.random.default_rng(3)

    def difference(count: int) -> np.ndarray:
        # Every tenth row is larger by `scale`: then entries of a row exceed together.
        rows = np.where(rng.random(count) < 0.1, scale, 1.0)
        return rows[:, None] * rng.standard_normal((count, outputs))

    true = float(np.quantile(np.abs(difference(400_000 // outputs * 5)), 0.99))
    verdicts = [
        errors([np.zeros((1000, outputs))], [difference(1000)]).explained("p99", True, true) for _ in range(200)
    ]
    # Three standard errors: one in 740 fails; three of 200 fail with a chance of 0.003.
    assert verdicts.count(False) <= 3


@pytest.mark.parametrize("outputs", [1, 50])
def test_a_p99_well_above_the_bound_is_not_explained(outputs: int) -> None:
    before, after = sampled(outputs=outputs)
    found = errors([before], [after])
    # The bound is exceeded by 5 % of the entries; with 2000 rows 1 % may be taken for at most 2 %.
    assert not found.explained("p99", True, 0.1 * 1.96)


@pytest.mark.parametrize("name", ["rms", "p99", "max"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_explained(name: str, bad: float) -> None:
    before, after = sampled(100)
    after[5:8, 0] = bad
    assert not errors([before], [after]).explained(name, False, 1e6)


def test_rows_have_the_largest_error_of_all_outputs_each_in_its_scale() -> None:
    before = [np.zeros((3, 2)), np.zeros((3, 1))]
    after = [np.array([[1.0, -4.0], [0.0, 0.0], [3.0, 1.0]]), np.array([[1.0], [-2.0], [0.0]])]
    assert np.array_equal(row_errors(before, after, np.array([1.0, 4.0, 0.5])), [2.0, 4.0, 3.0])
    # Alone in their own numbers, as the errors of a layer with one reader are.
    assert np.array_equal(row_errors(before[:1], after[:1], np.ones(2)), errors(before[:1], after[:1]).exceeding)
