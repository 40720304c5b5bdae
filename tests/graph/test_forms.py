"""The laws of reading and writing, on layers whose neurons are moved, multiplied or joined."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graph_bounds import enclosures, unit
from graph_forms import FORMS, WIDTHS
from graph_layers import found
from onnx_coreset.core.layer import Columns, Coreset, HiddenLayer, restrict, shrink, whole
from onnx_coreset.edge.runtime import Session, choose, with_outputs
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.extract import extract, shrunk
from onnx_coreset.graph.lens import read, write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.space import Space, spaces

CPU = choose("cpu")
U = unit(np.dtype("f4"))
every_form = pytest.mark.parametrize("name", FORMS)


def layers(proto: onnx.ModelProto) -> list[Space]:
    return [s for s in spaces(decode(proto)) if isinstance(s, Space)]


def drawn(layer: HiddenLayer, rng: np.random.Generator, size: int | None = None) -> Coreset:
    size = int(rng.integers(2, layer.width)) if size is None else size
    kept = np.sort(rng.choice(layer.width, size, replace=False))
    outgoing = tuple(rng.standard_normal((r.outputs, size, r.features.columns)) for r in layer.readouts)
    seen = [r.features.seen[kept] if isinstance(r.features, Columns) else True for r in layer.readouts]
    outgoing = tuple(np.where(own, weights, 0.0) for own, weights in zip(seen, outgoing, strict=True))
    shift = [rng.standard_normal(r.outputs) if r.constant_allowed else 0.0 for r in layer.readouts]
    constant = tuple(r.constant + s for r, s in zip(layer.readouts, shift, strict=True))
    return Coreset(kept, outgoing, constant)


def inputs(proto: onnx.ModelProto, seed: int, free: int = 4) -> np.ndarray:
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    shape = [d.dim_value or (free if d.dim_param == "N" else 3) for d in dims]
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


@every_form
def test_every_layer_is_found(name: str) -> None:
    _, good, skips = found(FORMS[name])
    assert len(good) == WIDTHS.get(name, 1) and all(space.width == 6 for space in good)
    assert {skip.code for skip in skips.values()} <= {"output", "operator"}


@every_form
def test_writing_all_neurons_with_their_own_weights_changes_no_byte(name: str) -> None:
    before = FORMS[name].SerializeToString(deterministic=True)
    for space in layers(FORMS[name]):
        document = decode(FORMS[name])
        same = next(s for s in spaces(document) if isinstance(s, Space) and s.name == space.name)
        write(document, same, whole(read(document, same)))
        assert encode(document).SerializeToString(deterministic=True) == before


@every_form
@pytest.mark.parametrize("size", [1, None])
def test_what_is_written_is_read_back_up_to_one_rounding(name: str, size: int | None) -> None:
    for index, place in enumerate(layers(FORMS[name])):
        document = decode(FORMS[name])
        space = next(s for s in spaces(document) if isinstance(s, Space) and s.name == place.name)
        layer = read(document, space)
        coreset = drawn(layer, np.random.default_rng(index), size)
        write(document, space, coreset)
        after = encode(document)
        onnx.checker.check_model(after, full_check=True)
        if size == 1:
            continue
        again = decode(after)
        got = read(again, next(s for s in spaces(again) if isinstance(s, Space) and s.name == place.name))
        x = np.random.default_rng(1).standard_normal((5, layer.inputs))
        for ours, aim in zip(got.readouts, shrink(layer, coreset).readouts, strict=True):
            assert type(ours.features) is type(aim.features)
            assert np.array_equal(ours.features.evaluate(x), aim.features.evaluate(x))
            assert np.all(np.abs(ours.outgoing - aim.outgoing) <= 2 * U * np.abs(aim.outgoing))
            assert np.all(np.abs(ours.constant - aim.constant) <= 2 * U * np.abs(aim.constant) + 1e-15)


@every_form
def test_a_layer_alone_computes_what_was_read(name: str) -> None:
    document = decode(FORMS[name])
    x = np.random.default_rng(3).standard_normal((9, 3)).astype("f4")
    for space in (s for s in spaces(document) if isinstance(s, Space)):
        layer = read(document, space)
        alone = extract(document, space)
        assert shrunk(alone, space.name, whole(layer)) == alone
        coreset = drawn(layer, np.random.default_rng(0))
        narrower = shrunk(alone, space.name, coreset)
        for proto, aim, rounding in ((alone, layer, 0.0), (narrower, shrink(layer, coreset), U)):
            again = decode(proto)
            (same,) = [s for s in spaces(again) if isinstance(s, Space)]
            results = Session(proto, CPU, threads=1).run({proto.graph.input[0].name: x})
            bounds = enclosures(again, same, x.astype("f8"))
            for readout, (low, high), output in zip(aim.readouts, bounds, proto.graph.output, strict=True):
                features = readout.features.evaluate(x.astype("f8"))
                value = readout.apply(features)
                weights = np.abs(readout.outgoing).reshape(readout.outputs, -1)
                size = np.abs(features).reshape(9, -1) @ weights.T + np.abs(readout.constant)
                slack = np.maximum(high - value, value - low) + 2 * rounding * size
                got = results[output.name].astype("f8").reshape(-1, readout.outputs)
                assert np.all(np.abs(got - value) <= slack) and np.all(slack <= 1e-3 * (1 + size))


@every_form
@pytest.mark.parametrize("rows", [1, 4])
def test_layers_cut_together_give_the_models_outputs(name: str, rows: int) -> None:
    """What is dropped has no outgoing weights: nothing may be missed."""
    proto = onnx.ModelProto()
    proto.CopyFrom(FORMS[name])
    document = decode(proto)
    coresets = {}
    for space in (s for s in spaces(document) if isinstance(s, Space)):
        layer = read(document, space)
        kept = np.array([0, 2, 3])
        coresets[space.name] = restrict(layer, kept)
    narrower, left = cut(proto, coresets)
    assert not left
    onnx.checker.check_model(narrower, full_check=True)
    assert all(space.width == 3 for space in layers(narrower))
    x = inputs(proto, 5, rows)
    before = Session(_muted(proto), CPU, threads=1).run({"x": x})
    after = Session(narrower, CPU, threads=1).run({"x": x})
    for key, value in before.items():
        assert after[key].shape == value.shape
        assert np.allclose(after[key], value, rtol=1e-4, atol=1e-5)


def _muted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the outgoing weights of neurons 1, 4 and 5 at zero, every layer's one after the other."""
    for name in [space.name for space in layers(proto)]:
        document = decode(proto)
        space = next(s for s in spaces(document) if isinstance(s, Space) and s.name == name)
        layer = read(document, space)
        outgoing = []
        for readout in layer.readouts:
            weights = np.array(readout.outgoing)
            weights[:, [1, 4, 5]] = 0.0
            outgoing.append(weights)
        write(document, space, Coreset(np.arange(6), tuple(outgoing), tuple(r.constant for r in layer.readouts)))
        proto = encode(document)
    return proto


def test_a_size_that_other_tensors_are_given_too_is_copied() -> None:
    name = "flanked"
    proto = onnx.ModelProto()
    proto.CopyFrom(FORMS[name])
    other = onnx.helper.make_node("Expand", ["one", "wide"], ["o"])
    proto.graph.node.append(other)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, "f4"), "one"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, [None, None, 6]))
    document = decode(proto)
    (space,) = [s for s in spaces(document) if isinstance(s, Space)]
    write(document, space, restrict(read(document, space), np.array([1, 4])))
    results = Session(with_outputs(encode(document), ["h"]), CPU, threads=1).run({"x": inputs(proto, 0)})
    assert results["o"].shape == (4, 3, 6) and results["h"].shape == (4, 3, 2)
