"""A family of models from one analysis: each is what a run of its own would give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import pytest

from api_models import mlp
from onnx_coreset import Result, optimize, sweep
from onnx_coreset.errors import Rejected, UsageError
from onnx_coreset.stages import settling

CPU: dict[str, Any] = {"provider": "cpu", "certify": "off", "samples": 512}
MODEL = mlp([8, 20, 16, 4], seed=2)
RATIOS = (0.75, 0.2, 1.0, 0.5)


def compared(result: Result) -> tuple[onnx.ModelProto, object]:
    """A result without its seconds."""
    return result.model, replace(result.report, seconds={})


@pytest.mark.parametrize(
    "more",
    [{}, {"method": "sensitivity"}, {"seed": 7, "refit": False}, {"radius": 2.0}, {"width": {"h0": 9}, "round_to": 4}],
)
def test_results_are_those_of_separate_runs(more: dict[str, Any]) -> None:
    alone = [optimize(MODEL, ratio=ratio, **more, **CPU) for ratio in RATIOS]
    family = list(sweep(MODEL, RATIOS, **more, **CPU))
    assert [compared(result) for result in family] == [compared(result) for result in alone]


def test_layers_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    candidates = settling.candidates

    def counted(layer: Any, *rest: Any) -> Any:
        made.append(layer.width)
        return candidates(layer, *rest)

    monkeypatch.setattr(settling, "candidates", counted)
    list(sweep(MODEL, RATIOS, **CPU))
    assert made == [20, 16]


def test_a_result_is_made_when_it_is_asked_for() -> None:
    results = sweep(MODEL, iter(RATIOS), accept=lambda model: len(model.graph.initializer[0].dims) == 3, **CPU)
    with pytest.raises(Rejected):
        next(results)
    assert list(sweep(MODEL, (), **CPU)) == []


@pytest.mark.parametrize(
    ("ratios", "more", "words"),
    [
        ((0.5,), {"eps": 0.1}, "two targets"),
        ((0.5,), {"params": 0.1}, "two targets"),
        ((0.5, 1.5), {}, "--ratio must be larger than 0 and at most 1"),
        ((0.5,), {"report": "r.json"}, "a sweep writes no report"),
        ((0.5,), {"ration": 1}, "there is no option ration"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    ratios: tuple[float, ...], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        sweep(MODEL, ratios, **more, **CPU)
