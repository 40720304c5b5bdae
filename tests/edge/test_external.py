"""External data that stay in their files: which do, where they are looked for, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_models import OPSET, externalise, info, put, small
from onnx_coreset.edge import files
from onnx_coreset.edge.light import light
from onnx_coreset.edge.ranges import Range, bring, content, numbers, reference, weight
from onnx_coreset.edge.tensors import walk
from onnx_coreset.errors import MachineError, ModelError

LARGE = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
KINDS = [np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]


def model(*more: onnx.TensorProto) -> onnx.ModelProto:
    """A model with a small tensor, a large one, and others."""
    return small(numpy_helper.from_array(LARGE, "large"), *more)


def named(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(place.tensor for place in walk(proto) if place.tensor.name == name)


def split(folder: Path, proto: onnx.ModelProto) -> Path:
    (folder / "weights.data").write_bytes(externalise(proto))
    return put(folder / "m.onnx", proto)


def test_few_data_move_into_the_model_and_many_stay_but_for_small_tensors(tmp_path: Path) -> None:
    path = split(tmp_path, model())
    few, many = files.load(path), files.load(path, many=LARGE.nbytes)
    assert not few.large and few.model == model()
    assert many.large and (many.bytes, many.data, many.sha256) == (few.bytes, few.data, few.sha256)
    place = reference(named(many.model, "large"))
    assert place is not None and place.path == str(tmp_path / "weights.data") and place.length == LARGE.nbytes
    assert reference(named(many.model, "w")) is None
    assert bring(many.model) == model()
    assert not files.load(path, many=few.bytes).large


def test_relative_paths_are_absolute_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(tmp_path, model())
    monkeypatch.chdir(tmp_path)
    loaded = files.load("m.onnx", many=0)
    monkeypatch.chdir("/")
    assert np.array_equal(numbers(named(loaded.model, "large")), LARGE)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_file(tmp_path: Path, kind: type) -> None:
    array = (LARGE * 50).astype(kind)
    # An odd number of bytes in front: nothing is aligned.
    odd = numpy_helper.from_array(np.arange(3, dtype=np.uint8), "a")
    path = split(tmp_path, small(odd, numpy_helper.from_array(array, "kind")))
    tensor = named(files.load(path, many=0).model, "kind")
    held = (reference(tensor) is not None, numbers(tensor))
    assert held[0] == (array.nbytes >= 1 << 16) and held[1].dtype == array.dtype and np.array_equal(held[1], array)


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.INT4, TensorProto.FLOAT8E4M3FN])
def test_types_that_numpy_lacks_are_read_as_onnx_reads_them(tmp_path: Path, kind: int) -> None:
    dims = [512, 512]
    raw = np.random.default_rng(1).integers(0, 100, -(-(512 * 512 * {16: 16, 22: 4, 17: 8}[kind]) // 8), dtype=np.uint8)
    tensor = TensorProto(name="odd", data_type=kind, dims=dims, raw_data=raw.tobytes())
    loaded = named(files.load(split(tmp_path, small(tensor)), many=0).model, "odd")
    assert reference(loaded) is not None
    assert np.array_equal(numbers(loaded).view(np.uint8), numpy_helper.to_array(tensor).view(np.uint8))


def test_several_files_shared_ranges_and_missing_lengths(tmp_path: Path) -> None:
    proto = model(numpy_helper.from_array(LARGE + 1, "other"), numpy_helper.from_array(LARGE, "again"))
    whole = onnx.ModelProto.FromString(proto.SerializeToString())
    path = split(tmp_path, proto)
    (tmp_path / "second.data").write_bytes((LARGE + 1).tobytes())
    other = named(proto, "other")
    del other.external_data[:]
    other.external_data.add(key="location", value="second.data")
    del named(proto, "again").external_data[:]
    named(proto, "again").external_data.extend(named(proto, "large").external_data)
    path = put(path, proto)
    loaded = files.load(path, many=0)
    assert {file.name for file in loaded.data} == {"weights.data", "second.data"}
    assert reference(named(loaded.model, "again")) == reference(named(loaded.model, "large"))
    assert reference(named(loaded.model, "other")) == Range(str(tmp_path / "second.data"), 0, LARGE.nbytes)
    assert bring(loaded.model) == whole


@pytest.mark.parametrize("where", ["beside the link", "beside the target", "in a folder beside the link"])
def test_a_model_that_is_a_link_into_a_store(tmp_path: Path, where: str) -> None:
    store, shown = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    store.mkdir()
    shown.mkdir(parents=True)
    proto = model()
    location = "sub/weights.data" if "folder" in where else "weights.data"
    data = externalise(proto, location)
    (store / "1234").write_bytes(proto.SerializeToString())
    if where == "beside the target":
        (store / "weights.data").write_bytes(data)
    else:
        (store / "5678").write_bytes(data)
        (shown / location).parent.mkdir(exist_ok=True)
        (shown / location).symlink_to(store / "5678")
    (shown / "model.onnx").symlink_to(Path("..") / ".." / "blobs" / "1234")
    for many in (0, 1 << 40):
        loaded = files.load(shown / "model.onnx", many=many)
        assert loaded.large == (many == 0) and bring(loaded.model) == model()


def test_the_folder_of_the_link_comes_first(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    proto = model()
    data = externalise(proto)
    (tmp_path / "store" / "weights.data").write_bytes(bytes(len(data)))
    (tmp_path / "weights.data").write_bytes(data)
    put(tmp_path / "store" / "blob", proto)
    (tmp_path / "m.onnx").symlink_to(Path("store") / "blob")
    assert bring(files.load(tmp_path / "m.onnx", many=0).model) == model()


@pytest.mark.parametrize("location", ["/etc/hostname", "../weights.data", "a/../weights.data", "C:\\weights.data"])
def test_many_data_are_not_read_from_elsewhere_either(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    proto = model()
    (tmp_path / "weights.data").write_bytes(externalise(proto, location))
    with pytest.raises(ModelError, match="outside the model's folder"):
        files.load(put(tmp_path / "in" / "m.onnx", proto), many=0)


def test_a_short_file_is_found_out_before_anything_is_read(tmp_path: Path) -> None:
    path = split(tmp_path, model())
    os.truncate(tmp_path / "weights.data", 47 + LARGE.nbytes)
    with pytest.raises(ModelError, match=r"'large'.*truncated"):
        files.load(path, many=0)


def test_a_file_that_gets_shorter_or_goes_away_is_the_models_fault(tmp_path: Path) -> None:
    tensor = named(files.load(split(tmp_path, model()), many=0).model, "large")
    os.truncate(tmp_path / "weights.data", 100)
    with pytest.raises(ModelError, match="became shorter"):
        numbers(tensor)
    (tmp_path / "weights.data").unlink()
    with pytest.raises(ModelError, match="cannot be read any more"):
        numbers(tensor)
    with pytest.raises(ModelError, match="cannot be read any more"):
        content(Range(str(tmp_path / "weights.data"), 0, 1))


def test_sparse_tensors_and_segments_do_not_stay(tmp_path: Path) -> None:
    values = numpy_helper.from_array(LARGE.reshape(-1), "values")
    indices = numpy_helper.from_array(np.arange(LARGE.size, dtype=np.int64), "indices")
    proto = small()
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [LARGE.size]))
    loaded = files.load(split(tmp_path, proto), many=0)
    assert not loaded.large and len(loaded.model.graph.sparse_initializer[0].values.raw_data) == LARGE.nbytes
    cut = model()
    path = split(tmp_path, cut)
    named(cut, "large").segment.begin = 0
    named(cut, "large").segment.end = 1
    with pytest.raises(ModelError, match="segments"):
        files.load(put(path, cut), many=0)


def test_a_path_that_is_no_text_cannot_be_written_down(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    loaded = files.load(split(folder, model()), many=0)
    assert not loaded.large and loaded.model == model()


# Sizes and copies.


def test_the_weight_of_a_model_is_its_size_written_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for size in (0, 1, 31, 32, 4095, 70_000, 1 << 19):
        array = numpy_helper.from_array(rng.integers(0, 255, size, dtype=np.uint8), "t")
        proto = small(array, TensorProto(name="typed", data_type=1, dims=[2], float_data=[1, 2]))
        assert weight(proto) == proto.ByteSize()
    proto = model()
    path = split(tmp_path, proto)
    here, there = weight(model()), weight(files.load(path, many=0).model)
    assert 0 <= there - here < 200


def test_two_gigabytes_are_not_brought_into_memory() -> None:
    proto = small()
    tensor = proto.graph.initializer.add(name="huge", data_type=1, dims=[1 << 29])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/nowhere"), ("offset", "0"), ("length", str(1 << 31))):
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(MachineError, match="2 GB"):
        bring(proto)


def test_a_light_copy_is_judged_as_the_model_is(tmp_path: Path) -> None:
    good = model()
    bad = model()
    bad.graph.node[0].op_type = "NoSuchOperator"
    twice = model()
    twice.graph.node[1].output[0] = "h"
    for proto, fine in ((good, True), (bad, False), (twice, False)):
        path = split(tmp_path, onnx.ModelProto.FromString(proto.SerializeToString()))
        for whole in (proto, files.load(path, many=0).model):
            copy = light(whole)
            assert copy.ByteSize() < 1000
            if fine:
                onnx.checker.check_model(copy)
            else:
                with pytest.raises(onnx.checker.ValidationError):
                    onnx.checker.check_model(copy)
    assert good == model()


def test_a_light_copy_keeps_all_but_data() -> None:
    proto = model()
    proto.doc_string, proto.producer_name, proto.model_version = "words", "somebody", 3
    proto.metadata_props.add(key="k", value="v")
    proto.graph.doc_string = "graph"
    proto.graph.value_info.append(info("h", "N", 4))
    proto.opset_import.extend(OPSET)
    copy = light(proto)
    del copy.graph.initializer[:]
    del proto.graph.initializer[:]
    assert copy == proto
