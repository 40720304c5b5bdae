"""What a run holds is its own; what a killed one left goes; what another one holds stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from edge_models import externalise, put, small
from onnx_coreset.edge import temporary
from onnx_coreset.edge.leftovers import clear, note
from onnx_coreset.edge.temporary import dead, held, new_file, new_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_held_stays_and_what_nobody_holds_goes(tmp_path: Path) -> None:
    living, folder = new_file(tmp_path), new_folder(tmp_path)
    gone, empty = new_file(tmp_path), new_folder(tmp_path)
    (empty.path / "0").write_text("much")
    for thing in (gone, empty):
        thing.release()
    clear(tmp_path)
    assert names(tmp_path) == sorted([living.path.name, folder.path.name])
    living.release()
    folder.release()
    clear(tmp_path)
    assert names(tmp_path) == []


def test_the_locks_of_another_process_count_until_it_is_killed(tmp_path: Path) -> None:
    code = (
        f"import sys; from pathlib import Path; from onnx_coreset.edge.temporary import *; p = Path({str(tmp_path)!r});"
    )
    code += "a, b = new_file(p), new_folder(p); print('ready', flush=True); sys.stdin.read()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env=environment) as other:
        assert other.stdout is not None and other.stdout.readline() == b"ready\n"
        clear(tmp_path)
        assert len(names(tmp_path)) == 2
        other.kill()
    clear(tmp_path)
    assert names(tmp_path) == []


def test_names_of_others_are_never_looked_at(tmp_path: Path) -> None:
    kept = [".onnx-coreset-0123456789abcdef.tmp", f"{temporary._stem()}x.tmp", "out.onnx.data", "out.tmp"]
    for name in kept:
        (tmp_path / name).touch()
    link = temporary._name(tmp_path)
    link.symlink_to("out.tmp")
    os.mkfifo(temporary._name(tmp_path))
    clear(tmp_path)
    assert {*kept, link.name} <= set(names(tmp_path))
    clear(tmp_path / "nowhere")


def test_a_name_that_was_taken_for_left_over_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, stolen = temporary._locked, []

    def late(handle: int, path: Path, otherwise: bool) -> bool:
        if not stolen:
            stolen.append(path)
            path.rmdir() if path.is_dir() else path.unlink()
        return real(handle, path, otherwise)

    for make in (new_file, new_folder):
        stolen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(temporary, "_locked", late)
            made = make(tmp_path)
        assert made.path != stolen[0] and made.path.exists()
        made.release()


def test_a_system_without_locks_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(temporary.fcntl, "flock", refuse)
    with held(new_file(tmp_path)) as path:
        assert path.exists()
    assert list(dead(tmp_path)) == []
    clear(tmp_path)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("owner", ["out.onnx", "out.onnx-1", None])
def test_data_go_with_the_run_that_noted_them_unless_a_model_names_them(tmp_path: Path, owner: str | None) -> None:
    data = tmp_path / ("out.onnx-1.data" if owner == "out.onnx" else f"{owner}.data")
    model = small()
    data.write_bytes(externalise(model, data.name))
    kept = [tmp_path / "another.data", tmp_path / "weights.bin"]
    for path in kept:
        path.write_bytes(b"mine")
    with held(new_file(tmp_path)) as notes:
        note(notes, data, data.name)
        # Another file took the name meanwhile, or the name is none that we give.
        note(notes, data, kept[0].name)
        note(notes, kept[1], kept[1].name)
        note(notes, kept[0], f"../{tmp_path.name}/{kept[0].name}")
        with open(notes, "ab") as file:
            file.write(b'["torn')
    if owner is not None:
        put(tmp_path / owner, model)
    clear(tmp_path)
    left = [path.name for path in kept] + ([owner, data.name] if owner is not None else [])
    assert names(tmp_path) == sorted(left)
    if owner is not None:
        onnx.load(tmp_path / owner)
