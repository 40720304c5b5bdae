"""The option table, and options that are right from birth."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset import checks
from onnx_coreset.cli import parse
from onnx_coreset.errors import UsageError
from onnx_coreset.flags import DEFAULT_EPS, METHOD_NAMES, OPTIONS, Option, markdown_table
from onnx_coreset.options import Options

ROWS = [row for row in OPTIONS if not row.command_only]
names = st.text(min_size=1, max_size=20)


def option(field: str) -> Option:
    return next(row for row in OPTIONS if row.field == field)


def test_every_field_has_one_row_and_every_row_one_field() -> None:
    assert [row.field for row in ROWS] == [item.name for item in fields(Options)]


def test_flags_and_fields_are_unique() -> None:
    flags = [flag for row in OPTIONS for flag in row.flags]
    assert len(set(flags)) == len(flags)
    assert len({row.field for row in OPTIONS}) == len(OPTIONS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_every_default_passes_its_own_check(row: Option) -> None:
    assert row.checked(row.default) == row.default


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row.field)
def test_a_switch_changes_its_default(row: Option) -> None:
    assert row.parse is not None or row.const is not row.default


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row.field)
def test_the_documentation_has_every_option(row: Option) -> None:
    line = next(line for line in markdown_table().splitlines() if line.startswith(f"| `{', '.join(row.flags)}"))
    assert row.meaning in line
    assert line.replace("\\|", "").count("|") == 3


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"eps": 0}, "--eps must be larger than 0"),
        ({"eps": -0.1}, "--eps must be larger than 0"),
        ({"eps": math.nan}, "--eps must be a finite number"),
        ({"eps": math.inf}, "--eps must be a finite number"),
        ({"eps": "0.1"}, "--eps must be a number"),
        ({"eps": True}, "--eps must be a number"),
        ({"eps": np.ones(2)}, "--eps must be a finite number"),
        ({"eps": 10**400}, "--eps must be a finite number"),
        ({"ratio": 0}, "--ratio must be larger than 0 and at most 1"),
        ({"ratio": 1.01}, "--ratio must be larger than 0 and at most 1"),
        ({"eps": 0.1, "ratio": 0.5}, "two targets"),
        ({"ratio": 0.1, "params": 0.5}, "--ratio and --params are two targets"),
        ({"params": 0.1, "output_eps": 0.5}, "--params and --output-eps are two targets"),
        ({"eps": 0.1, "widths": "r.json"}, "--eps and --widths are two targets"),
        ({"params": 0}, "--params must be larger than 0 and at most 1"),
        ({"params": 1.01}, "--params must be larger than 0 and at most 1"),
        ({"output_eps": 0}, "--output-eps must be larger than 0"),
        ({"widths": "r.txt"}, "--widths must be a file *.json"),
        ({"width": {"a": 0}}, "--width must be a whole number, at least 1"),
        ({"width": {"a": 1.5}}, "--width must be a whole number"),
        ({"width": {"": 1}}, "--width must name"),
        ({"width": (("a", 1), ("a", 2))}, "--width must give every name once"),
        ({"width": "a=1"}, "--width must be a list"),
        ({"width": ("a", 1)}, "--width must be pairs"),
        ({"round_to": 0}, "--round-to must be a whole number, at least 1"),
        ({"min_width": 0}, "--min-width must be a whole number, at least 1"),
        ({"include": [""]}, "--include must be a pattern"),
        ({"exclude": 3}, "--exclude must be a list"),
        ({"error": "rmsd"}, "--error must be one of rms, p99, max, certified"),
        ({"error": "certified", "polish": True}, "--polish changes what"),
        ({"error": "certified", "certify": "off"}, "--error certified needs"),
        ({"certify": "slow"}, "--certify must be one of off, fast, tight"),
        ({"delta": 0}, "--delta must be larger than 0 and smaller than 1"),
        ({"delta": 1.0}, "--delta must be larger than 0 and smaller than 1"),
        ({"input_range": (1, 0)}, "--input-range must not end below"),
        ({"input_range": (1,)}, "--input-range must be two numbers"),
        ({"input_range": (0, math.inf)}, "--input-range must be a finite number"),
        ({"input_range": (0, 1), "radius": 1}, "--input-range is a box"),
        ({"input_range": (0, 1), "inputs": "ball"}, "--input-range is a box"),
        ({"radius": {"h": 0}}, "--radius must be larger than 0"),
        ({"radius": (("", 1), ("", 2))}, "--radius must give every name once"),
        ({"radius": (("h", 1), ("h", 2))}, "--radius must give every name once"),
        ({"radius": "9"}, "--radius must be a list"),
        ({"absolute": 1}, "--absolute must be True or False"),
        ({"method": ""}, "--method must be the name"),
        ({"refit": None}, "--no-refit must be True or False"),
        ({"memory_limit": 0}, "--memory-limit must be a whole number, at least 1"),
        ({"memory_limit": "8GiB"}, "--memory-limit must be a whole number"),
        ({"seed": -1}, "--seed must be a whole number, at least 0"),
        ({"inputs": "gauss"}, "--inputs must be auto, ball, synthetic, or a file *.npz"),
        ({"radius": 0}, "--radius must be larger than 0"),
        ({"radius": 1, "inputs": "synthetic"}, "--radius is of the ball"),
        ({"radius": 1, "inputs": "x.npz"}, "--radius is of the ball"),
        ({"input_shape": {"x": ()}}, "--input-shape must give the size"),
        ({"input_shape": {"x": (0, 3)}}, "--input-shape must be a whole number, at least 1"),
        ({"samples": 15}, "--samples must be a whole number, at least 16"),
        ({"provider": "tpu"}, "--provider must be one of auto, cuda, cpu"),
        ({"report": "r.txt"}, "--report must be a file *.json"),
        ({"ration": 0.5}, "did you mean ratio?"),
        ({"zzz": 1}, "there is no option zzz: there are eps"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(given_: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Options.make(**given_)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_eps_holds_unless_another_target_does() -> None:
    assert (Options().eps, Options().target) == (DEFAULT_EPS, "eps")
    assert (Options(eps=0.3).eps, Options(eps=0.3).target) == (0.3, "eps")
    assert (Options(ratio=0.5).eps, Options(ratio=0.5).target) == (None, "ratio")
    assert Options.make(width={"a": 3}).eps == DEFAULT_EPS
    for name, value in (("params", 0.5), ("output_eps", 0.1), ("widths", "r.json")):
        assert (Options.make(**{name: value}).eps, Options.make(**{name: value}).target) == (None, name)
    assert Options.make(width={"a": 3}, ratio=1).width == (("a", 3),)


def test_a_radius_implies_the_ball() -> None:
    assert Options(radius=2).inputs == "ball"
    assert Options(radius=2, inputs="ball").inputs == "ball"
    assert Options().inputs == "auto"


def test_what_python_users_write_is_understood() -> None:
    options = Options.make(
        eps=np.float32(0.5),
        samples=np.int64(64),
        width={"a=b": np.int32(7)},
        include="*fc*",
        input_shape={"x:0": [1, 3]},
        inputs=Path("d") / "x.npz",
        report=Path("r.json"),
    )
    assert (options.eps, options.samples, options.width) == (0.5, 64, (("a=b", 7),))
    assert (options.include, options.input_shape) == (("*fc*",), (("x:0", (1, 3)),))
    assert (options.inputs, options.report) == (str(Path("d") / "x.npz"), "r.json")
    assert isinstance(options.eps, float) and type(options.samples) is int


def test_options_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Options().eps = 1.0  # type: ignore[misc]


def test_the_report_can_hold_options() -> None:
    class Mine:
        name = "mine"

    given_ = Options.make(width={"a": 3}, input_shape={"x": (1, 2)}, include=["*"], method=Mine())
    held = given_.as_dict()
    assert list(held) == [item.name for item in fields(Options)]
    assert json.loads(json.dumps(held)) == held
    assert (held["width"], held["input_shape"], held["method"]) == ({"a": 3}, {"x": [1, 2]}, "mine")
    assert Options(ratio=0.5).as_dict()["eps"] is None


def test_the_default_method_is_a_method() -> None:
    assert Options().method in METHOD_NAMES


@given(name=names, width=st.integers(1, 10**6))
def test_a_width_is_split_at_the_last_sign(name: str, width: int) -> None:
    assert option("width").read(f"{name}={width}") == (name, width)


@given(name=names, sizes=st.lists(st.integers(1, 999), min_size=1, max_size=5))
def test_a_shape_is_split_at_the_last_colon(name: str, sizes: list[int]) -> None:
    text = f"{name}:{','.join(map(str, sizes))}"
    assert option("input_shape").read(text) == (name, tuple(sizes))


@given(value=st.floats(min_value=1e-300, max_value=1e300))
def test_eps_is_read_as_it_is_written(value: float) -> None:
    assert parse(["a", "b", "--eps", repr(value)]).options.eps == value


@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_a_check_is_idempotent_or_a_usage_error(row: Option, value: object) -> None:
    try:
        once = row.checked(value)
    except UsageError:
        return
    assert row.checked(once) == once


def test_readers_refuse_with_a_sentence() -> None:
    for read, text in ((checks.number, "x"), (checks.whole, "1.5"), (checks.whole_list, "1,,2")):
        with pytest.raises(ValueError, match="must be"):
            read(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("8GiB", 8 << 30),
        ("8 gib", 8 << 30),
        ("1.5G", 1_500_000_000),
        ("2Mi", 2 << 20),
        ("10kB", 10_000),
        ("3TB", 3 * 10**12),
        ("7b", 7),
        ("0.5KiB", 512),
    ],
)
def test_amounts_of_memory_are_read(text: str, size: int) -> None:
    assert checks.size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1e9", "1XB", "1,5GB", "1GiBs", "1.2.3", "٣", "9" * 40])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount of memory"):
        checks.size(text)
    with pytest.raises(UsageError, match="--memory-limit must"):
        parse(["in", "out", f"--memory-limit={text}"])
