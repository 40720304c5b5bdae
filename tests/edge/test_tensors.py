"""Every tensor is found, and has as many data as its shape and type need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_models import everywhere, externalise, put, small
from onnx_coreset.edge import files
from onnx_coreset.edge.tensors import Place, check, check_all, stored_bytes, walk
from onnx_coreset.errors import ModelError


def test_the_walk_finds_every_tensor_once() -> None:
    names = sorted(place.tensor.name for place in walk(everywhere()))
    sparse = [f"{where}.{part}" for where in ("attribute", "initializer", "sparses") for part in ("indices", "values")]
    plain = ["w", "deep", "branch", "in graphs", "default", "body", "value", "list", "training"]
    assert names == sorted(plain + sparse)


TYPES = [kind for kind in TensorProto.DataType.values() if kind != TensorProto.UNDEFINED]
SHAPES = [(), (0,), (3, 0), (1,), (3,), (2, 5)]


def of_kind(kind: int, shape: tuple[int, ...], raw: bool) -> onnx.TensorProto:
    if kind == TensorProto.STRING:
        return helper.make_tensor("t", kind, shape, [b"a"] * int(np.prod(shape)))
    array = np.ones(shape, helper.tensor_dtype_to_np_dtype(kind))
    if raw:
        return numpy_helper.from_array(array, "t")
    return helper.make_tensor("t", kind, shape, array.ravel())


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", TYPES)
def test_whole_tensors_of_every_type_pass(kind: int, shape: tuple[int, ...], raw: bool) -> None:
    tensor = of_kind(kind, shape, raw)
    check(Place("t", tensor))
    if tensor.HasField("raw_data"):
        assert stored_bytes(Place("t", tensor)) == len(tensor.raw_data)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape])
@pytest.mark.parametrize("kind", TYPES)
def test_short_and_long_tensors_of_every_type_are_refused(kind: int, shape: tuple[int, ...], raw: bool) -> None:
    short, long = of_kind(kind, shape, raw), of_kind(kind, shape, raw)
    if short.HasField("raw_data"):
        short.raw_data, long.raw_data = short.raw_data[:-1], long.raw_data + b"\0"
    else:
        (name,) = (field.name for field, _ in short.ListFields() if field.name.endswith("_data"))
        getattr(long, name).append(getattr(short, name).pop())
    for tensor in (short, long):
        with pytest.raises(ModelError, match=r"^here has \d+ (bytes|values) of data"):
            check(Place("here", tensor))


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2]),
        TensorProto(name="w", data_type=TensorProto.FLOAT),
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-2, -2], raw_data=bytes(16)),
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**40]),
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], double_data=[1.0]),
        TensorProto(name="w", dims=[2], raw_data=bytes(8)),
        TensorProto(name="w", dims=[2]),
        TensorProto(
            name="w", data_type=TensorProto.FLOAT, dims=[1], float_data=[1.0], segment=TensorProto.Segment(begin=0)
        ),
    ],
)
def test_damaged_tensors_are_refused_by_name(tmp_path: Path, tensor: onnx.TensorProto) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: initializer 'w'"):
        files.load(put(tmp_path / "m.onnx", small(tensor)))


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(),
        TensorProto(name="e", data_type=TensorProto.FLOAT, dims=[0]),
        TensorProto(name="e", data_type=TensorProto.STRING, dims=[0]),
        TensorProto(name="e", data_type=TensorProto.FLOAT, dims=[2, 0], raw_data=b""),
        TensorProto(name="later", data_type=999, dims=[2], raw_data=b"?"),
    ],
)
def test_odd_tensors_pass(tensor: onnx.TensorProto) -> None:
    check(Place("t", tensor))


def test_a_model_without_its_folder_may_not_have_external_data() -> None:
    model = everywhere()
    check_all(model)
    externalise(model)
    with pytest.raises(ModelError, match="in another file"):
        check_all(model)
