"""What may be written is known before the work; what is written is whole or not there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_models import everywhere, externalise, put, small
from onnx_coreset.edge import files, temporary
from onnx_coreset.errors import MachineError, UsageError

SMALL = small().SerializeToString()


@pytest.fixture
def loaded(tmp_path: Path) -> files.Loaded:
    model = small()
    (tmp_path / "weights.data").write_bytes(externalise(model))
    return files.load(put(tmp_path / "in.onnx", model))


def test_a_new_name_in_a_folder_may_be_written(loaded: files.Loaded) -> None:
    for source in (loaded, loaded.path, None):
        files.check_output(loaded.path.with_name("out.onnx"), source, False)
        files.check_report(loaded.path.with_name("r.json"), source, loaded.path.with_name("out.onnx"))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("make", [Path.samefile, os.symlink, os.link], ids=["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize("name", ["in.onnx", "weights.data"])
def test_the_input_is_never_written_over(
    loaded: files.Loaded, name: str, make: Callable[[Path, Path], None], overwrite: bool
) -> None:
    target = loaded.path.with_name(name)
    out = target if make is Path.samefile else loaded.path.with_name("link")
    make(target, out)
    with pytest.raises(UsageError, match="input model"):
        files.check_output(out, loaded, overwrite)
    with pytest.raises(UsageError, match="input model"):
        files.check_report(out, loaded, None)
    if name == "in.onnx":
        with pytest.raises(UsageError, match="input model"):
            files.check_output(out, str(loaded.path), overwrite)


def test_what_exists_needs_overwrite(loaded: files.Loaded) -> None:
    out, link = loaded.path.with_name("out.onnx"), loaded.path.with_name("nowhere.onnx")
    out.touch()
    link.symlink_to("missing")
    for path in (out, link):
        with pytest.raises(UsageError, match="--overwrite"):
            files.check_output(path, loaded, False)
        files.check_output(path, loaded, True)


@pytest.mark.parametrize("name", ["missing/out", "in.onnx/out", ".", "", "new/", "\0", "x" * 300, "pipe", "loop"])
def test_what_cannot_be_a_file_is_refused(loaded: files.Loaded, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(loaded.path.parent)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    with pytest.raises(UsageError):
        files.check_output(name, loaded, True)
    with pytest.raises(UsageError):
        files.check_report(name, loaded, None)


def test_a_folder_that_is_not_writable_is_the_machines_fault(
    loaded: files.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MachineError, match="not writable"):
        files.check_output(loaded.path.with_name("out.onnx"), loaded, False)


def test_the_report_may_replace_a_report_but_not_the_model(loaded: files.Loaded) -> None:
    out, report = loaded.path.with_name("out.onnx"), loaded.path.with_name("r.json")
    report.touch()
    files.check_report(report, loaded, out)
    for path in (out, loaded.path.parent / "." / "out.onnx"):
        with pytest.raises(UsageError, match="same file as the model"):
            files.check_report(path, loaded, out)


# Writing.


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    files.save({tmp_path / "r.json": "Größe\n".encode(), out: files.serialised(everywhere(), out)})
    assert files.load(out).model == everywhere()
    assert (tmp_path / "r.json").read_bytes() == "Größe\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "r.json"]


def test_a_new_file_follows_the_umask_and_a_replaced_one_keeps_its_permissions(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    old.chmod(0o604)
    umask = os.umask(0o027)
    try:
        for path in (old, new):
            files.save({path: SMALL})
    finally:
        os.umask(umask)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (old, new)] == [0o604, 0o640]


def test_a_link_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    (tmp_path / "v1").write_text("old")
    (tmp_path / "link").symlink_to("v1")
    files.save({tmp_path / "link": SMALL})
    assert (tmp_path / "v1").read_text() == "old"
    assert files.load(tmp_path / "link").model == small()


def test_data_files_that_lie_about_are_not_touched(tmp_path: Path) -> None:
    for name in ("out.onnx.data", "out.data"):
        (tmp_path / name).write_bytes(b"stale")
    (tmp_path / "out.onnx").touch()
    files.save({tmp_path / "out.onnx": SMALL})
    assert all((tmp_path / name).read_bytes() == b"stale" for name in ("out.onnx.data", "out.data"))


FAILURES = [
    (OSError(errno.ENOSPC, "No space left on device"), MachineError),
    (OSError(errno.EROFS, "Read-only file system"), MachineError),
    (KeyboardInterrupt(), KeyboardInterrupt),
    (MemoryError(), MemoryError),
]


@pytest.mark.parametrize(("failure", "seen"), FAILURES)
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException, seen: type[BaseException]
) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("old")

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(seen):
            files.save({out: SMALL})
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert out.read_text() == "old"


@pytest.mark.parametrize(("failure", "seen"), FAILURES)
@pytest.mark.parametrize(("step", "call"), [("open", 2), ("fsync", 2), ("replace", 1), ("replace", 2)])
def test_two_files_are_written_together_or_not_at_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
    failure: BaseException,
    seen: type[BaseException],
) -> None:
    real, calls = getattr(os, step), []

    def fail(*arguments: object, **more: object) -> object:
        calls.append(step)
        if len(calls) == call:
            raise failure
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(seen):
            files.save({tmp_path / "r.json": b"{}", tmp_path / "out.onnx": SMALL})
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_name_that_is_taken_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_name", lambda folder: folder / "taken.tmp")
    (tmp_path / "precious").write_text("old")
    (tmp_path / "taken.tmp").symlink_to("precious")
    with pytest.raises(MachineError, match="not written"):
        files.save({tmp_path / "out.onnx": SMALL})
    assert (tmp_path / "precious").read_text() == "old"


def test_a_missing_folder_is_the_machines_fault_by_now(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="not written"):
        files.save({tmp_path / "gone" / "r.json": b"{}"})


def test_a_model_that_protobuf_cannot_hold_is_the_machines_fault(tmp_path: Path) -> None:
    class Huge:
        def SerializeToString(self) -> bytes:
            raise ValueError("Failed to serialize proto")

    with pytest.raises(MachineError, match="2 GB"):
        files.serialised(Huge(), tmp_path / "out.onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
