"""Whole models as networks of dense layers: which are read, that what is read is the model, and why others are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_coreset
from onnx_coreset.core.certificates import BoxDomain
from onnx_coreset.core.certificates.depth import Scaling, scaled_box
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.stages.ends import Ends, ends

D, N, M, K = 4, 12, 10, 3


def model(front: str = "", tail: str = "", shape: tuple[object, ...] = ("n", D), **more: np.ndarray) -> onnx.ModelProto:
    """x -> front -> Gemm, Relu, MatMul, Add, Tanh, Gemm -> tail -> y."""
    rng = np.random.default_rng(3)

    def array(*size: int) -> np.ndarray:
        return (0.5 * rng.standard_normal(size)).astype(np.float32)

    tensors = {"A": array(D, N), "a": array(N), "B": array(N, M), "b": array(M), "C": array(M, K), "c": array(K)} | more
    text = [f"{front} h = Gemm({'u' if front else 'x'}, A, a)", "r = Relu(h)", "l = MatMul(r, B)", "k = Add(l, b)"]
    text += ["t = Tanh(k)", f"{'v' if tail else 'y'} = Gemm(t, C, c)", tail]
    nodes = onnx.parser.parse_graph("g (float[n] x) => (float[n] y) {" + " ".join(text) + "}").node
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ROW = np.array([[1.0, -2.0, 0.5, 3.0]], np.float32)
READ: dict[str, tuple[onnx.ModelProto, tuple[str, ...], str]] = {
    "plain": (model(), (), ""),
    "one sample, flattened": (model("u = Flatten(x)", shape=(1, 2, 2)), (), ""),
    "reshaped": (model("u = Reshape(x, s)", shape=("n", 1, D), s=np.array([-1, D])), (), ""),
    "a mean and a spread": (
        model("w = Sub(x, m) u = Div(w, q)", m=ROW, q=np.array(2.5, np.float32)), ("difference", "quotient"), ""),
    "scaled in its own shape": (
        model("w = Mul(g, x) i = Identity(w) u = Flatten(i)", shape=("n", 2, 2), g=ROW.reshape(2, 2)), ("product",), ""
    ),
    "one number a row": (
        model("w = Add(x, g) u = Flatten(w)", shape=("n", 2, 2), g=np.array([[1.0], [5.0]], np.float32)), ("sum",), ""),
    "softmax": (model(tail="y = Softmax <axis = -1> (v)"), (), "Softmax"),
    "sigmoid, reshaped": (model(tail="w = Sigmoid(v) y = Flatten(w)"), (), "Sigmoid"),
}  # fmt: skip
REFUSED = {
    "another function behind": (model(tail="y = Tanh(v)"), "Tanh follows the last one"),
    "two functions behind": (model(tail="w = Sigmoid(v) y = Sigmoid(w)"), "Sigmoid follows"),
    "a softmax over samples": (model(tail="y = Softmax <axis = 0> (v)"), "another axis"),
    "a function in front": (model("u = Tanh(x)"), "does not read a model input"),
    "a constant minus the input": (model("u = Sub(m, x)", m=ROW), "does not read a model input"),
    "a constant by sample": (model("u = Mul(x, m)", shape=(2, D), m=np.ones((2, 1), np.float32)), "does not read"),
    "samples in pairs": (model("u = Reshape(x, s)", shape=("n", 2), s=np.array([-1, D])), "not one row of 4 numbers"),
    "unknown sizes": (model("u = Flatten(x)", shape=("n", "m", 2)), "not one row of 4 numbers"),
    "a sum of both": (model(tail="p = MatMul(x, P) y = Add(v, p)", P=np.ones((D, K), np.float32)), "layers alone"),
}  # fmt: skip


def shrunk(proto: onnx.ModelProto, **options: object) -> tuple[onnx.ModelProto, Ends | str]:
    result = onnx_coreset.optimize(proto, **({"ratio": 0.5} | options))
    kept = {chain.name: np.asarray(chain.kept) for chain in result.report.chains if chain.kept is not None}
    return result.model, ends(decode(proto), result.model, kept)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The outputs of samples (N, D), one run a sample."""
    session = Session(proto, choose("cpu"))
    dims = [d.dim_value or 1 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    return np.concatenate([session.run({"x": row.reshape(dims)}, ["y"])["y"].reshape(1, -1) for row in x])


@pytest.mark.parametrize("name", READ)
def test_what_is_read_computes_what_the_models_do(name: str) -> None:
    proto, kinds, tail = READ[name]
    result, found = shrunk(proto)
    assert isinstance(found, Ends), found
    assert (found.input, found.output, tuple(step.kind for step in found.front), found.tail) == ("x", "y", kinds, tail)
    assert [layer.width for layer in found.pair.after.hidden] == [N // 2, M // 2]
    x = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    h = x.astype(np.float64)
    for step in found.front:
        h = step(h)
    for net, own in ((found.pair.before, proto), (found.pair.after, result)):
        y = net(h)
        if tail == "Softmax":
            y = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
        y = 1.0 / (1.0 + np.exp(-y)) if tail == "Sigmoid" else y
        assert np.allclose(y, run(own, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", READ)
def test_models_differ_by_no_more_than_is_certified(name: str) -> None:
    proto, _, tail = READ[name]
    result, found = shrunk(proto)
    assert isinstance(found, Ends)
    box = BoxDomain(np.full(D, -0.1), np.full(D, 0.3))
    proven = found.certify(box, np.random.default_rng(1), seconds=1.0)
    x = np.random.default_rng(2).uniform(-0.1, 0.3, (200, D)).astype(np.float32)
    apart = np.abs(run(proto, x) - run(result, x)).max(axis=0)
    assert np.all(apart <= found.at_output(proven.certified + proven.rounding) + (2e-7 if tail else 0.0))
    assert np.all(proven.attacked <= proven.certified) and np.all(proven.certified <= 2.0 * proven.attacked)
    assert found.at_output(proven.attacked).shape == (K,)


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_with_the_reason(name: str) -> None:
    proto, reason = REFUSED[name]
    found = ends(decode(proto), proto, {})
    assert isinstance(found, str) and reason in found


def test_layers_that_stay_whole_keep_every_neuron() -> None:
    proto = model()
    _, found = shrunk(proto, exclude=["t"])
    assert isinstance(found, Ends)
    assert [kept.size for kept in found.pair.kept] == [N // 2, M]
    assert found.pair.twins[1][0].size == M


def test_a_model_of_other_widths_is_refused() -> None:
    proto = model()
    result, _ = shrunk(proto)
    assert ends(decode(proto), result, {}) == "the narrower model has other widths"


def test_polished_weights_are_those_of_the_model() -> None:
    proto = model()
    result, found = shrunk(proto, polish=True)
    assert isinstance(found, Ends)
    x = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    assert np.allclose(found.pair.after(x.astype(np.float64)), run(result, x), rtol=0, atol=1e-5)


def test_a_box_is_scaled_outwards_and_rounding_is_counted() -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((3, D)) + 3.0
    steps = [Scaling("difference", values[0]), Scaling("quotient", -values[1]), Scaling("product", values[2])]
    box = BoxDomain(-np.ones(D), np.ones(D))
    found, off = scaled_box(box, steps, 2.0**-24)
    x = rng.uniform(-1.0, 1.0, (500, D)).astype(np.float32)
    exact, single = x.astype(np.float64), x
    for step in steps:
        exact = step(exact)
        v = step.values.astype(np.float32)
        single = {"difference": single - v, "quotient": single / v, "product": single * v}[step.kind]
    assert np.all(exact >= found.low) and np.all(exact <= found.high)
    rounded = [Scaling(step.kind, step.values.astype(np.float32)) for step in steps]
    found, off = scaled_box(box, rounded, 2.0**-24)
    exact = rounded[2](rounded[1](rounded[0](x.astype(np.float64))))
    assert np.all(np.abs(single - exact) <= off) and np.all(off < 1e-5)
    with pytest.raises(ValueError, match="finite"):
        scaled_box(box, [Scaling("quotient", np.zeros(D))], 2.0**-24)
    with pytest.raises(ValueError, match="does not fit"):
        scaled_box(box, [Scaling("sum", np.zeros(D + 1))], 2.0**-24)


def test_tails_bound_what_they_do_to_a_difference() -> None:
    rng = np.random.default_rng(5)
    pair = shrunk(model(tail="y = Softmax <axis = -1> (v)"))[1]
    assert isinstance(pair, Ends)
    for _ in range(200):
        z, moved = rng.standard_normal(K), 0.3 * rng.standard_normal(K)
        p, q = (np.exp(v) / np.exp(v).sum() for v in (z, z + moved))
        assert np.all(np.abs(p - q) <= pair.at_output(np.abs(moved)))
