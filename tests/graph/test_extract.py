"""A layer alone: what is extracted computes the layer that was read, whole and narrowed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, shape_inference

from graph_bounds import enclosures, unit
from graph_layers import array, found, model, parsed
from graph_spellings import INPUTS, Spelling, build, fitting, spellings
from onnx_coreset.core.layer import Coreset, HiddenLayer, shrink, whole
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.graph.extract import extract, shrunk
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space

CPU = choose("cpu")
SAMPLES = 9
every_spelling = pytest.mark.parametrize("spelling", spellings(count=1, seed=1), ids=str)


def only(proto: onnx.ModelProto) -> tuple[Document, Space]:
    document, (space,), _ = found(proto)
    return document, space


def drawn(layer: HiddenLayer, size: int, seed: int) -> Coreset:
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(layer.width, size, replace=False))
    outgoing = tuple(rng.standard_normal((r.outputs, size, 1)) for r in layer.readouts)
    return Coreset(kept, outgoing, tuple(rng.standard_normal(r.outputs) for r in layer.readouts))


def assert_computes(alone: onnx.ModelProto, layer: HiddenLayer, x: np.ndarray, rounding: float = 0.0) -> None:
    """The model must give what the layer does, within rounding, its weights themselves rounded by `rounding`."""
    session = Session(alone, CPU, threads=1)
    assert [spec.name for spec in session.inputs] == [alone.graph.input[0].name]
    results = session.run({alone.graph.input[0].name: x})
    flat = x.reshape(-1, x.shape[-1]).astype("f8")
    bounds = enclosures(*only(alone), flat)
    for readout, (low, high), output in zip(layer.readouts, bounds, alone.graph.output, strict=True):
        got = results[output.name].astype("f8").reshape(-1, readout.outputs)
        features = readout.features.evaluate(flat)
        size = np.abs(features[:, :, 0]) @ np.abs(readout.outgoing[:, :, 0]).T + np.abs(readout.constant)
        aim = readout.apply(features)
        slack = np.maximum(high - aim, aim - low) + 2 * rounding * size
        assert len(got) == len(aim) and np.all(np.abs(got - aim) <= slack)
        assert np.all(slack <= 0.1 * (1 + size)) or x.dtype == np.float16


@every_spelling
@pytest.mark.parametrize("rank", [2, 3])
def test_an_extracted_layer_computes_the_layer(spelling: Spelling, rank: int) -> None:
    document, space = only(build(spelling))
    flat = 2 + spelling.left if "batch_norm" in spelling.region else None
    # A slope may have no more axes than its data.
    rank = space.input_rank or flat or (spelling.rank if "prelu" in spelling.region else rank)
    alone = extract(document, space, rank)
    x = np.random.default_rng(1).standard_normal([*[1] * (rank - 3), SAMPLES, 2, INPUTS][-rank:]).astype(spelling.dtype)
    layer = read(document, space)
    assert_computes(alone, layer, x)
    again = read(*only(alone))
    for ours, theirs in zip(again.readouts, layer.readouts, strict=True):
        assert np.array_equal(ours.outgoing, theirs.outgoing) and np.array_equal(ours.constant, theirs.constant)
    for size in (2, layer.width):
        coreset = drawn(layer, size, spelling.seed)
        narrower = shrunk(alone, space.name, coreset)
        assert_computes(narrower, shrink(layer, coreset), x, unit(np.dtype(spelling.dtype)))
    assert shrunk(alone, space.name, whole(layer)) == alone


@pytest.mark.parametrize("spelling", [Spelling(), Spelling(producer="matmul_add", consumer="matmul")], ids=str)
def test_one_neuron_is_a_layer_too(spelling: Spelling) -> None:
    document, space = only(build(spelling))
    coreset = drawn(read(document, space), 1, 0)
    x = array(SAMPLES, INPUTS)
    narrower = shrunk(extract(document, space), space.name, coreset)
    got = next(iter(Session(narrower, CPU, threads=1).run({"x": x}).values()))
    (aim,) = shrink(read(document, space), coreset).evaluate(x)
    # Sums of 6 products of numbers below 8, float32.
    assert np.abs(got - aim).max() <= 2 * 64 * 6 * unit(np.dtype("f4"))


def test_a_fixed_number_of_rows_does_not_bind_the_layer_alone() -> None:
    proto = model("h = MatMul(x, A)", "z = Relu(h)", "y = MatMul(z, B)", inputs={"x": [1, 3]})
    document, space = only(proto)
    x = array(50, 3)
    assert_computes(extract(document, space), read(document, space), x)


@pytest.mark.parametrize("shape", [(3, 5), (3, 1)])
def test_a_bias_for_each_row_does_not_bind_the_layer_alone(shape: tuple[int, int]) -> None:
    proto = model("h = MatMul(x, A)", "z = Relu(h)", "y = Gemm(z, B, c)", inputs={"x": [3, 3]}, c=array(*shape))
    document, space = only(proto)
    assert_computes(extract(document, space), read(document, space), array(50, 3))


def test_a_layer_that_changes_its_dtype_gives_the_dtype_of_its_consumer() -> None:
    nodes = ("h = MatMul(x, A)", parsed("w = Cast(h)", to=TensorProto.DOUBLE), "z = Tanh(w)", "y = MatMul(z, W)")
    document, space = only(model(*nodes, W=array(6, 2, dtype="f8")))
    alone = extract(document, space)
    assert alone.graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    x = array(SAMPLES, 3)
    (got,) = Session(alone, CPU, threads=1).run({"x": x}).values()
    (aim,) = read(document, space).evaluate(x)
    # The product of 3 terms is rounded in float32, and carried by weights whose rows sum to less than 20.
    assert np.abs(got - aim).max() <= 20 * 4 * unit(np.dtype("f4")) * 3 * 16


def test_batch_normalization_behind_a_matmul_survives_extraction() -> None:
    spelling = fitting(Spelling(producer="matmul", region="batch_norm", consumer="matmul"))
    document, space = only(build(spelling))
    alone = extract(document, space)
    assert_computes(shrunk(alone, space.name, whole(read(document, space))), read(document, space), array(4, INPUTS))


def test_a_layer_in_a_subgraph_is_extracted_from_there() -> None:
    nodes = [parsed("h = MatMul(x, A)"), parsed("z = Relu(h)"), parsed("o = MatMul(z, B)")]
    body = helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])
    other = helper.make_graph([parsed("p = MatMul(x, K)")], "c", [], body.output)
    other.output[0].name = "p"
    branch = helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=other)
    document, space = only(model(branch, infer=False, condition=np.asarray(True), K=array(3, 5)))
    assert_computes(extract(document, space), read(document, space), array(SAMPLES, 3))


def test_an_extracted_layer_infers_without_a_conflict() -> None:
    document, space = only(build(Spelling(producer="matmul_add", consumer="matmul", rank=4, infos=True)))
    for rank in (2, 3, 4):
        shape_inference.infer_shapes(extract(document, space, rank), check_type=True, strict_mode=True)


def test_extraction_leaves_the_document_as_it_was() -> None:
    proto = build(Spelling(infos=True))
    document, space = only(proto)
    extract(document, space)
    assert decode(proto).proto == document.proto
