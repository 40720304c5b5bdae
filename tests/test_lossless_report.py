"""The report tells how many neurons cost nothing, and says so where there are any."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

from api_models import mlp, weights
from onnx_coreset import inspect, optimize
from onnx_coreset.report import Report

CPU = {"provider": "cpu", "certify": "off", "samples": 400}
SIZES = (6, 20, 4)


def with_idle(duplicate: int = 0, constant: int = 0, unread: int = 0) -> onnx.ModelProto:
    """A perceptron of 20 neurons, some of which do nothing that others or the next constant do not."""
    (w, b), (u, c) = weights(SIZES)
    w[1 : 1 + duplicate], b[1 : 1 + duplicate] = w[0], b[0]
    w[8 : 8 + constant] = 0.0
    u[:, 14 : 14 + unread] = 0.0
    return mlp(SIZES, layers=[(w, b), (u, c)])


def told(model: onnx.ModelProto, **fields: Any) -> tuple[int | None, Report]:
    report = optimize(model, **CPU, **fields).report
    chain = json.loads(report.to_json())["chains"][0]
    assert chain["lossless"] == report.chains[0].lossless
    return chain["lossless"], report


@pytest.mark.parametrize(("idle", "wanted"), [
    ({}, 0), ({"duplicate": 3}, 3), ({"constant": 2}, 2), ({"unread": 4}, 4),
    ({"duplicate": 3, "constant": 2, "unread": 4}, 9),
])  # fmt: skip
@pytest.mark.parametrize("fields", [{"eps": 0.05}, {"ratio": 0.5}, {"params": 0.7}])
def test_neurons_that_cost_nothing_are_counted(idle: dict[str, int], wanted: int, fields: dict[str, float]) -> None:
    number, report = told(with_idle(**idle), **fields)
    assert number == wanted
    assert (f"{wanted} of 20 neurons of h0" in report.to_text()) == ("lossless" in report.to_text()) == (wanted > 0)


def test_that_many_are_dropped_at_no_error() -> None:
    number, report = told(with_idle(duplicate=3, unread=4), eps=1e-5)
    chain = report.chains[0]
    assert chain.width_after == 20 - number and chain.error.relative.rms is not None
    # float32's rounding of sums of at most 20 numbers.
    assert chain.error.relative.rms <= 30 * np.finfo(np.float32).eps


def test_a_layer_kept_whole_says_what_could_be_dropped() -> None:
    number, report = told(with_idle(unread=4), eps=1e-5, min_width=19, round_to=20)
    assert report.chains[0].status == "kept" and number == 4


def test_what_was_not_looked_at_is_null() -> None:
    assert told(with_idle(unread=4), ratio=1.0)[0] is None
    assert inspect(with_idle(unread=4)).chains[0].lossless is None


def test_many_layers_are_not_all_listed() -> None:
    (w, b), (u, c) = weights((6, 6, 6))
    u[:, 0] = 0.0
    report = optimize(mlp([6] * 14, layers=[(w, b), *[(u, c)] * 12]), ratio=0.5, polish=False, **CPU).report
    short, long = report.to_text(), json.loads(report.to_json())["chains"]
    short = short.split("left as they are")[0]
    assert sum(bool(chain["lossless"]) for chain in long) == 12
    assert "and 2 more layers: the report, or --verbose" in short and "h11" not in short.split("lossless")[1]
