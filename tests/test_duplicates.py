"""A model in which every hidden neuron stands twice becomes half as wide, and its outputs stay.

Every linear operator, region and form that the generators can write is doubled by the graph code itself: `write` takes
any list of rows, so one that names each neuron twice, in any order, with halved outgoing weights, is the doubled layer.
That this is the same function is checked with ONNX Runtime first: nothing here rests on `write` being right.
No form had to be left out (`graph_oddities.py` tries the codec on graphs without layers; it is not used here).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest

import onnx_coreset
from api_models import run
from graph_forms import FORMS, TAKEN
from graph_linear import CONSUMERS, MOVES, PRODUCERS
from graph_spellings import REGIONS, TAILS, Spelling, build, spellings
from onnx_coreset.core.layer import Coreset
from onnx_coreset.graph.lens import read, write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.space import Space, spaces

CASES = spellings(2, seed=3)
TOLERANCE = {"f2": 2e-3, "f4": 1e-4, "f8": 1e-4}
"""Relative to the spread of an output; of float16, its own rounding: four units of the spread in the last place."""


def layers(model: onnx.ModelProto) -> dict[str, Space]:
    return {space.name: space for space in spaces(decode(model)) if isinstance(space, Space)}


def doubled(model: onnx.ModelProto, shuffled: bool) -> onnx.ModelProto:
    """Return the model in which every neuron of every layer stands twice, in random order or side by side."""
    for name in layers(model):
        document = decode(model)
        space = next(s for s in spaces(document) if isinstance(s, Space) and s.name == name)
        layer = read(document, space)
        twice = np.repeat(np.arange(space.width), 2)
        if shuffled:
            twice = np.random.default_rng(0).permutation(twice)
        # A Coreset refuses rows that repeat.
        rows = SimpleNamespace(
            kept=twice,
            outgoing=tuple(readout.outgoing[:, twice] / 2 for readout in layer.readouts),
            constant=tuple(readout.constant for readout in layer.readouts),
            incoming=None,
            bare=False,
        )
        write(document, space, cast(Coreset, rows))
        model = encode(document)
    return model


def inputs(model: onnx.ModelProto, kind: str) -> np.ndarray:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [d.dim_value or 3 for d in dims]
    return np.random.default_rng(1).standard_normal(shape).astype(kind)


def assert_equal(before: onnx.ModelProto, after: onnx.ModelProto, kind: str) -> None:
    """Equal outputs, up to a share of their spread."""
    x = inputs(before, kind)
    for old, new in zip(run(before, x), run(after, x), strict=True):
        assert old.shape == new.shape
        a, b = old.astype(np.float64), new.astype(np.float64)
        if old.dtype.kind != "i":
            assert float(np.abs(b - a).max()) <= TOLERANCE[kind] * (float(np.std(a)) or 1.0)


def assert_halves(model: onnx.ModelProto, kind: str, shuffled: bool = True) -> None:
    wide, widths = doubled(model, shuffled), {name: space.width for name, space in layers(model).items()}
    onnx.checker.check_model(wide, full_check=True)
    assert_equal(model, wide, kind)
    assert {name: space.width for name, space in layers(wide).items()} == {n: 2 * w for n, w in widths.items()}
    result = onnx_coreset.optimize(wide, ratio=0.5, samples=64, provider="cpu")
    assert {c.name: c.width_after for c in result.report.chains if c.status == "pruned"} == widths
    assert {name: space.width for name, space in layers(result.model).items()} == widths
    assert_equal(wide, result.model, kind)


def test_everything_the_generators_can_write_occurs() -> None:
    assert {s.producer for s in CASES} == set(PRODUCERS)
    assert {s.consumer for s in CASES} == set(CONSUMERS)
    assert {s.region for s in CASES} == set(REGIONS)
    assert {s.dtype for s in CASES} == set(TOLERANCE)
    assert {move for s in CASES for move in s.moves} == set(MOVES)
    assert {s.tails for s in CASES} == set(TAILS)


@pytest.mark.parametrize("spelling", CASES, ids=str)
def test_a_doubled_spelling_halves(spelling: Spelling) -> None:
    assert_halves(build(spelling), spelling.dtype)


@pytest.mark.parametrize("name", FORMS)
def test_a_doubled_form_halves(name: str) -> None:
    # Where neighbours are taken, those that belong together have to be neighbours.
    assert_halves(FORMS[name], "f4", name not in TAKEN)
