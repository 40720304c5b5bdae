"""Faults from outside, met by the command itself: a full disk, runs that want one OUT, names of any kind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from api_models import mlp

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits are those of Unix")

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--ratio", "0.5", "--samples", "64", "--certify", "off", "--provider", "cpu")
SIZES = [40, 200, 160, 10]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(mlp(SIZES), tmp_path / "in.onnx")
    return tmp_path


def start(folder: Path, *arguments: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "onnx_coreset", *arguments, *QUICK]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=env, preexec_fn=limit)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_disk_that_fills_while_writing_leaves_what_was_there(folder: Path, external: bool, old: bool) -> None:
    before = b"an older file"
    if old:
        (folder / "out.onnx").write_bytes(before)

    def small() -> None:
        # No file may grow beyond 8 KiB: the system refuses in the middle of a write, as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    more = ["--external-data"] if external else []
    process = start(folder, "in.onnx", "out.onnx", "--overwrite", *more, limit=small)
    said = process.communicate()[1]
    assert process.returncode == 4 and "out.onnx was not written" in said and said.count("\n") <= 2, said
    assert left(folder) == (["in.onnx", "out.onnx"] if old else ["in.onnx"])
    assert not old or (folder / "out.onnx").read_bytes() == before


def test_runs_that_want_one_out_leave_one_whole_model(folder: Path) -> None:
    arguments = ("in.onnx", "out.onnx", "--overwrite", "--external-data")
    runs = [start(folder, *arguments, "--seed", str(seed)) for seed in range(3)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
    places = {
        e.value
        for t in onnx.load(folder / "out.onnx", load_external_data=False).graph.initializer
        for e in t.external_data
        if e.key == "location"
    }
    # Data of the models that were replaced may stay, whole; temporary files may not.
    names = left(folder)
    assert places <= set(names) and all(name.startswith(("in.onnx", "out.onnx")) for name in names), names


@pytest.mark.parametrize("name", ["with spaces", "名前 и имя", "-dash", "a=b", "100%", "it's [x] *"])
def test_names_of_any_kind(folder: Path, name: str) -> None:
    place = folder / name
    place.mkdir()
    onnx.save(mlp(SIZES), place / f"{name}.onnx")
    paths = [f"./{name}/{file}" for file in (f"{name}.onnx", f"{name} out.onnx", f"{name}.json")]
    process = start(folder, *paths[:2], "--report", paths[2], "--external-data")
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert json.loads((folder / paths[2]).read_text(encoding="utf-8"))["output"]["path"] == paths[1]
    onnx.checker.check_model(str(folder / paths[1]), full_check=True)
