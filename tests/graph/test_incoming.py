"""New incoming weights are written where the old ones stood, for every way to write a layer, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from graph_bounds import unit
from graph_forms import FORMS, G, K
from graph_layers import array, model, parsed
from graph_linear import PRODUCERS
from graph_spellings import Spelling, build, fitting, spellings
from onnx_coreset.core.layer import Coreset, Gated, HiddenLayer, Neurons, shrink
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.graph.incoming import Factor, factors
from onnx_coreset.graph.lens import read, write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space, spaces

LARGEST = 8.0
"""No weight or bias of these models, nor a sum of two, is larger."""
SWISH = ["s = Sigmoid(g)", "f = Mul(g, s)", "z = Mul(f, u)", "y = MatMul(z, B)"]
NORM = array(6) ** 2 + np.float32(0.1)
MODELS: dict[str, onnx.ModelProto] = {
    "an Add": model("h = MatMul(x, A)", "t = Add(h, a)", "z = Relu(t)", "y = MatMul(z, B)"),
    "two Adds": model("h = MatMul(x, A)", "t = Add(h, a)", "u = Add(a, t)", "z = Relu(u)", "y = MatMul(z, B)"),
    "a bias and an Add": model("h = Gemm(x, A, a)", "t = Add(a, h)", "z = Relu(t)", "y = MatMul(z, B)"),
    "an Add behind the activation": model("h = MatMul(x, A)", "t = Relu(h)", "z = Add(t, a)", "y = MatMul(z, B)"),
    "an Add of one of two readers": model(
        "h = MatMul(x, A)", "t = Add(h, a)", "r = Relu(t)", "z = Mul(r, h)", "y = MatMul(z, B)"
    ),
    "an Add on reversed neurons": model(
        "h = MatMul(x, A)", parsed("r = Gather(h, i)", axis=-1), "d = Add(r, a)", "z = Relu(d)", "y = MatMul(z, B)",
        i=np.arange(6)[::-1],
    ),
    "separate gate and factor": model("g = Gemm(x, A, a)", "u = Gemm(x, G, v)", *SWISH, G=G, v=array(6)),
    "gate and factor with one bias": model("g = Gemm(x, A, a)", "u = Gemm(x, G, a)", *SWISH, G=G),
    "gate and factor with an Add each": model(
        "k = MatMul(x, A)", "g = Add(k, a)", "m = MatMul(x, G)", "u = Add(a, m)", *SWISH, G=G
    ),
    "fused gate and factor": model("h = Gemm(x, K, k)", parsed("g, u = Split(h)", axis=-1), *SWISH, K=K, k=array(12)),
    "fused, one Add": model(
        "m = MatMul(x, K)", "h = Add(m, k)", parsed("g, u = Split(h)", axis=-1), *SWISH, K=K, k=array(12)
    ),
    "fused, an Add for each half": model(
        "h = MatMul(x, K)", parsed("p, q = Split(h)", axis=-1), "g = Add(p, a)", "u = Add(q, a)", *SWISH, K=K
    ),
    "gate and factor with equal weights": model("g = MatMul(x, A)", "m = MatMul(x, A)", "u = Add(m, a)", *SWISH),
    "batch norm in front": model(
        "h = Gemm(x, A, a)", "t = BatchNormalization(h, a, a, a, v)", "z = Relu(t)", "y = MatMul(z, B)", v=NORM
    ),
    "batch norm behind": model(
        "h = Gemm(x, A, a)", "t = Relu(h)", "z = BatchNormalization(t, a, a, a, v)", "y = MatMul(z, B)", v=NORM
    ),
    "two heads": model("h = Gemm(x, A, a)", "z = Relu(h)", "y = Gemm(z, B, b)", "o = MatMul(z, S)", outputs="y o"),
    "one weight for two layers": model(
        "h = Gemm(x, A, a)", "z = Relu(h)", "y = MatMul(z, B)", "k = Gemm(x, A, a)", "q = Tanh(k)", "o = MatMul(q, B)",
        outputs="y o",
    ),
}  # fmt: skip
FIXED = {"batch norm in front", "gate and factor with equal weights"}
"""Models whose incoming weights may not be replaced."""
BIASED = {
    "an Add", "two Adds", "a bias and an Add", "separate gate and factor", "gate and factor with one bias",
    "gate and factor with an Add each", "fused gate and factor", "fused, an Add for each half", "batch norm behind",
    "two heads", "one weight for two layers",
}  # fmt: skip
"""Models all of whose biases may be replaced; of the others none may."""
CASES = [
    *(pytest.param(build(s), "f2" if "widened" in s.moves else s.dtype, id=str(s)) for s in spellings(2, seed=1)),
    *(pytest.param(proto, "f4", id=name) for name, proto in {**FORMS, **MODELS}.items()),
]


def movable(document: Document) -> list[tuple[Space, HiddenLayer, tuple[Factor, ...]]]:
    """Return the spaces whose incoming weights can be replaced, with what they read as."""
    found = []
    for space in (s for s in spaces(document) if isinstance(s, Space)):
        layer = read(document, space)
        features = layer.readouts[0].features
        places = factors(document, space, layer.readouts[0])
        if places is not None and all(readout.features is features for readout in layer.readouts):
            found.append((space, layer, places))
    return found


def parts(layer: HiddenLayer) -> tuple[Neurons, ...]:
    features = layer.readouts[0].features
    if isinstance(features, Gated):
        return features.gate, features.up
    assert isinstance(features, Neurons)
    return (features,)


def drawn(layer: HiddenLayer, places: tuple[Factor, ...], seed: int) -> Coreset:
    """Return a coreset with random neurons and weights; biases that may not be replaced are the neurons' own."""
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(layer.width, int(rng.integers(2, layer.width + 1)), replace=False))
    incoming = tuple(
        (
            rng.uniform(-2, 2, (kept.size, layer.inputs)),
            rng.uniform(-2, 2, kept.size) if place.biased else part.bias[kept],
        )
        for part, place in zip(parts(layer), places, strict=True)
    )
    outgoing = tuple(rng.standard_normal((r.outputs, kept.size, 1)) for r in layer.readouts)
    return Coreset(kept, outgoing, tuple(r.constant for r in layer.readouts), incoming=incoming)


