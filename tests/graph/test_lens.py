"""The two laws of reading and writing a layer, for every way to write one; and that what is read is what runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, shape_inference

from graph_bounds import enclosures, unit
from graph_spellings import INPUTS, ROWS, Spelling, build, fitting, spellings
from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict, shrink, whole
from onnx_coreset.edge.runtime import Session, choose, with_outputs
from onnx_coreset.graph.lens import read, write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space, spaces

CPU = choose("cpu")
every_spelling = pytest.mark.parametrize("spelling", spellings(), ids=str)


def only(document: Document) -> Space:
    (space,) = [s for s in spaces(document) if isinstance(s, Space)]
    return space


def opened(spelling: Spelling) -> tuple[onnx.ModelProto, Document, Space]:
    model = build(spelling)
    document = decode(model)
    return model, document, only(document)


def drawn(layer: HiddenLayer, rng: np.random.Generator) -> Coreset:
    """Return a coreset with random neurons; some of its weights and constants are the layer's own."""
    size = int(rng.integers(2, layer.width + 1))
    kept = np.sort(rng.choice(layer.width, size, replace=False))
    outgoing = [
        r.outgoing[:, kept] if rng.random() < 0.2 else rng.standard_normal((r.outputs, size, 1)) for r in layer.readouts
    ]
    constant = [r.constant if rng.random() < 0.2 else rng.standard_normal(r.outputs) for r in layer.readouts]
    return Coreset(kept, tuple(outgoing), tuple(constant))


def written(spelling: Spelling) -> tuple[onnx.ModelProto, HiddenLayer, Coreset, onnx.ModelProto]:
    model, document, space = opened(spelling)
    layer = read(document, space)
    coreset = drawn(layer, np.random.default_rng(spelling.seed))
    write(document, space, coreset)
    return model, layer, coreset, encode(document)


def sample(spelling: Spelling) -> np.ndarray:
    shape = [ROWS if size == "N" else size for size in spelling.shape]
    return np.random.default_rng(spelling.seed).standard_normal(shape).astype(spelling.dtype)


def offsets(space: Space, count: int) -> list[np.ndarray]:
    """Return what the bias inputs of each consumer add to row i beyond what they add to row 0, (count, k)."""
    found = []
    for consumer, _ in space.consumers:
        bias = consumer.bias()
        extra = np.zeros((count, consumer.outputs))
        if bias is not None and bias.node is consumer.dense.node:
            stored = consumer.dense.document.constant(bias.node.inputs[bias.index]).astype("f8")
            right = consumer.dense.axes.axis == -1
            full = np.broadcast_to(stored, extra.shape if right else extra.T.shape)
            full = full if right else full.T
            extra = extra + bias.factor * (full - full[:1])
        found.append(extra)
    return found


def run(model: onnx.ModelProto, space: Space, x: np.ndarray) -> list[np.ndarray]:
    names = [consumer.output.name for consumer, _ in space.consumers]
    results = Session(with_outputs(model, names), CPU, threads=1).run({"x": x}, names)
    axes = [consumer.dense.axes.axis for consumer, _ in space.consumers]
    return [rows(results[name].astype("f8"), axis) for name, axis in zip(names, axes, strict=True)]


def rows(values: np.ndarray, axis: int) -> np.ndarray:
    turned = np.moveaxis(values, axis, -1)
    return turned.reshape(-1, turned.shape[-1])


def assert_runs_as_read(model: onnx.ModelProto, spelling: Spelling, slack: list[np.ndarray] | None = None) -> None:
    """ONNX Runtime's outputs must lie where rounding may have moved the outputs of the layer that was read."""
    document = decode(model)
    space = only(document)
    x = sample(spelling)
    flat = rows(x, space.input_axis).astype("f8")
    layer = read(document, space)
    values = [r.apply(r.features.evaluate(flat)) for r in layer.readouts]
    bounds = enclosures(document, space, flat)
    for value, (low, high), got, extra, (consumer, _) in zip(
        values, bounds, run(model, space, x), offsets(space, len(flat)), space.consumers, strict=True
    ):
        fused = consumer.dense.fused
        if fused is not None:
            # What follows inside the operator is no part of the layer; it is increasing.
            value, low, high = (ELEMENTWISE[fused.op]([v], dict(fused.attributes)) for v in (value, low, high))
            low, high = low - 8 * unit(np.dtype("f4")), high + 8 * unit(np.dtype("f4"))
        half = np.maximum(high - value, value - low)
        assert np.all(half >= 0)
        assert np.all(np.abs(got - value - extra) <= half + 4 * unit(np.dtype(spelling.dtype)) * np.abs(extra))


