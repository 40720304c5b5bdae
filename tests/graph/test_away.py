"""Numbers that were put away after an edit come out of the model as those that memory held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from api_models import mlp
from graph_oddities import base
from onnx_coreset.core.layer import restrict
from onnx_coreset.edge import scratch as module
from onnx_coreset.edge.ranges import bring
from onnx_coreset.edge.scratch import Scratch, scratch
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space, spaces

Edit = Callable[[Document], None]


@pytest.fixture
def all_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE", 0)


def every(document: Document) -> list[tuple[gs.Node, int]]:
    """Every constant input of numbers."""
    return [
        (node, index)
        for _, node in document.nodes()
        for index, tensor in enumerate(node.inputs)
        if (numbers := document.constant(tensor)) is not None and numbers.dtype.kind == "f"
    ]


def once(document: Document, room: Scratch | None, change: float) -> None:
    for node, index in every(document):
        numbers = document.constant(node.inputs[index])
        assert numbers is not None
        document.assign(node, index, (numbers + change).astype(numbers.dtype))
        if room is not None:
            document.put_away(room.message)


@pytest.mark.parametrize("make", [base, lambda: mlp([6, 20, 16, 4]), lambda: mlp([6, 20, 16, 4], bias=False)])
@pytest.mark.usefixtures("all_away")
def test_an_edited_model_is_the_same(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    with scratch(tmp_path / "out") as room:
        here, there = decode(make()), decode(make())
        for change in (1.0, 2.0):
            # Twice: what is away is read, and replaced.
            once(here, None, change)
            once(there, room, change)
            for (node, index), (other, _) in zip(every(here), every(there), strict=True):
                one, two = here.constant(node.inputs[index]), there.constant(other.inputs[index])
                assert one is not None and two is not None
                assert one.dtype == two.dtype and np.array_equal(one, two)
                assert here.constant_shape(node.inputs[index]) == there.constant_shape(other.inputs[index])
        assert there.away and not here.away
        assert bring(encode(there)) == encode(here) != make()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("all_away")
def test_a_cut_model_is_the_same(tmp_path: Path, bias: bool) -> None:
    model = mlp([6, 20, 16, 12, 4], bias=bias)
    document = decode(model)
    coresets = {}
    for place in spaces(document):
        if isinstance(place, Space):
            layer = read(document, place)
            coresets[place.name] = restrict(layer, np.arange(0, layer.width, 2))
    assert len(coresets) == 3
    expected = cut(model, coresets)
    with scratch(tmp_path / "out") as room:
        found, left = cut(model, coresets, store=room.message)
        assert left == expected[1] and bring(found) == expected[0]
        assert found != bring(found)
