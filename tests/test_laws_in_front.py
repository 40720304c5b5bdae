"""What cannot be run is shrunk under the law of the normalisation in front; the report doubts laws that differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from api_models import built
from onnx_coreset import optimize
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.space import Space, spaces
from onnx_coreset.report import ChainReport, Report
from onnx_coreset.stages.front import law_in_front

FLOAT = TensorProto.FLOAT
D, N, K = 80, 64, 6
RNG = np.random.default_rng(0)
GAMMA = np.exp(RNG.standard_normal(D)).astype("f4")
BETA = RNG.standard_normal(D).astype("f4")
CPU = {"provider": "cpu", "certify": "off", "samples": 512, "polish": False}


def behind(
    norm: Sequence[onnx.NodeProto], weights: float = 1.0, bias: float = 0.0, odd: bool = True
) -> onnx.ModelProto:
    """x -> norm -> n -> Gemm, Relu, MatMul -> y, and behind that an operator that nobody knows, if `odd`."""
    rng = np.random.default_rng(1)
    tensors = {
        "g": GAMMA,
        "b": BETA,
        "W": (weights * rng.standard_normal((D, N)) / math.sqrt(D)).astype("f4"),
        "c": np.full(N, bias, "f4"),
        "V": rng.standard_normal((N, K)).astype("f4"),
    }
    nodes = [
        *norm,
        helper.make_node("Gemm", ["n", "W", "c"], ["t"]),
        helper.make_node("Relu", ["t"], ["h"]),
        helper.make_node("MatMul", ["h", "V"], ["y"]),
    ]
    if odd:
        nodes.append(helper.make_node("Odd", ["y"], ["z"], domain="my.ops"))
    ends = {"x": (FLOAT, ["N", D])}, {"z" if odd else "y": (FLOAT, ["N", K])}
    read = {name for node in nodes for name in node.input}
    return built(nodes, *ends, {k: v for k, v in tensors.items() if k in read}, ["my.ops"])


NORM = [helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1)]
PLAIN = [helper.make_node("Tanh", ["x"], ["n"])]


def cut(report: Report) -> list[ChainReport]:
    return [chain for chain in report.chains if chain.status == "pruned"]


def test_what_cannot_be_run_is_shrunk_under_the_law_of_the_norm() -> None:
    report = optimize(behind(NORM), ratio=0.5, **CPU).report
    (chain,) = cut(report)
    assert chain.law == "LayerNorm in front" and report.validation.passed is None
    domain = chain.error.domain
    assert (domain.kind, domain.proven, chain.error.outside) == ("ellipsoid", True, 0)
    assert domain.radius == pytest.approx(math.sqrt(D) * (1 + 1e-5), rel=1e-12)
    np.testing.assert_array_equal(domain.centre, BETA.astype("f8"))
    assert chain.error.rms is not None and chain.error.rms > 0


def test_the_error_is_that_of_rows_that_the_norm_can_give() -> None:
    """The error reported is the one on real rows: the norm of random inputs, computed here."""
    model = behind(NORM)
    result = optimize(model, ratio=0.5, **CPU)
    x = np.random.default_rng(5).standard_normal((20_000, D))
    u = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    rows = GAMMA * u + BETA

    def outputs(proto: onnx.ModelProto) -> np.ndarray:
        w, c, v = (numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == n)) for n in "WcV")
        extra = [numpy_helper.to_array(t) for t in proto.graph.initializer if t.name not in "WcVgb"]
        return np.maximum(rows @ w + c, 0) @ v + sum(extra, np.zeros(K))

    error = np.sqrt(np.mean((outputs(result.model) - outputs(model)) ** 2))
    # 128 validation rows: their mean of squares, each about chi-squared over 6 outputs, is off by 5 % at one sigma, and
    # its root by half of that; ten sigma leave room for outputs that err together.
    assert cut(result.report)[0].error.rms == pytest.approx(error, rel=0.25)


def test_a_ball_that_was_asked_for_stays_one() -> None:
    (chain,) = cut(optimize(behind(NORM), ratio=0.5, inputs="ball", **CPU).report)
    assert chain.law.startswith("ball ") and chain.error.domain.kind == "ball"


def test_without_a_norm_it_is_a_ball() -> None:
    (chain,) = cut(optimize(behind(PLAIN), ratio=0.5, **CPU).report)
    assert chain.law.startswith("ball ")


def test_a_bfloat16_norm_is_a_law_but_proves_nothing() -> None:
    model = behind(NORM)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    (chain,) = cut(optimize(model, ratio=0.5, **CPU).report)
    assert chain.law == "LayerNorm in front" and chain.error.domain.proven is False
    # Rounded to eight bits, some rows leave the ellipsoid, and are counted.
    assert chain.error.outside is not None and chain.error.outside > 0


def test_a_layer_behind_gets_the_radius_that_the_ellipsoid_proves() -> None:
    norm = behind(NORM)
    # Far larger than the weights: a radius that forgets it is too small.
    norm.graph.initializer[0].CopyFrom(numpy_helper.from_array(50 * GAMMA, "g"))
    norm.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((N, 20)).astype("f4"), "W2"))
    norm.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((20, K)).astype("f4"), "V2"))
    more = [("MatMul", "h W2", "t2"), ("Relu", "t2", "h2"), ("MatMul", "h2 V2", "y")]
    nodes = [n for n in norm.graph.node if "y" not in n.output and n.op_type != "Odd"]
    del norm.graph.node[:]
    norm.graph.node.extend([*nodes, *(helper.make_node(op, i.split(), [o]) for op, i, o in more)])
    norm.graph.node.append(helper.make_node("Odd", ["y"], ["z"], domain="my.ops"))
    chains = cut(optimize(norm, ratio=0.5, **CPU).report)
    assert [chain.name for chain in chains] == ["h", "h2"] and "propagated" in chains[1].law
    document = decode(norm)
    (space, _) = [place for place in spaces(document) if isinstance(place, Space)]
    law = law_in_front(document, space)
    assert law is not None and chains[1].error.domain.radius is not None
    weights, bias = space.producer.read()
    reached = np.linalg.norm(np.maximum(law.sample(20_000, RNG) @ weights.T + bias, 0), axis=1).max()
    assert reached <= chains[1].error.domain.radius


def notes(model: onnx.ModelProto, word: str, **options: object) -> list[str]:
    report = optimize(model, ratio=0.5, **{**CPU, **options}).report
    return [note for note in report.validation.notes if word in note]


def test_laws_that_agree_raise_no_doubt() -> None:
    assert notes(behind(NORM, odd=False), "") == []


def test_an_error_that_another_law_makes_four_times_as_large_is_told() -> None:
    """Inputs that span a plane: what is fitted to them fails on all that the norm can give."""
    plane = np.random.default_rng(2).standard_normal((2, D)).astype("f4")
    nodes = [helper.make_node("MatMul", ["x2", "P"], ["x"]), *NORM]
    model = behind(nodes, odd=False)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x2", FLOAT, ["N", 2]))
    model.graph.initializer.append(numpy_helper.from_array(plane, "P"))
    (note,) = notes(model, "in front is")
    assert note.startswith("the error of h under the law of the LayerNorm in front is ") and " times that under" in note
    assert float(note.split(" is ")[1].split(" times")[0]) > 4


@pytest.mark.parametrize(("bias", "doubted"), [(6.0, True), (-6.0, True), (0.0, False)])
def test_gates_that_never_move_are_told(bias: float, doubted: bool) -> None:
    # The deviation of a pre-activation is that of x in about one dimension: far below 2.
    found = notes(behind(PLAIN, bias=bias, odd=False), "one side of 0")
    assert bool(found) == doubted and all("1 layer" in note for note in found)


def test_of_a_users_own_inputs_that_is_not_said(tmp_path: object) -> None:
    x = np.random.default_rng(0).standard_normal((400, D)).astype("f4")
    path = f"{tmp_path}/x.npz"
    np.savez(path, x=x)
    assert notes(behind(PLAIN, bias=6.0, odd=False), "one side of 0", inputs=path) == []
