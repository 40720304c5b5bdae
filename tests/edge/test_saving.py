"""Data in a file of their own: the layout, what is copied from where, and what a failure leaves."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from edge_models import WEIGHTS, everywhere, externalise, put, small
from onnx_coreset.edge import files, saving
from onnx_coreset.edge.ranges import bring
from onnx_coreset.edge.saving import staged
from onnx_coreset.edge.tensors import walk
from onnx_coreset.errors import MachineError, ModelError

RNG = np.random.default_rng(0)
LARGE = RNG.standard_normal((256, 128)).astype(np.float32)
Told = list[tuple[str, int, int, str]]


def model() -> onnx.ModelProto:
    return small(numpy_helper.from_array(LARGE, "large"), numpy_helper.from_array(LARGE + 1, "other"))


def save(
    proto: onnx.ModelProto, out: Path, external: bool = True, spare: Iterable[Path] = (), told: Told | None = None
) -> onnx.ModelProto:
    """Write a model as the last stage does; what it says it wrote."""
    seen: Told = [] if told is None else told
    with staged(out, proto, external, spare, lambda *what: seen.append(what)) as ready:
        files.save({out: ready.content})
    assert ready.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert ready.bytes == sum(p.stat().st_size for p in (out, *data_files(out)))
    return ready.model


def read(out: Path) -> onnx.ModelProto:
    """The model as others read it; the library says of every tensor that it is inline."""
    proto = onnx.load(out)
    for place in walk(proto):
        place.tensor.ClearField("data_location")
    return proto


def data_files(out: Path) -> list[Path]:
    """The data files that the model OUT names."""
    proto = onnx.load(out, load_external_data=False)
    names = {e.value for p in walk(proto) for e in p.tensor.external_data if e.key == "location"}
    return [out.with_name(name) for name in sorted(names)]


def loaded(folder: Path, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large tensors in a file of the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "weights.data").write_bytes(externalise(proto))
    found = files.load(put(folder / "in.onnx", proto), many=0)
    assert found.large
    return found.model


@pytest.mark.parametrize("inside", [True, False])
def test_what_is_written_is_read_back_by_us_and_by_others(tmp_path: Path, inside: bool) -> None:
    proto = model() if inside else loaded(tmp_path / "in", model())
    out = tmp_path / "out.onnx"
    written = save(proto, out)
    assert [path.name for path in data_files(out)] == ["out.onnx.data"]
    assert files.load(out).model == model() == read(out)
    assert onnx.load(out, load_external_data=False) == written
    onnx.checker.check_model(str(out))
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": np.eye(3, dtype=np.float32)})[0], np.maximum(WEIGHTS, 0))


def test_large_tensors_are_aligned_small_ones_and_words_stay(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    typed = TensorProto(name="typed", data_type=TensorProto.FLOAT, dims=[600], float_data=np.arange(600.0))
    words = TensorProto(name="words", data_type=TensorProto.STRING, dims=[300], string_data=[b"word"] * 300)
    save(small(*model().graph.initializer[1:], typed, words), out)
    proto = onnx.load(out, load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer}
    assert {name for name, place in places.items() if place} == {"large", "other", "typed"}
    starts = [int(place["offset"]) for place in places.values() if place]
    assert all(start % 4096 == 0 for start in starts) and len(set(starts)) == 3
    assert bring(files.load(out).model).graph.initializer[-1].string_data[0] == b"word"
    typed = next(t for t in proto.graph.initializer if t.name == "typed")
    assert not typed.float_data and places["typed"]["length"] == "2400"


def test_a_range_that_tensors_share_is_written_once(tmp_path: Path) -> None:
    proto = loaded(tmp_path / "in", small(numpy_helper.from_array(LARGE, "large")))
    again = proto.graph.initializer.add()
    again.CopyFrom(proto.graph.initializer[-2])
    again.name = "again"
    out = tmp_path / "out.onnx"
    save(proto, out)
    (data,) = data_files(out)
    assert data.stat().st_size == LARGE.nbytes
    assert np.array_equal(numpy_helper.to_array(onnx.load(out).graph.initializer[-1]), LARGE)


def test_tensors_of_every_place_find_their_way(tmp_path: Path) -> None:
    proto = everywhere()
    for place in walk(proto):
        if not place.sparse:
            place.tensor.CopyFrom(numpy_helper.from_array(LARGE + len(place.tensor.name), place.tensor.name))
    whole = onnx.ModelProto.FromString(proto.SerializeToString())
    out = tmp_path / "out.onnx"
    save(loaded(tmp_path / "in", proto), out)
    assert files.load(out).model == whole
    assert len(out.read_bytes()) < 8192


@pytest.mark.parametrize("system", ["whole", "in parts", "refuses", "lacks"])
def test_ranges_are_copied_whatever_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    real = getattr(os, "copy_file_range", None)
    calls = []

    def copy(source: int, target: int, length: int, start: int, end: int) -> int:
        calls.append(length)
        if system == "refuses":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        assert real is not None
        moved: int = real(source, target, min(length, 5000) if system == "in parts" else length, start, end)
        return moved

    proto = loaded(tmp_path / "in", small(numpy_helper.from_array(LARGE, "large")))
    if system == "lacks":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif real is None:
        pytest.skip("this system copies no ranges")
    else:
        monkeypatch.setattr(os, "copy_file_range", copy)
    told: Told = []
    save(proto, tmp_path / "out.onnx", told=told)
    assert save(proto, tmp_path / "one.onnx", external=False).ByteSize() < 1000
    assert onnx.load(tmp_path / "one.onnx") == bring(proto)
    assert np.array_equal(numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[1]), LARGE)
    assert {"whole": 1, "in parts": -(-LARGE.nbytes // 5000), "refuses": 1, "lacks": 0}[system] * 2 == len(calls)
    assert told[0] == ("save", 0, LARGE.nbytes, "out.onnx") and told[-1] == ("save", *[LARGE.nbytes] * 2, "out.onnx")
    assert [done for _, done, _, _ in told] == sorted(done for _, done, _, _ in told)


def test_one_file_unless_asked_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.onnx"
    proto = loaded(tmp_path / "in", model())
    written = save(proto, out, external=False)
    assert onnx.load(out, load_external_data=False) == model()
    assert out.read_bytes() == bring(proto).SerializeToString()
    put(tmp_path / "again.onnx", written)
    assert files.load(tmp_path / "again.onnx").model == model()
    (tmp_path / "again.onnx").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.onnx"]
    monkeypatch.setattr(saving, "_TOO_LARGE", 2 * LARGE.nbytes)
    save(proto, out, external=False)
    assert [path.name for path in data_files(out)] == ["out.onnx.data"]


# What was there before.


def test_old_data_go_last_and_a_name_is_never_used_twice(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    save(model(), out)
    (first,) = data_files(out)
    before = first.read_bytes()
    with staged(out, model(), True, (), lambda *_: None) as ready:
        # Nothing of the old model is touched until the new one is there.
        assert first.read_bytes() == before and read(out) == model()
        files.save({out: ready.content})
    assert [path.name for path in data_files(out)] == ["out.onnx-1.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx-1.data"]
    save(model(), out, external=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx"]


@pytest.mark.parametrize("why", ["of another name", "named by nobody", "the input's", "below a folder", "a link"])
def test_data_that_may_be_somebody_elses_stay(tmp_path: Path, why: str) -> None:
    out, spare = tmp_path / "out.onnx", []
    name = {"of another name": "weights.data", "below a folder": "sub/out.onnx.data"}.get(why, "out.onnx.data")
    old = small(numpy_helper.from_array(LARGE, "large"))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(externalise(old, name))
    put(out, small() if why == "named by nobody" else old)
    if why == "the input's":
        spare.append(tmp_path / "sub" / ".." / name)
        (tmp_path / "sub").mkdir()
    if why == "a link":
        out.rename(tmp_path / "real.onnx")
        out.symlink_to("real.onnx")
    save(model(), out, spare=spare)
    assert (tmp_path / name).stat().st_size == sum(len(p.tensor.raw_data) for p in walk(small())) + LARGE.nbytes


@pytest.mark.parametrize("junk", [b"", b"text", b"\x08\x0a" * 50])
def test_what_is_no_model_names_no_data(tmp_path: Path, junk: bytes) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(junk)
    (tmp_path / "out.onnx.data").write_bytes(b"mine")
    save(model(), out)
    assert (tmp_path / "out.onnx.data").read_bytes() == b"mine" and read(out) == model()


# Failures.

FAILURES = [
    (OSError(errno.ENOSPC, "No space left on device"), MachineError),
    (OSError(errno.EROFS, "Read-only file system"), MachineError),
    (KeyboardInterrupt(), KeyboardInterrupt),
    (MemoryError(), MemoryError),
]


@pytest.mark.parametrize(("failure", "seen"), FAILURES)
@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("step", ["copy_file_range", "fsync", "link", "replace", "between"])
def test_a_failure_at_any_step_leaves_the_old_model_with_its_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    external: bool,
    failure: BaseException,
    seen: type[BaseException],
) -> None:
    proto = loaded(tmp_path / "in", model())
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "out.onnx"
    save(small(numpy_helper.from_array(LARGE - 1, "large")), out)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object) -> None:
        raise failure

    if step == "link" and (isinstance(failure, OSError) or not external):
        pytest.skip("a system without links takes another way")
    with monkeypatch.context() as patch:
        if step != "between":
            patch.setattr(os, step, fail)
        with pytest.raises(seen), staged(out, proto, external, (), lambda *_: None) as ready:
            if step == "between":
                fail()
            files.save({out: ready.content})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_system_without_links_takes_the_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "out.onnx.data").write_bytes(b"mine")
    save(model(), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx-1.data", "out.onnx.data"]
    assert read(tmp_path / "out.onnx") == model()


@pytest.mark.parametrize("way", ["shorter", "gone"])
def test_data_that_go_away_meanwhile_are_the_models_fault(tmp_path: Path, way: str) -> None:
    proto = loaded(tmp_path / "in", model())
    data = tmp_path / "in" / "weights.data"
    data.unlink() if way == "gone" else os.truncate(data, LARGE.nbytes)
    with pytest.raises(ModelError, match=r"meanwhile|any more"):
        save(proto, tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
