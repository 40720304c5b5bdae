"""Widths: what is asked for, the least that meets eps, and what is tried after a failed validation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from api_models import codes, mlp, widths
from hidden_layers import plain
from onnx_coreset import optimize
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.laws import Ball
from onnx_coreset.core.layer import HiddenLayer, shrink
from onnx_coreset.core.measure import errors
from onnx_coreset.core.methods import METHODS
from onnx_coreset.options import Options
from onnx_coreset.plan import (
    Candidates,
    allowance,
    allowed,
    asked,
    candidates,
    evaluate,
    least_width,
    measured_on,
    rounded,
    spaced,
)
from onnx_coreset.stages import settling

LAW = Ball(3.0, 5)
FIT, HOLD = (LAW.sample(n, np.random.default_rng(n)) for n in (600, 300))


def choices(layer: HiddenLayer, method: str = "backward", **fields: Any) -> Candidates:
    options = Options(**fields)
    return candidates(layer, FIT, METHODS[method], LAW, 3.0, options, lambda width: np.random.default_rng([1, width]))


@pytest.mark.parametrize(
    ("wanted", "step", "least", "width", "expected"),
    [(5, 1, 1, 12, 5), (5, 4, 1, 12, 8), (8, 4, 1, 12, 8), (11, 8, 1, 12, 12), (3, 4, 6, 12, 8), (3, 1, 20, 12, 12)],
)
def test_rounding_is_upwards_from_the_least_width_and_never_above_n(
    wanted: int, step: int, least: int, width: int, expected: int
) -> None:
    assert rounded(wanted, width, Options(round_to=step, min_width=least)) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 300, 999])
def test_a_ratio_is_exact_where_the_product_is_a_whole_number(n: int) -> None:
    for kept in range(1, n + 1, max(1, n // 50)):
        assert asked("h", n, Options(ratio=kept / n), None) == kept


def test_a_named_width_is_neither_rounded_nor_above_n() -> None:
    options = Options(eps=0.1, round_to=8, min_width=4)
    assert (asked("h", 12, options, 3), asked("h", 12, options, 13), asked("h", 12, options, None)) == (3, 12, None)


def relative(layer: HiddenLayer, found: Candidates, width: int, x: Array, options: Options) -> float:
    """The error of a width, by evaluating the shrunk layer."""
    narrower = shrink(layer, found.at(width))
    return errors(layer.evaluate(x), narrower.evaluate(x)).norm(options.norm, options.absolute)


@pytest.mark.parametrize("error", ["rms", "p99", "max"])
@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("eps", [0.05, 0.2, 0.5, 1.0])
def test_bisection_ends_between_a_width_that_meets_eps_and_one_that_does_not(
    error: str, refit: bool, eps: float
) -> None:
    layer = plain()
    options = Options(eps=eps, error=error, refit=refit)
    found = choices(layer, error=error, refit=refit, eps=eps)
    width = least_width(found, measured_on(found, HOLD, options), options)
    brute = [relative(layer, found, m, HOLD, options) <= eps for m in range(1, layer.width + 1)]
    assert brute[width - 1] and not (width > 1 and brute[width - 2])
    if brute == sorted(brute):
        assert width == 1 + brute.index(True)


def test_the_least_width_is_found_where_errors_fall_with_the_width() -> None:
    """Brute force and bisection agree on every width of a layer whose errors are monotone."""
    layer = plain()
    found = choices(layer)
    measured = [relative(layer, found, m, HOLD, Options()) for m in range(1, 13)]
    assert all(b < a for a, b in pairwise(measured))
    for width, error in enumerate(measured[:-1], start=1):
        options = Options(eps=error * (1 + 1e-9))
        assert least_width(found, measured_on(found, HOLD, options), options) == width


def test_an_error_known_from_features_is_that_of_the_shrunk_layer() -> None:
    layer = plain()
    found = choices(layer)
    features = tuple(r.features.evaluate(HOLD) for r in layer.readouts)
    known = evaluate(layer, found.at(5), features, layer.evaluate(HOLD))
    assert known.rms == pytest.approx(
        errors(layer.evaluate(HOLD), shrink(layer, found.at(5)).evaluate(HOLD)).rms, rel=1e-9
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("refit", [True, False])
def test_a_coreset_has_exactly_the_width_asked(method: str, refit: bool) -> None:
    found = choices(plain(), method, refit=refit)
    for width in range(1, 13):
        kept = found.at(width).kept
        assert len(kept) == width and np.all(np.diff(kept) > 0)


def repeated() -> HiddenLayer:
    """Twelve neurons, of which six are repetitions."""
    layer = plain()
    readout = layer.readouts[0]
    twice = np.repeat(np.arange(6), 2)
    return HiddenLayer(12, (replace(readout, features=readout.features.take(twice)),))


def test_what_is_lossless_goes_first() -> None:
    layer = repeated()
    found, options = choices(layer), Options(eps=1e-9)
    assert least_width(found, measured_on(found, HOLD, options), options) == 6
    for width in (6, 7, 11):
        assert relative(layer, choices(layer), width, HOLD, Options()) < 1e-12


# After a failed validation.


@cache
def _model() -> Any:
    return mlp([6, 20, 4])


def test_a_width_that_fails_validation_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, tried = settling.measure, []

    def strict(alone: Any, name: str, coreset: Any, *rest: Any, **more: Any) -> Any:
        found, ran = measure(alone, name, coreset, *rest, **more)
        tried.append(coreset.width)
        wrong = {"rms": found.rms * 100, "row_squares": found.row_squares * 1e4}
        return (found if len(tried) > 2 else replace(found, **wrong)), ran

    monkeypatch.setattr(settling, "measure", strict)
    report = optimize(_model(), eps=0.3, provider="cpu").report
    assert len(tried) == 3 and tried == sorted(set(tried)) and report.chains[0].width_after == tried[-1]
    assert report.chains[0].status == "pruned"


def failing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every measurement finds ten spreads of error."""
    measure, tried = settling.measure, []

    def never(alone: Any, name: str, coreset: Any, *rest: Any, **more: Any) -> Any:
        found, ran = measure(alone, name, coreset, *rest, **more)
        tried.append(coreset.width)
        return replace(found, rms=10 * found.spread, row_squares=np.full(found.samples, 100 * found.spread**2)), ran

    monkeypatch.setattr(settling, "measure", never)
    return tried


