"""Statements: what is claimed of draws, in which words, and when nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.core.statistics import clopper_pearson, exceedance
from onnx_coreset.stages.saying import enough, said

ERRORS = np.random.default_rng(0).permutation(np.arange(1.0, 10_001.0))


def test_independent_draws_make_an_order_statement() -> None:
    found = said(ERRORS, "an input", "a law", True, 0.001, 9_900.0)
    assert (found.kind, found.about, found.law, found.samples, found.delta) == (
        "order", "an input", "a law", 10_000, 0.001,
    )  # fmt: skip
    assert (found.exceeds, found.probability, found.reason) == (10_000.0, exceedance(10_000, 0.001), None)
    assert [level.probability for level in found.levels] == [0.001, 0.01, 0.1]
    # At most a tenth of the draws is larger than what a tenth exceeds, and not far fewer.
    assert all(
        10_000 * (1 - level.probability) < level.exceeds < 10_000 * (1 - level.probability / 10) + 1
        for level in found.levels
    )
    assert found.share is not None and (found.share.error, found.share.count) == (9_900.0, 100)
    assert (found.share.low, found.share.high) == clopper_pearson(100, 10_000, 0.001)


def test_inputs_like_those_of_a_user_make_a_conformal_one() -> None:
    found = said(ERRORS[:99], "an input", "inputs", False, 0.001, 9_900.0)
    assert (found.kind, found.delta, found.probability, found.share) == ("conformal", None, 0.01, None)
    assert [level.probability for level in found.levels] == [0.1]
    assert found.levels[0].exceeds == np.sort(ERRORS[:99])[89]


def test_few_draws_claim_less_and_very_few_nothing() -> None:
    found = said(ERRORS[:100], "an input", "a law", True, 0.001)
    assert [level.probability for level in found.levels] == [0.1] and found.share is None
    assert found.probability == pytest.approx(1 - 0.001**0.01)
    for count in (0, 1, 9):
        nothing = said(ERRORS[:count], "an input", "a law", True, 0.001)
        assert nothing.kind is None and nothing.probability is None
        assert nothing.reason == f"{count} independent draws are too few to say anything"
    assert said(ERRORS[:10], "an input", "a law", True, 0.001).reason is None


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_error_that_is_not_finite_leaves_nothing_to_say(bad: float) -> None:
    assert said(np.append(ERRORS, bad), "an input", "a law", True, 0.001).reason == "an error is not finite"


def test_as_many_draws_are_wanted_as_a_thousandth_takes() -> None:
    assert said(np.ones(enough(0.01)), "", "", True, 0.01).levels[0].probability == 0.001
    assert said(np.ones(enough(0.01) - 1), "", "", True, 0.01).levels[0].probability == 0.01
