"""Reading a model: the whole of it, external data included, or one clear error."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_models import OPSET, WEIGHTS, everywhere, externalise, info, put, small
from onnx_coreset.edge import files
from onnx_coreset.errors import ModelError


def entry(model: onnx.ModelProto, key: str, value: str | None) -> None:
    """Changes one entry of the external data of the first initializer; None removes it."""
    entries = {e.key: e.value for e in model.graph.initializer[0].external_data} | {key: value}
    del model.graph.initializer[0].external_data[:]
    for name, text in entries.items():
        if text is not None:
            model.graph.initializer[0].external_data.add(key=name, value=text)


@pytest.fixture
def split(tmp_path: Path) -> Iterator[tuple[Path, onnx.ModelProto]]:
    """A folder with the data of a model, and that model, not written yet."""
    model = small()
    (tmp_path / "weights.data").write_bytes(externalise(model))
    yield tmp_path / "m.onnx", model


def test_a_model_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", everywhere())
    loaded = files.load(str(path))
    content = path.read_bytes()
    assert loaded.model == everywhere()
    assert (loaded.path, loaded.bytes, loaded.data) == (path, len(content), ())
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()


def test_external_data_of_every_tensor_become_inline_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, here, elsewhere = everywhere(), tmp_path / "here", tmp_path / "elsewhere"
    (here / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    data = externalise(model, "sub/weights.data")
    (here / "sub" / "weights.data").write_bytes(data)
    (elsewhere / "weights.data").write_bytes(bytes(len(data)))
    path = put(here / "m.onnx", model)
    monkeypatch.chdir(elsewhere)
    loaded = files.load(Path("..") / "here" / "m.onnx")
    assert loaded.model == everywhere()
    assert loaded.bytes == path.stat().st_size + len(data)
    assert [file.resolve() for file in loaded.data] == [here / "sub" / "weights.data"]
    assert (here / "sub" / "weights.data").read_bytes() == data


def test_links_to_data_are_followed_and_counted_once(split: tuple[Path, onnx.ModelProto]) -> None:
    path, model = split
    model.graph.initializer.append(model.graph.initializer[0])
    model.graph.initializer[1].name = "again"
    entry(model, "location", "link.data")
    path.with_name("link.data").symlink_to("weights.data")
    loaded = files.load(put(path, model))
    assert np.array_equal(numpy_helper.to_array(loaded.model.graph.initializer[0]), WEIGHTS)
    assert loaded.bytes == path.stat().st_size + WEIGHTS.nbytes


def test_a_missing_length_means_what_the_shape_needs(split: tuple[Path, onnx.ModelProto]) -> None:
    path, model = split
    with path.with_name("weights.data").open("ab") as file:
        file.write(b"another tensor")
    entry(model, "length", None)
    entry(model, "offset", None)
    assert files.load(put(path, model)).model == small()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("location", "/etc/hostname"),
        ("location", "../weights.data"),
        ("location", "sub/../weights.data"),
        ("location", "..\\weights.data"),
        ("location", "C:\\weights.data"),
        ("location", ""),
        ("location", "."),
        ("location", "a\0b"),
        ("location", "x" * 5000),
        ("location", "missing.data"),
        ("location", None),
        ("offset", "4"),
        ("offset", "-4"),
        ("offset", "4_0"),
        ("offset", str(2**62)),
        ("offset", "9" * 5000),
        ("length", "44"),
        ("length", "52"),
        ("length", "0"),
        ("length", "many"),
    ],
)
def test_bad_external_data_are_refused_by_name(
    split: tuple[Path, onnx.ModelProto], key: str, value: str | None
) -> None:
    path, model = split
    entry(model, key, value)
    with pytest.raises(ModelError, match="initializer 'w'") as caught:
        files.load(put(path, model))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("up", ["{folder}", "../{name}", "sub/.."])
def test_data_are_not_read_from_outside_the_folder_though_they_are_there(
    split: tuple[Path, onnx.ModelProto], up: str
) -> None:
    path, model = split
    path.with_name("sub").mkdir()
    location = f"{up.format(folder=path.parent, name=path.parent.name)}/weights.data"
    assert (path.parent / location).samefile(path.with_name("weights.data"))
    entry(model, "location", location)
    with pytest.raises(ModelError, match="outside the model's folder"):
        files.load(put(path, model))


def test_a_short_data_file_is_refused_by_name(split: tuple[Path, onnx.ModelProto]) -> None:
    path, model = split
    os.truncate(path.with_name("weights.data"), 47)
    with pytest.raises(ModelError, match=r"initializer 'w'.*weights\.data, which has 47"):
        files.load(put(path, model))


def test_data_that_are_a_pipe_are_refused_without_waiting(split: tuple[Path, onnx.ModelProto]) -> None:
    path, model = split
    path.with_name("weights.data").unlink()
    os.mkfifo(path.with_name("weights.data"))
    with pytest.raises(ModelError, match="not a file"):
        files.load(put(path, model))


def test_strings_have_no_external_data(split: tuple[Path, onnx.ModelProto]) -> None:
    path, model = split
    model.graph.initializer[0].data_type = TensorProto.STRING
    with pytest.raises(ModelError, match="strings"):
        files.load(put(path, model))


def valid_but_odd() -> Iterator[onnx.ModelProto]:
    graph = helper.make_graph([], "through", [info("x", 1)], [info("x", 1)])
    yield helper.make_model(graph, ir_version=10, opset_imports=OPSET)
    bare = small()
    del bare.opset_import[:]
    yield bare
    latin = small()
    latin.doc_string = "caf?"
    yield onnx.ModelProto.FromString(latin.SerializeToString().replace(b"caf?", b"caf\xe9"))


@pytest.mark.parametrize("index", range(3))
def test_odd_models_are_read(tmp_path: Path, index: int) -> None:
    model = list(valid_but_odd())[index]
    assert files.load(put(tmp_path / "m.onnx", model)).model == model


def no_graph() -> bytes:
    return onnx.ModelProto(ir_version=10, opset_import=OPSET).SerializeToString()


def broken_name() -> bytes:
    return small().SerializeToString().replace(b"first", b"fir\xff\xff")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not an ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an ONNX file"),
        (small().SerializeToString()[:-60], "not an ONNX file"),
        (no_graph(), "holds no ONNX graph"),
        (onnx.ModelProto(graph=small().graph).SerializeToString(), "holds no ONNX graph"),
        (onnx.ModelProto(ir_version=10, graph=onnx.GraphProto()).SerializeToString(), "holds no ONNX graph"),
        (broken_name(), "not UTF-8"),
    ],
)
def test_what_is_no_model_gets_one_clear_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        files.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("missing.onnx", "not exist"), ("", "a folder"), ("m.onnx/below", "not exist"), ("\0", "read")]
)
def test_what_cannot_be_opened_gets_one_clear_line(tmp_path: Path, name: str, words: str) -> None:
    put(tmp_path / "m.onnx", small())
    with pytest.raises(ModelError, match=words):
        files.load(tmp_path / name)


def test_a_model_that_is_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        with pytest.raises(ModelError, match="not a file"):
            files.load("s")


def test_a_model_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match="permissions"):
        files.load(put(tmp_path / "m.onnx", small()))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_anywhere_never_raises_anything_but_a_model_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    model = everywhere()
    folder = tmp_path_factory.getbasetemp()
    (folder / "weights.data").write_bytes(externalise(model) if data.draw(st.booleans()) else b"")
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        files.load(path)
    except ModelError as error:
        assert "\n" not in str(error)
