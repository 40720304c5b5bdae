"""Widths taken over from an earlier report, as it was written or as somebody edited it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api_models import codes, mlp, widths
from onnx_coreset import inspect, optimize
from onnx_coreset.cli import main
from onnx_coreset.edge.replay import load_widths
from onnx_coreset.errors import UsageError

CPU: dict[str, Any] = {"provider": "cpu", "certify": "off", "samples": 512}
MODEL = mlp([8, 20, 16, 12, 4], seed=2)


def report_of(folder: Path, **options: Any) -> Path:
    path = folder / "r.json"
    optimize(MODEL, report=path, **options, **CPU)
    return path


def edited(path: Path, **given: Any) -> str:
    """The same report with other widths for some chains; None strikes one out."""
    report = json.loads(path.read_text())
    chains = [c for c in report["chains"] if given.get(c["name"], 0) is not None]
    for chain in chains:
        chain["width_after"] = given.get(chain["name"], chain["width_after"])
    path.write_text(json.dumps(report | {"chains": chains}))
    return str(path)


@pytest.mark.parametrize("target", [{"eps": 0.3}, {"ratio": 0.4}, {"params": 0.5}, {"output_eps": 0.2}])
@pytest.mark.parametrize("method", ["backward", "uniform"])
def test_a_replay_gives_the_same_model(target: dict[str, Any], method: str, tmp_path: Path) -> None:
    first = optimize(MODEL, method=method, **target, **CPU)
    path = report_of(tmp_path, method=method, **target)
    again = optimize(MODEL, widths=str(path), method=method, **CPU)
    assert again.model == first.model and widths(again.report) == widths(first.report)
    assert all(chain.eps is None for chain in again.report.chains)


def test_an_edited_width_holds_and_a_chain_struck_out_is_kept_whole(tmp_path: Path) -> None:
    path = edited(report_of(tmp_path, ratio=0.5), h0=3, h1=None)
    result = optimize(MODEL, widths=path, **CPU)
    assert widths(result.report) == {"h0": 3, "h1": 16, "h2": 6, "y": None}
    assert codes(result.report)["h1"] == "requested"


def test_a_named_width_wins_over_a_replay_and_rounding_does_not_touch_it(tmp_path: Path) -> None:
    path = edited(report_of(tmp_path, ratio=0.5), h0=3)
    result = optimize(MODEL, widths=path, width={"h2": 5}, round_to=8, min_width=4, **CPU)
    assert widths(result.report) == {"h0": 3, "h1": 8, "h2": 5, "y": None}


def test_a_report_of_an_inspection_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    inspect(MODEL, report=path)
    assert optimize(MODEL, widths=str(path), **CPU).model == MODEL


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"h0": 0}, "width_after of h0 must be a whole number"),
        ({"h0": 2.5}, "must be a whole number, at least 1, not 2.5"),
        ({"h0": True}, "must be a whole number"),
        ({"h0": "7"}, "must be a whole number"),
        ({"h0": 21}, "h0 has only 20 neurons, not 21"),
    ],
)
def test_a_width_that_cannot_be_is_refused(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = edited(report_of(tmp_path, ratio=0.5), **given)
    with pytest.raises(UsageError, match=words):
        optimize(MODEL, widths=path, **CPU)


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"chains": [{"name": "h00", "width_after": 3}]}))
    with pytest.raises(UsageError, match="h00 is no chain of this model; the nearest: h"):
        optimize(MODEL, widths=str(path), **CPU)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file"),
        ("", "is no JSON"),
        ("[1, 2", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\xff\xfe", "is no"),
        ("[]", "no list of chains"),
        ('{"chains": {}}', "no list of chains"),
        ('{"chains": [{"width_after": 3}]}', "no list of chains"),
        ('{"chains": [{"name": "a", "width_after": 3}, {"name": "a", "width_after": 4}]}', "a stands there twice"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=words) as caught:
        load_widths(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_places_without_a_width_are_not_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"chains": [{"name": "gone", "width_after": None}, {"name": "h", "width_after": 2}]}))
    assert load_widths(path) == {"h": 2}


def test_a_replay_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    model.write_bytes(MODEL.SerializeToString())
    path = edited(report_of(tmp_path, ratio=0.5), h0=7)
    common = [str(model), str(out), "--widths", path, "--provider", "cpu", "--samples", "512"]
    assert main(common) == 0
    said = capsys.readouterr().out
    assert "20 -> 7" in said and "widths of" in said
    edited(Path(path), h0=999)
    assert main([*common, "--overwrite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
