"""What widths cost in parameters: the tally of every form is that of the written model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graph_forms import FORMS
from graph_layers import array, found, model
from graph_spellings import build, spellings
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.graph.tally import fewer, tally

INT64 = onnx.TensorProto.INT64
SPELLED = {f"{index}": build(spelling) for index, spelling in enumerate(spellings(1)[::7])}
SHARED = ("h = MatMul(x, A)", "z = Relu(h)", "p = MatMul(z, B)", "k = MatMul(x, A)", "w = Tanh(k)", "q = MatMul(w, B)")
ONE_BIAS = ("h = Gemm(x, A, a)", "z = Relu(h)", "u = Gemm(z, S, a)", "v = Relu(u)", "y = MatMul(v, B)")
NUMBER = ("h = MatMul(x, A)", "z = Relu(h)", "t = MatMul(z, B)", "u = Add(one, t)", "v = Tanh(u)", "y = MatMul(v, C)")
ROW = ("h = MatMul(x, A)", "z = Relu(h)", "u = MatMul(z, B)", "v = Tanh(u)", "s = MatMul(v, C)", "w = Relu(s)")
MODELS = {
    "three in a row": model(*ROW, "y = MatMul(w, D)", D=array(4, 2)),
    "two that share": model(*SHARED, "y = Add(p, q)"),
    "three that share": model(*SHARED, "i = MatMul(x, A)", "j = MatMul(i, B)", "y = Sum(p, q, j)"),
    "one is also an output": model(*SHARED, "n = MatMul(x, A)", "y = Add(p, q)", outputs="y n", B=array(6, 40)),
    "makes and reads": model("h = MatMul(x, S)", "z = Relu(h)", "y = MatMul(z, S)", inputs={"x": ["N", 6]}),
    "one bias for two": model(*ONE_BIAS),
    "a number for a bias": model(*NUMBER, one=array(1)),
    "a vector twice": model("h = MatMul(x, A)", "s = Mul(h, a)", "t = Tanh(s)", "z = Add(t, a)", "y = MatMul(z, B)"),
}  # fmt: skip
EVERY = {**{f"form {name}": proto for name, proto in FORMS.items()}, **MODELS, **SPELLED}


@pytest.mark.parametrize("name", EVERY)
def test_a_tally_is_what_the_written_model_holds(name: str) -> None:
    proto: onnx.ModelProto = EVERY[name]
    document, spaces, _ = found(proto)
    layers = {space.name: read(document, space) for space in spaces}
    counted = tally(proto, layers)
    rng = np.random.default_rng(0)
    assert counted.count(counted.full) == parameters(proto)
    for _ in range(8):
        widths = [int(rng.integers(1, n + 1)) if rng.random() < 0.8 else n for n in counted.full]
        asked = dict(zip(layers, widths, strict=True))
        narrower = {n: fewer(layers[n], m) for n, m in asked.items() if m < layers[n].width}
        result, whole = cut(proto, narrower)
        left = [layers[n].width if n in whole else m for n, m in asked.items()]
        # Nodes that only moved a bias go with it, and with them the integers that said how.
        settings = sum(t.dims[0] if t.dims else 1 for t in proto.graph.initializer if t.data_type == INT64)
        if all(layout.totals(space.width) is not None for space in spaces for layout in space.layouts):
            assert 0 <= counted.count(left) - parameters(result) <= settings
        for chain in range(len(left)):
            start, slope, uncut = counted.line(chain, left)
            for m in (1, counted.full[chain] - 1, counted.full[chain]):
                moved = [*left[:chain], m, *left[chain + 1 :]]
                expected = counted.count(moved) - counted.count(left)
                now = start + slope * left[chain] if left[chain] < counted.full[chain] else uncut
                # Counts are rounded, once each.
                assert abs((start + slope * m if m < counted.full[chain] else uncut) - now - expected) <= 1.0
