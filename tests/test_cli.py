"""The command line: what it accepts, what it refuses, and its help."""

from __future__ import annotations

import pytest

import onnx_coreset
from onnx_coreset import cli
from onnx_coreset.errors import UsageError
from onnx_coreset.flags import OPTIONS, Option
from onnx_coreset.options import Options

ARGUMENTS = {
    "eps": "0.25", "ratio": "0.5", "params": "0.4", "output_eps": "0.3", "width": "a=b=3", "widths": "w.json",
    "round_to": "8", "min_width": "4", "include": "*a*",
    "exclude": "*b*", "error": "p99", "method": "norm", "seed": "7", "inputs": "x.npz", "radius": "h=1=2.5",
    "input_range": "-1:2.5", "delta": "0.01", "certify": "fast",
    "input_shape": "x:0:1,3", "samples": "99", "provider": "cpu", "report": "r.json",
    "memory_limit": "1.5GiB", "jobs": "3",
}  # fmt: skip
VALUES = {
    "eps": 0.25, "ratio": 0.5, "params": 0.4, "output_eps": 0.3, "width": (("a=b", 3),), "widths": "w.json",
    "round_to": 8, "min_width": 4, "include": ("*a*",),
    "exclude": ("*b*",), "error": "p99", "method": "norm", "seed": 7, "inputs": "x.npz", "radius": (("h=1", 2.5),),
    "input_range": (-1.0, 2.5), "delta": 0.01, "certify": "fast",
    "input_shape": (("x:0", (1, 3)),), "samples": 99, "provider": "cpu", "report": "r.json",
    "memory_limit": 3 << 29, "jobs": 3,
}  # fmt: skip


def typed(row: Option, flag: str) -> list[str]:
    return [flag] if row.parse is None else [flag, ARGUMENTS[row.field]]


FLAGS = [(row, flag) for row in OPTIONS for flag in row.flags if row.field != "version"]


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        cli.parse(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("row", "flag"), FLAGS, ids=[flag for _, flag in FLAGS])
def test_every_flag_is_read(row: Option, flag: str) -> None:
    out = [] if row.field == "inspect" else ["out"]
    for arguments in (
        ["in", *out, *typed(row, flag)],
        [*typed(row, flag), "in", *out],
        ["in", *typed(row, flag), *out],
    ):
        command = cli.parse(arguments)
        held = getattr(command if row.command_only else command.options, row.field)
        assert held == VALUES.get(row.field, row.const is not (row.either and flag.startswith("--no-")))
        assert (command.model, command.out) == ("in", out[0] if out else None)


def test_no_flag_leaves_the_defaults() -> None:
    assert cli.parse(["in", "out"]) == cli.Command("in", "out", Options())


def test_repeatable_flags_repeat() -> None:
    options = cli.parse(["in", "out", "--width", "a=1", "--include", "x", "--width", "b=2", "--include=y"]).options
    assert (options.width, options.include) == ((("a", 1), ("b", 2)), ("x", "y"))


@pytest.mark.parametrize(("row", "flag"), [(r, f) for r, f in FLAGS if f.startswith("--")], ids=lambda v: str(v)[:20])
def test_abbreviations_are_refused(row: Option, flag: str) -> None:
    known = {flag for other in OPTIONS for flag in other.flags}
    for end in range(3, len(flag)):
        if flag[:end] not in known:
            assert f"there is no option {flag[:end]}" in refusal("in", "out", *typed(row, flag[:end]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "IN is missing"),
        (["--eps", "0.1"], "IN is missing"),
        (["in"], "OUT is missing"),
        (["in", "out", "more"], "a third: 'more'"),
        (["in", "out", "--inspect"], "--inspect writes no model"),
        (["in", "out", "-v", "-q"], "contradict"),
        (["in", "out", "-vq"], "contradict"),
        (["in", "out", "--eps", "0.1", "--ratio", "0.5"], "two targets"),
        (["in", "out", "--params", "0.1", "--widths", "r.json"], "--params and --widths are two targets"),
        (["in", "out", "--output-eps", "0.1", "--eps", "0.1"], "--eps and --output-eps are two targets"),
        (["in", "out", "--params", "1.5"], "--params must be larger than 0 and at most 1"),
        (["in", "out", "--output-eps", "0"], "--output-eps must be larger than 0"),
        (["in", "out", "--widths", "r.txt"], "--widths must be a file *.json"),
        (["in", "out", "--eps"], "expected one argument"),
        (["in", "out", "--eps", "x"], "--eps must be a number, not 'x'"),
        (["in", "out", "--eps", "-1"], "--eps must be larger than 0"),
        (["in", "out", "--width", "3"], "--width must look like NAME=K"),
        (["in", "out", "--width", "a=3", "--width", "a=4"], "every name once"),
        (["in", "out", "--error", "rmsd"], "--error must be one of rms, p99, max, certified"),
        (["in", "out", "--error", "certified", "--certify", "off"], "leave one of them out"),
        (["in", "out", "--radius", "x"], "--radius must be a number"),
        (["in", "out", "--radius", "x=y"], "--radius must look like NAME=B"),
        (["in", "out", "--input-range", "-1"], "--input-range must look like LO:HI"),
        (["in", "out", "--input-range", "1:-1"], "--input-range must not end below"),
        (["in", "out", "--quite"], "did you mean --quiet?"),
        (["in.json", "out", "--report", "./in.json"], "would replace a model"),
        (["in", "out.json", "--report", "out.json"], "would replace a model"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(*arguments)
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("onnx-coreset: error: ") and said.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--inspect", "--dry-run"])
def test_out_may_be_missing_where_nothing_is_written(flag: str) -> None:
    assert cli.parse(["in", flag]).out is None


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert {flag for row in OPTIONS for flag in row.flags} <= set(words)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"onnx-coreset {onnx_coreset.__version__}\n"
