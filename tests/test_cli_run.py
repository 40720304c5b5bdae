"""The command line at work: what it asks of the library, what it prints and where, and what it exits with."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

import onnx_coreset
from onnx_coreset import cli
from onnx_coreset.errors import CoresetError, MachineError, ModelError, Rejected, UsageError, ValidationError
from onnx_coreset.options import Options
from onnx_coreset.report import ChainReport, FileFacts, Report, Result

REPORT = Report(
    "0.1.0",
    FileFacts("in.onnx", 10, 10, 10),
    FileFacts("out.onnx", 5, 5, 5),
    Options().as_dict(),
    (ChainReport("h\N{SNOWMAN}", "relu", width_before=4, width_after=2, status="pruned", kept=(0, 2)),),
)


class Api(types.ModuleType):
    """Stands in for the library: remembers what it was asked for, and does as it is told."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        super().__init__("onnx_coreset.api")
        self.act, self.asked = act, []

    def optimize(self, model: Any, out: Any = None, **rest: Any) -> Result:
        self.asked.append(("optimize", model, out, rest))
        self.act()
        return Result(None, REPORT)  # type: ignore[arg-type]

    def sweep(self, model: Any, ratios: Any, **rest: Any) -> None:
        self.asked.append(("sweep", model, ratios, rest))

    def inspect(self, model: Any, **rest: Any) -> Report:
        self.asked.append(("inspect", model, None, rest))
        self.act()
        return Report("0.1.0", chains=(ChainReport("h", width_before=4),))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Api]:
    def install(act: Callable[[], object] = lambda: None) -> Api:
        fake = Api(act)
        monkeypatch.setitem(sys.modules, "onnx_coreset.api", fake)
        monkeypatch.setattr(onnx_coreset, "api", fake, raising=False)
        return fake

    return install


def raises(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def test_the_library_is_asked_for_what_was_typed(api: Callable[..., Api], capsys: pytest.CaptureFixture[str]) -> None:
    fake = api()
    assert cli.main(["in", "out", "--ratio", "0.5"]) == 0
    assert fake.asked == [("optimize", "in", "out", {"progress": None, "options": Options(ratio=0.5)})]
    said = capsys.readouterr()
    assert "4 -> 2" in said.out and said.err == ""


def test_inspect(api: Callable[..., Api], capsys: pytest.CaptureFixture[str]) -> None:
    fake = api()
    assert cli.main(["in", "--inspect"]) == 0
    assert fake.asked == [("inspect", "in", None, {"options": Options()})]
    assert "1 layer can be made narrower" in capsys.readouterr().out


def test_quiet_says_nothing_and_verbose_more(api: Callable[..., Api], capsys: pytest.CaptureFixture[str]) -> None:
    api()
    assert cli.main(["in", "out", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["in", "out"]) == 0
    plain = capsys.readouterr().out
    assert cli.main(["in", "out", "-v"]) == 0
    assert len(capsys.readouterr().out) > len(plain)


@pytest.mark.parametrize("kind", [UsageError, ModelError, MachineError, ValidationError, Rejected])
def test_an_error_knows_its_exit_code(
    kind: type[CoresetError], api: Callable[..., Api], capsys: pytest.CaptureFixture[str]
) -> None:
    api(raises(kind("first \x1b line\ndo this")))
    assert cli.main(["in", "out"]) == kind.exit_code
    assert capsys.readouterr() == ("", "onnx-coreset: error: first \\x1b line\n  do this\n")


@pytest.mark.parametrize("kind", [ValidationError, Rejected])
def test_a_failed_result_is_shown(
    kind: type[ValidationError] | type[Rejected], api: Callable[..., Api], capsys: pytest.CaptureFixture[str]
) -> None:
    api(raises(kind("no", REPORT)))
    assert cli.main(["in", "out"]) == 1
    said = capsys.readouterr()
    assert "4 -> 2" in said.out and said.err == "onnx-coreset: error: no\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 4, "memory"),
        (OSError(28, "No space left on device", "out.onnx"), 4, "No space left on device: out.onnx"),
        (KeyError("x"), 4, "KeyError: 'x' (test_cli_run.py:"),
    ],
)
def test_what_nobody_foresaw_has_a_code_and_a_line(
    error: BaseException, code: int, words: str, api: Callable[..., Api], capsys: pytest.CaptureFixture[str]
) -> None:
    api(raises(error))
    assert cli.main(["in", "out"]) == code
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and said.count("\n") <= 2


def test_verbose_shows_where_a_bug_is(api: Callable[..., Api], capsys: pytest.CaptureFixture[str]) -> None:
    api(raises(KeyError("x")))
    assert cli.main(["in", "out", "-v"]) == 4
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("x")])
def test_a_report_that_cannot_be_shown_denies_no_model(
    error: BaseException,
    api: Callable[..., Api],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api()
    monkeypatch.setattr(cli, "_show", lambda *_: raises(error)())
    assert cli.main(["in", "out"]) == 0
    assert "all is done" in capsys.readouterr().err


def test_progress_is_for_a_terminal(api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = api()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fake.act = lambda: fake.asked[-1][3]["progress"]("measure", 1, 3, "h[0]")
    assert cli.main(["in", "out"]) == 0
    fake.act = lambda: None
    assert cli.main(["in", "out", "-q"]) == 0
    assert fake.asked[-1][3]["progress"] is None


CHILD = """
import sys, types
sys.path.insert(0, {tests!r})
import onnx_coreset, test_cli_run
fake = sys.modules["onnx_coreset.api"] = onnx_coreset.api = test_cli_run.Api()
from onnx_coreset.cli import main
sys.exit(main(["in", "out"]))
"""


def child(**kwargs: Any) -> subprocess.Popen[bytes]:
    code = CHILD.format(tests=os.path.dirname(__file__))
    paths = [os.path.dirname(os.path.dirname(str(onnx_coreset.__file__))), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | kwargs.pop("env", {})
    env["PYTHONUNBUFFERED"] = ""  # what is still in a buffer when the interpreter ends is the point
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=env, **kwargs)


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with child(stdout=writer) as process:
        os.close(writer)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")


def test_names_are_printed_whatever_the_terminal_can_show() -> None:
    with child(stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}) as process:
        said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"") and b"h\\u2603" in said


@pytest.mark.parametrize("module", ["onnx_coreset", "onnx_coreset.cli"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print({{'numpy', 'onnx', 'scipy', 'rich', 'onnxruntime'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {
        "PYTHONPATH": os.path.dirname(os.path.dirname(str(onnx_coreset.__file__)))
    })  # fmt: skip
    assert done.stdout == "set()\n"


def test_public_names_are_found(api: Callable[..., Api]) -> None:
    api()
    assert {name for name in onnx_coreset.__all__ if not hasattr(onnx_coreset, name)} == set()
    assert set(onnx_coreset.__all__) <= set(dir(onnx_coreset))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        onnx_coreset.nothing  # noqa: B018