@every_spelling
def test_a_spelling_is_one_space(spelling: Spelling) -> None:
    _, document, space = opened(spelling)
    assert len(space.consumers) == (1 if spelling.tails == "one" else 2)
    assert read(document, space).inputs == INPUTS


@every_spelling
def test_writing_all_neurons_with_their_own_weights_changes_no_byte(spelling: Spelling) -> None:
    model, document, space = opened(spelling)
    before = model.SerializeToString(deterministic=True)
    write(document, space, whole(read(document, space)))
    assert encode(document).SerializeToString(deterministic=True) == before


@every_spelling
def test_what_is_written_is_read_back_up_to_one_rounding(spelling: Spelling) -> None:
    _, layer, coreset, after = written(spelling)
    document = decode(after)
    again, wanted = read(document, only(document)), shrink(layer, coreset)
    kept = "f2" if "widened" in spelling.moves else spelling.dtype
    u, tiny = unit(np.dtype(kept)), float(np.finfo(kept).smallest_subnormal)
    # Taking alpha or beta out and putting it back costs two roundings in float64, and so does a bias that is shifted.
    exact = 3 * unit(np.dtype("f8"))
    grid = np.linspace(-3, 3, 13)[:, None]
    assert again.width == wanted.width and len(again.readouts) == len(wanted.readouts)
    for got, aim, old in zip(again.readouts, wanted.readouts, layer.readouts, strict=True):
        assert np.array_equal(got.features.incoming, aim.features.incoming)
        assert np.array_equal(got.features.bias, aim.features.bias)
        # Of fewer neurons, a composite may be recognised.
        assert aim.features.activation.name in ("composite", got.features.activation.name)
        t = np.broadcast_to(grid, (13, again.width))
        assert np.array_equal(got.features.activation(t), aim.features.activation(t))
        assert np.all(np.abs(got.outgoing - aim.outgoing) <= (u + exact) * np.abs(aim.outgoing) + 3 * tiny)
        shifted = exact * (np.abs(aim.constant) + np.abs(old.constant))
        assert np.all(np.abs(got.constant - aim.constant) <= u * np.abs(aim.constant) + shifted + 3 * tiny)


@every_spelling
def test_the_layer_read_is_what_onnx_runtime_computes(spelling: Spelling) -> None:
    assert_runs_as_read(build(spelling), spelling)


@every_spelling
def test_the_model_written_is_valid_and_computes_the_layer_read_back(spelling: Spelling) -> None:
    model, _, _, after = written(spelling)
    onnx.checker.check_model(after, full_check=True)
    shape_inference.infer_shapes(after, check_type=True, strict_mode=True, data_prop=True)
    assert_runs_as_read(after, spelling)
    assert [o.name for o in after.graph.output] == [o.name for o in model.graph.output]


@every_spelling
def test_restricting_keeps_every_stored_number_as_it_was(spelling: Spelling) -> None:
    model, document, space = opened(spelling)
    write(document, space, restrict(read(document, space), np.array([1, 4])))
    after = encode(document)
    assert len(after.graph.node) == len(model.graph.node)
    old = {t.name: numpy_helper.to_array(t) for t in constants(model)}
    for tensor in constants(after):
        if tensor.data_type == onnx.TensorProto.INT64:
            continue  # the target of a Reshape
        assert np.isin(numpy_helper.to_array(tensor), old[tensor.name]).all()


def constants(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    made = [(n.output[0], a.t) for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    named = [onnx.TensorProto() for _ in made]
    for copy, (name, tensor) in zip(named, made, strict=True):
        copy.CopyFrom(tensor)
        copy.name = name
    return [*model.graph.initializer, *named]


@pytest.mark.parametrize("consumer", ["gemm_rows", "gemm_column"])
def test_a_bias_that_differs_between_rows_is_moved_as_a_whole(consumer: str) -> None:
    spelling = fitting(Spelling(consumer=consumer, dtype="f8"))
    model, _, _, after = written(spelling)
    old, new = (offsets(only(decode(m)), ROWS)[0] for m in (model, after))
    # Sums of numbers below 8 in float64: three roundings.
    assert np.abs(old - new).max() <= 3 * 8 * unit(np.dtype("f8"))