def test_a_layer_that_fails_at_every_width_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch)
    result = optimize(_model(), eps=0.3, provider="cpu")
    chain = result.report.chains[0]
    assert (chain.status, chain.code, chain.width_after) == ("kept", "validation", 20) and result.model == _model()
    assert 1 < len(tried) <= 6 and tried == sorted(set(tried))


@pytest.mark.parametrize("asked", [{"ratio": 0.5}, {"width": {"h0": 10}}])
def test_no_error_widens_a_width_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]) -> None:
    tried = failing(monkeypatch)
    report = optimize(_model(), provider="cpu", **asked).report
    assert tried == [10] and widths(report)["h0"] == 10


def test_a_layer_for_which_no_width_is_enough_says_so() -> None:
    report = optimize(_model(), eps=1e-6, provider="cpu").report
    assert codes(report)["h0"] == "eps" and report.chains[0].status == "kept" and "1e-06" in report.chains[0].reason


# What every width would cost.


@pytest.mark.parametrize("model", [plain(), repeated()])
def test_a_curve_is_what_the_refit_errs_on_the_samples_fitted_to(model: HiddenLayer) -> None:
    found = choices(model)
    for width, error in found.curve(5) or ():
        # The path is an upper bound: the ridge, 1e-7 of a variance, is part of it, and features here are below 1e3.
        assert relative(model, found, width, FIT, Options()) == pytest.approx(error, rel=1e-3, abs=1e-3)


def test_a_curve_has_the_width_chosen_and_spans_all() -> None:
    curve = choices(plain()).curve(11)
    assert curve is not None and curve[0][0] == 1 and curve[-1] == (12, 0.0) and 11 in dict(curve)
    assert [width for width, _ in curve] == sorted(dict(curve))


def test_a_curve_ends_at_what_is_lossless() -> None:
    curve = dict(choices(repeated()).curve(12) or ())
    assert curve[6] < 1e-3 < curve[5] if 5 in curve else curve[6] < 1e-3


@pytest.mark.parametrize(("method", "refit"), [("uniform", True), ("sensitivity", True), ("backward", False)])
def test_without_nested_refits_errors_are_measured_where_they_are_asked_for(method: str, refit: bool) -> None:
    layer = plain()
    found = choices(layer, method, refit=refit)
    assert found.curve(5) is None
    errors_there = found.predicted(np.array([3, 8]), HOLD)
    for width, error in zip((3, 8), errors_there, strict=True):
        assert relative(layer, found, width, HOLD, Options()) == pytest.approx(error, rel=1e-9)
    assert dict(found.curve(3) or ()).keys() == {3, 8, 12}


@pytest.mark.parametrize(("step", "least", "width"), [(1, 1, 12), (4, 1, 12), (5, 1, 12), (4, 6, 13), (1, 20, 12)])
def test_the_widths_allowed_are_those_that_rounding_gives(step: int, least: int, width: int) -> None:
    options = Options(round_to=step, min_width=least)
    assert allowed(width, options).tolist() == sorted({rounded(m, width, options) for m in range(1, width + 1)})


@pytest.mark.parametrize("width", [2, 3, 16, 300, 3072])
def test_widths_are_spaced_from_one_to_all(width: int) -> None:
    found = spaced(width)
    assert found[0] == 1 and found[-1] == width and len(set(found)) == len(found) <= 16


def test_a_share_of_the_parameters_is_exact_where_the_product_is_a_whole_number() -> None:
    assert all(allowance(n, kept / n) == kept for n in (3, 7, 999, 266_610) for kept in range(1, n, max(1, n // 50)))
