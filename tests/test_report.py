"""The report: its JSON schema, and what a person reads."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset.options import Options
from onnx_coreset.render import clean, report_text
from onnx_coreset.report import (
    ChainReport,
    CorrectionFacts,
    Domain,
    ErrorFacts,
    FileFacts,
    OutputError,
    PolishFacts,
    Relative,
    Report,
    Shift,
    Statement,
    Validation,
)

LONG = "/encoder/layer.0/intermediate/intermediate_act_fn/Mul_1_output_0"
FILE_KEYS = ["path", "bytes", "parameters", "macs", "sha256"]
CHAIN_KEYS = [
    "name", "activation", "features", "consumers", "law", "inputs", "outputs", "width_before", "width_after",
    "kept", "method", "eps", "status", "code", "reason", "error", "polish", "correction", "curve", "lossless",
]  # fmt: skip
ERROR_KEYS = [
    "unit", "spread", "rms", "p99", "max", "relative", "worst_output", "carried_rms", "samples", "outside",
    "attacked", "attacked_mean", "certified", "certified_mean", "domain", "statement",
]  # fmt: skip
STATEMENT_KEYS = [
    "kind", "about", "law", "samples", "delta", "probability", "exceeds", "levels", "share", "reason",
]  # fmt: skip
VALIDATION_KEYS = [
    "provider", "law", "samples", "passed", "outputs", "random", "notes", "statement", "shifts", "end_to_end",
]  # fmt: skip
ERROR = ErrorFacts("spread", 2.0, 0.19, 0.4, 1.2, Relative(0.095, 0.2, 0.6), 0.3, 0.21, 4096)
PRUNED = ChainReport(LONG, "gelu", "neurons", ("Gemm_2",), "synthetic", 784, 100, 3072, 1536, (0, 1, 2, 7), "backward")
PRUNED = replace(PRUNED, eps=0.1, status="pruned", error=ERROR)
KEPT = ChainReport("relu2", "relu", width_before=64, width_after=64, status="kept", code="no-gain", reason="no gain")
SKIPPED = ChainReport("h[0]", "relu", width_before=32, status="skipped", code="two-readers", reason="read [twice]")
REPORT = Report(
    "0.1.0",
    FileFacts("in.onnx", 1_070_123, 266_610, 266_200),
    FileFacts("out.onnx", 535_000, 133_305, 133_100),
    Options().as_dict(),
    (PRUNED, KEPT, SKIPPED),
    Validation("CPUExecutionProvider", "mixture", 1000, True, (OutputError("logits", 0.5, 0.01, 0.03),),
               ("z",), ("n1",)),
    {"load": 0.25, "write": 1.0},
)  # fmt: skip


def test_every_key_is_there_in_its_order_whatever_is_known() -> None:
    plain = json.loads(Report("0.1.0", chains=(ChainReport("a"),)).to_json())
    assert list(plain) == ["onnx_coreset", "input", "output", "options", "chains", "validation", "seconds"]
    assert list(plain["input"]) == list(plain["output"]) == FILE_KEYS
    (chain,) = plain["chains"]
    assert list(chain) == CHAIN_KEYS
    assert list(chain["error"]) == ERROR_KEYS
    assert list(chain["error"]["relative"]) == ["rms", "p99", "max"]
    assert list(chain["error"]["domain"]) == ["kind", "centre", "radius", "low", "high", "proven", "source"]
    assert list(plain["validation"]) == VALIDATION_KEYS
    assert list(plain["validation"]["statement"]) == list(chain["error"]["statement"]) == STATEMENT_KEYS


def test_json_holds_what_the_report_holds() -> None:
    plain = json.loads(REPORT.to_json())
    assert plain["onnx_coreset"] == "0.1.0"
    assert plain["chains"][0]["kept"] == [0, 1, 2, 7]
    assert plain["chains"][0]["error"]["relative"]["rms"] == 0.095
    assert plain["chains"][2]["width_after"] is None
    assert plain["validation"]["outputs"] == [{"name": "logits", "max": 0.5, "rms": 0.01, "relative_rms": 0.03}]
    assert plain["validation"]["random"] == ["z"]
    assert plain["options"]["eps"] == 0.1
    assert plain["seconds"] == {"load": 0.25, "write": 1.0}


def test_numbers_of_numpy_are_numbers() -> None:
    error = ErrorFacts(
        spread=np.float32(0.5), samples=np.int64(3), domain=Domain(low=np.zeros(2), proven=np.bool_(True))
    )
    chain = ChainReport("a", kept=tuple(np.arange(2)), width_before=np.int32(4), error=error)  # type: ignore[arg-type]
    (plain,) = json.loads(Report("0.1.0", chains=(chain,)).to_json())["chains"]
    assert (plain["kept"], plain["width_before"], plain["error"]["spread"]) == ([0, 1], 4, 0.5)
    assert (plain["error"]["domain"]["low"], plain["error"]["domain"]["proven"]) == ([0.0, 0.0], True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_what_is_not_finite_is_null(value: float) -> None:
    report = Report("0.1.0", chains=(ChainReport("a", error=ErrorFacts(rms=value)),))
    assert json.loads(report.to_json())["chains"][0]["error"]["rms"] is None


def test_paths_are_text_and_strangers_are_refused() -> None:
    assert json.loads(Report("0.1.0", options={"p": Path("a")}).to_json())["options"] == {"p": "a"}
    with pytest.raises(TypeError, match="cannot hold"):
        Report("0.1.0", options={"p": object()}).to_json()


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_text_fits_and_has_no_markup(width: int, terminal: bool, verbose: bool) -> None:
    text = report_text(REPORT, verbose=verbose, terminal=terminal, width=width)
    assert "h[0]" in text and "[twice]" in text
    if not terminal:
        assert text.isascii() and "\x1b" not in text
        assert max(map(len, text.splitlines())) <= width


def test_text_says_what_was_done() -> None:
    text = report_text(REPORT, width=160)
    for words in (
        LONG,
        "3072 -> 1536",
        "0.095",
        "0.105",
        "pruned",
        "266,610 -> 133,305",
        "(50.0 %)",
        "1.07 MB",
        "1.2 s",
    ):
        assert words in text
    for words in (
        "validation: passed on CPUExecutionProvider, 1,000 samples, inputs: mixture",
        "logits",
        "warning: n1",
    ):
        assert words in text
    assert "1 kept, no-gain: no gain" in text and "eps 0.1 bounds" in text and "random by design, not judged: z" in text
    assert "keeps 0-2, 7" not in text and "keeps 0-2, 7" in report_text(REPORT, verbose=True, width=160)


def test_a_layer_that_eps_keeps_whole_says_what_the_next_width_would_cost() -> None:
    curve = ((1, 0.9), (200, 0.1412), (300, 0.0))
    kept = replace(PRUNED, name="h", status="kept", code="eps", width_before=300, width_after=300, curve=curve)
    text = replace(REPORT, chains=(kept,)).to_text()
    assert "h: 200 of 300 would cost 0.141 (rms / spread)" in text
    assert "would cost" not in replace(REPORT, chains=(replace(kept, code="requested"),)).to_text()
    assert "would cost" not in replace(REPORT, chains=(replace(kept, curve=None),)).to_text()
    many = tuple(replace(kept, name=f"h{index}") for index in range(12))
    assert "and 2 more" in replace(REPORT, chains=many).to_text()
    assert report_text(replace(REPORT, chains=many), verbose=True).count("would cost") == 12


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"params": 0.3}, "params 0.3: the share of its parameters"),
        ({"output_eps": 0.3}, "output-eps 0.3 bounds the rms error at every output"),
        ({"widths": "old.json"}, "widths of old.json"),
    ],
)
def test_targets_of_the_whole_model_are_said(asked: dict[str, Any], words: str) -> None:
    text = " ".join(replace(REPORT, options=Options(**asked).as_dict()).to_text().split())
    assert words in text and "no eps holds" in text


def test_what_is_said_of_inputs_that_were_not_seen_is_in_the_text() -> None:
    order = Statement("order", "an input of the layer", "synthetic", 6905, 0.001, 0.000999, 3.0)
    held = replace(order, kind="conformal", delta=None, about="a sample", probability=1 / 101, exceeds=0.5)
    chain = replace(PRUNED, error=replace(ERROR, statement=order))
    shifts = (Shift("none", 0.0, 0.1, 1.0), Shift("scaled", 0.5, 0.2, 2.0), Shift("scaled", 2.0, 0.3, 3.0),
              Shift("noise", 0.2, 0.11, 1.1), Shift("shifted", -0.5, None, None))  # fmt: skip
    checked = Validation(passed=True, statement=held, shifts=shifts)
    text = report_text(replace(REPORT, chains=(chain,), validation=checked), width=200)
    # In units of the layer's spread, as its other errors are.
    assert f"{LONG}: at most 0.1 % exceed 1.5 (confidence 99.9 %); an input of the layer" in text
    assert "at most 0.99 % exceed 0.5 (on average over the inputs held back); a sample" in text
    assert "inputs that are changed: scaled by 2, 3 times; noise of 0.2 spreads, 1.1 times\n" in text
    none = replace(REPORT, validation=Validation(statement=Statement(reason="too few")))
    assert "of inputs that were not seen nothing is said: too few" in report_text(none, width=200)
    unchecked = replace(none, options=Options(validate=False).as_dict())
    for quiet in (unchecked, replace(REPORT, validation=Validation())):
        assert "not seen" not in report_text(quiet, width=200) and "changed" not in report_text(quiet, width=200)
    together = PolishFacts(("h0", "h1"), 0.2)
    both = tuple(replace(chain, name=name, polish=together) for name in together.together)
    assert report_text(replace(REPORT, chains=both), width=200).count("at most") == 1


def test_layers_that_were_refitted_to_what_reaches_them_are_named() -> None:
    title = "refitted to what reaches them inside the shrunk model:"
    fitted = replace(PRUNED, correction=CorrectionFacts(carried_before=0.4, carried_after=0.3))
    text = report_text(replace(REPORT, chains=(fitted, KEPT)), width=200)
    assert f"{title}\n  {LONG}: carried rms 0.75 times what it was\n" in text
    assert json.loads(replace(REPORT, chains=(fitted,)).to_json())["chains"][0]["correction"] == {
        "carried_before": 0.4,
        "carried_after": 0.3,
    }
    assert title not in REPORT.to_text()


def test_long_names_are_folded_not_cut() -> None:
    text = REPORT.to_text()
    column = "".join(line[:20].split("  ")[0].strip() for line in text.splitlines()[2:6])
    assert LONG in column


def test_the_target_is_said_as_it_held() -> None:
    half = replace(REPORT, options=Options(ratio=0.5).as_dict())
    assert "ratio 0.5" in half.to_text() and "eps 0.1" not in half.to_text()
    absolute = replace(REPORT, options=Options(absolute=True, error="max").as_dict())
    assert "its max, in the layer's own" in " ".join(absolute.to_text().split())
    unchecked = replace(REPORT, options=Options(validate=False).as_dict(), validation=Validation())
    assert "validation: not run (--no-validate)" in unchecked.to_text()


@pytest.mark.parametrize(("passed", "words"), [(True, "passed"), (False, "FAILED"), (None, "not judged")])
def test_the_verdict(passed: bool | None, words: str) -> None:
    assert f"validation: {words}" in replace(REPORT, validation=Validation(passed=passed)).to_text()


def test_what_was_not_decided_is_a_map() -> None:
    chains = (replace(PRUNED, status=None, width_after=None, kept=None, error=ErrorFacts()), SKIPPED)
    text = replace(REPORT, output=FileFacts(), chains=chains, validation=Validation()).to_text()
    assert "1 layer can be made narrower in in.onnx" in text
    assert "3,072" in text and "1 skipped, two-readers: read [twice]" in text
    assert "validation" not in text


def test_many_places_with_one_reason_are_one_line() -> None:
    chains = tuple(replace(SKIPPED, name=f"h{index}") for index in range(50))
    text = replace(REPORT, chains=chains).to_text()
    assert "50 skipped, two-readers" in text and "h0, h1, h2 and 47 more" in text and "h49" not in text


def test_a_report_that_knows_nothing_has_a_text() -> None:
    assert Report("0.1.0").to_text()
    assert Report("0.1.0", chains=(ChainReport("a", status="kept"), ChainReport("b", status="pruned"))).to_text()


@given(st.text())
def test_a_name_cannot_steer_a_terminal(name: str) -> None:
    assert clean(name).isprintable()
    assert name.isprintable() <= (clean(name) == name)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_has_a_short_form(value: float) -> None:
    error = ErrorFacts(spread=1.0, relative=Relative(value, value, value), carried_rms=value)
    report = replace(REPORT, chains=(replace(PRUNED, name="a", error=error),))
    assert max(map(len, report.to_text().splitlines())) <= 80


@pytest.mark.parametrize("terminal", [False, True])
def test_no_text_of_a_model_reaches_the_terminal_raw(terminal: bool) -> None:
    bad = "a\x1b]0;b\x07\r\nc"
    said = Statement("order", bad, bad, 9, 0.1, 0.2, 0.3, reason=None)
    error = replace(ERROR, statement=said)
    chain = ChainReport(bad, bad, bad, (bad,), bad, 1, 1, 2, 1, (0,), bad, 0.1, "pruned", error=error)
    stayed = replace(chain, status="skipped", code=bad, reason=bad)
    checked = Validation(bad, bad, 1, True, (OutputError(bad),), (bad,), (bad,), statement=Statement(reason=bad))
    for chains in ((chain, stayed), (replace(chain, status=None), stayed)):
        output = FileFacts(bad, 1) if chains[0].status else FileFacts()
        report = Report("0.1.0", FileFacts(bad, 1, 2, 3), output, {}, chains, checked, {bad: 1.0})
        text = report_text(report, verbose=True, terminal=terminal, width=200)
        assert "\x1b]" not in text and "\x07" not in text and "\r" not in text
        assert not any(line.startswith("c") and "carried" not in line for line in text.splitlines())
