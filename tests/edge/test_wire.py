"""A model in pieces is, put together, the model as it is written out in one go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_models import everywhere, externalise, info, put, small
from onnx_coreset.edge import files
from onnx_coreset.edge.ranges import Range, bring, content
from onnx_coreset.edge.tensors import walk
from onnx_coreset.edge.wire import in_pieces, varint


def together(model: onnx.ModelProto) -> bytes:
    return b"".join(content(piece) if isinstance(piece, Range) else piece for piece in in_pieces(model))


def full() -> onnx.ModelProto:
    """A model with a value in every field that is not a list of tensors."""
    model = everywhere()
    model.producer_name, model.producer_version, model.domain = "somebody", "1", "here"
    model.model_version, model.doc_string = 7, "words"
    model.metadata_props.add(key="k", value="v")
    model.graph.doc_string = "graph"
    model.graph.value_info.append(info("h", "N", 4))
    model.graph.metadata_props.add(key="g", value="v")
    model.graph.quantization_annotation.add(tensor_name="h")
    model.graph.initializer[0].doc_string = "behind the data"
    model.graph.initializer[0].metadata_props.add(key="t", value="v")
    return model


@pytest.mark.parametrize("make", [small, everywhere, full])
def test_a_model_without_references(make: type[onnx.ModelProto]) -> None:
    assert together(make()) == make().SerializeToString()


@pytest.mark.parametrize("size", [1 << 14, 300_000])
def test_large_tensors_are_ranges_of_their_files(tmp_path: Path, size: int) -> None:
    model = full()
    for place in walk(model):
        if not place.sparse and place.tensor.dims[0] == 3:
            values = np.arange(size, dtype=np.float32) + len(place.tensor.name)
            new = numpy_helper.from_array(values, place.tensor.name)
            new.doc_string = place.tensor.doc_string
            place.tensor.CopyFrom(new)
    whole = model.SerializeToString()
    (tmp_path / "weights.data").write_bytes(externalise(model))
    loaded = files.load(put(tmp_path / "m.onnx", model), many=0).model
    pieces = in_pieces(loaded)
    ranges = [piece for piece in pieces if isinstance(piece, Range)]
    # Those in subgraphs and attributes are rare, and are read.
    assert len(ranges) == 1 and ranges[0].length == 4 * size
    assert together(loaded) == whole == bring(loaded).SerializeToString()
    assert loaded != bring(loaded)


def test_an_empty_graph() -> None:
    model = onnx.ModelProto(ir_version=8)
    model.graph.SetInParent()
    assert together(model) == model.SerializeToString()


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_written_as_messages_hold_them(number: int) -> None:
    tensor = TensorProto()
    tensor.uint64_data.append(number)
    # One packed field: a tag, the length of what follows, the number.
    assert tensor.SerializeToString() == varint(11 << 3 | 2) + varint(len(varint(number))) + varint(number)


def test_helpers_of_onnx_read_it() -> None:
    model = helper.make_model(small().graph)
    assert onnx.load_model_from_string(together(model)) == model