@pytest.mark.parametrize(("proto", "stored"), CASES)
def test_what_is_written_is_read_back_up_to_one_rounding(proto: onnx.ModelProto, stored: str) -> None:
    u = unit(np.dtype(stored)) + 4 * unit(np.dtype("f8"))
    for index in range(len(movable(decode(proto)))):
        document = decode(proto)
        space, layer, places = movable(document)[index]
        coreset = drawn(layer, places, index)
        write(document, space, coreset)
        written = encode(document)
        onnx.checker.check_model(written, full_check=True)
        document = decode(written)
        again = read(document, next(s for s in spaces(document) if isinstance(s, Space) and s.name == space.name))
        wanted = shrink(layer, coreset)
        assert again.width == wanted.width
        for got, aim, place in zip(parts(again), parts(wanted), places, strict=True):
            assert np.all(np.abs(got.incoming - aim.incoming) <= u * np.abs(aim.incoming))
            slack = u * (np.abs(aim.bias) + LARGEST) if place.biased else 0.0
            assert np.all(np.abs(got.bias - aim.bias) <= slack)
            t = np.linspace(-3, 3, 13)[:, None] * np.ones(got.width)
            assert np.array_equal(got.activation(t), aim.activation(t))
        for mine, other in zip(again.readouts, wanted.readouts, strict=True):
            assert np.all(np.abs(mine.outgoing - other.outgoing) <= 2 * u * np.abs(other.outgoing))


@pytest.mark.parametrize("name", MODELS)
def test_it_is_known_what_may_be_replaced(name: str) -> None:
    found = movable(decode(MODELS[name]))
    assert bool(found) == (name not in FIXED)
    assert all(place.biased == (name in BIASED) for _, _, places in found for place in places)


@pytest.mark.parametrize("producer", PRODUCERS)
def test_weights_of_every_linear_operator_may_be_replaced(producer: str) -> None:
    spelling = fitting(Spelling(producer=producer, consumer="left_matmul" if "left" in producer else "matmul"))
    # What a constant minus the product is has the rows' negatives for weights.
    assert bool(movable(decode(build(spelling)))) == (producer not in ("sub_matmul", "left_matmul_sub"))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in FIXED])
def test_the_model_written_computes_the_layer_that_was_asked_for(name: str) -> None:
    document = decode(MODELS[name])
    space, layer, places = movable(document)[0]
    coreset = drawn(layer, places, 3)
    write(document, space, coreset)
    x = np.random.default_rng(0).standard_normal((9, 3)).astype("f4")
    results = Session(encode(document), choose("cpu"), threads=1).run({"x": x})
    for output, wanted in zip("yo", shrink(layer, coreset).evaluate(x.astype("f8")), strict=False):
        # Sums of at most 6 products, behind sums of at most 3, in float32.
        size = LARGEST * 6 * (1 + np.abs(wanted).max())
        assert np.abs(results[output] - wanted).max() <= 16 * unit(np.dtype("f4")) * size


def test_another_reader_of_a_weight_and_a_bias_keeps_them() -> None:
    proto = MODELS["one weight for two layers"]
    document = decode(proto)
    space, layer, places = movable(document)[0]
    write(document, space, drawn(layer, places, 0))
    x = np.random.default_rng(0).standard_normal((9, 3)).astype("f4")
    old, new = (Session(m, choose("cpu"), threads=1).run({"x": x}) for m in (proto, encode(document)))
    assert np.array_equal(old["o"], new["o"]) and not np.array_equal(old["y"], new["y"])


def test_weights_that_may_not_be_replaced_are_refused() -> None:
    document = decode(MODELS["batch norm in front"])
    (space,) = [s for s in spaces(document) if isinstance(s, Space)]
    layer = read(document, space)
    (part,) = parts(layer)
    coreset = Coreset(
        np.arange(2),
        tuple(r.outgoing[:, :2] for r in layer.readouts),
        tuple(r.constant for r in layer.readouts),
        incoming=((part.incoming[:2], part.bias[:2]),),
    )
    with pytest.raises(ValueError, match="cannot be replaced"):
        write(document, space, coreset)


def test_weights_for_features_of_another_kind_are_refused() -> None:
    layer = movable(decode(MODELS["separate gate and factor"]))[0][1]
    part = parts(layer)[0]
    coreset = Coreset(
        np.arange(6),
        tuple(r.outgoing for r in layer.readouts),
        tuple(r.constant for r in layer.readouts),
        incoming=((part.incoming, part.bias),),
    )
    with pytest.raises(ValueError, match="another kind"):
        shrink(layer, coreset)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in FIXED and name not in BIASED])
def test_a_bias_that_may_not_be_replaced_is_left_alone(name: str) -> None:
    document = decode(MODELS[name])
    space, layer, places = movable(document)[0]
    coreset = drawn(layer, places, 1)
    assert coreset.incoming is not None
    write(document, space, replace(coreset, incoming=tuple((w, b + 1) for w, b in coreset.incoming)))
    after = decode(encode(document))
    for got, (_, wanted) in zip(parts(movable(after)[0][1]), coreset.incoming, strict=True):
        assert np.array_equal(got.bias, wanted)
