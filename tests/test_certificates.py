"""What a report says is proven holds for what ONNX Runtime computes, and what it says was found is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api_models import built, mlp, run
from onnx_coreset import ChainReport, optimize
from onnx_coreset.errors import UsageError

FAST: dict[str, Any] = {"provider": "cpu", "certify": "fast", "samples": 400}
FLOAT = TensorProto.FLOAT


def apart(before: onnx.ModelProto, after: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """|difference| of the outputs of two models, (N, k), as the runtime computes them."""
    one, other = (run(model, x.astype("f4"))[0].astype("f8") for model in (before, after))
    return np.abs(one - other)


def inside(chain: ChainReport, count: int = 4000, seed: int = 0) -> np.ndarray:
    """Inputs of the domain of a chain: corners of a box, points of a sphere, and some between."""
    rng, domain, size = np.random.default_rng(seed), chain.error.domain, chain.inputs
    assert size is not None
    if domain.kind == "box":
        corners = rng.random((count, size)) < 0.5
        x = np.where(corners, np.asarray(domain.high), np.asarray(domain.low))
        return np.where(rng.random((count, 1)) < 0.3, rng.uniform(domain.low, domain.high, (count, size)), x)
    assert domain.kind == "ball" and domain.radius is not None
    x = rng.standard_normal((count, size))
    away = domain.radius * (1 - 1e-6) * rng.choice([0.3, 1.0], (count, 1))
    return np.asarray(domain.centre) + away * x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "Softplus", "Elu", "LeakyRelu"])
@pytest.mark.parametrize("asked", [{}, {"input_range": (-1.0, 2.0)}, {"radius": 3.0}], ids=["samples", "box", "ball"])
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_no_input_of_the_domain_errs_by_more_than_is_certified(
    activation: str, asked: dict[str, Any], dtype: str
) -> None:
    if dtype == "f2" and activation in ("Softplus", "Elu"):
        pytest.skip("the runtime has no float16 kernel of it")
    model = mlp([6, 24, 4], activation=activation, dtype=np.dtype(dtype))
    result = optimize(model, ratio=0.5, **FAST, **asked)
    (chain,) = [chain for chain in result.report.chains if chain.status == "pruned"]
    error = chain.error
    assert error.attacked is not None and error.certified is not None and error.outside is not None
    assert error.attacked_mean is not None and error.certified_mean is not None
    assert error.outside > 0 or error.max <= error.attacked
    assert 0 < error.attacked <= error.certified and error.attacked_mean <= error.certified_mean
    assert not error.domain.proven
    if dtype == "f4":
        x = inside(chain)
        assert apart(model, result.model, x).max() <= error.certified
        # A search that finds no more than random points is none.
        assert apart(model, result.model, x).max() <= error.attacked * 1.01
        assert error.certified <= (7 if activation in ("Tanh", "Sigmoid") else 4) * error.attacked


def norm(kind: str) -> onnx.ModelProto:
    """x -> a normalisation or a bounded operator -> Gemm, Gelu-like, Gemm -> y."""
    rng = np.random.default_rng(2)
    tensors = {"W": rng.standard_normal((12, 20)).astype("f4") / 3, "V": rng.standard_normal((20, 3)).astype("f4")}
    tensors |= {"g": rng.uniform(0.5, 2, 12).astype("f4"), "b": rng.standard_normal(12).astype("f4")}
    front = {
        "layer": [helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1)],
        "sigmoid": [helper.make_node("Sigmoid", ["x"], ["n"])],
    }[kind]
    nodes = [
        *front,
        helper.make_node("MatMul", ["n", "W"], ["t"]),
        helper.make_node("Relu", ["t"], ["h"]),
        helper.make_node("MatMul", ["h", "V"], ["y"]),
    ]
    used = {k: v for k, v in tensors.items() if kind == "layer" or k in ("W", "V")}
    return built(nodes, {"x": (FLOAT, ["N", 12])}, {"y": (FLOAT, ["N", 3])}, used)


@pytest.mark.parametrize(("kind", "shape"), [("layer", "ellipsoid"), ("sigmoid", "box")])
def test_what_an_operator_in_front_bounds_is_proven_for_every_input(kind: str, shape: str) -> None:
    model = norm(kind)
    result = optimize(model, ratio=0.5, **FAST)
    (chain,) = [chain for chain in result.report.chains if chain.status == "pruned"]
    assert (chain.error.domain.kind, chain.error.domain.proven, chain.error.outside) == (shape, True, 0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 12)) * 10.0 ** rng.integers(-2, 3, (4000, 1))
    assert chain.error.certified is not None
    assert apart(model, result.model, x).max() <= chain.error.certified


def test_a_deeper_layer_has_the_domain_that_the_one_in_front_makes() -> None:
    first, second = optimize(mlp([6, 20, 16, 4]), ratio=0.5, input_range=(0, 1), **FAST).report.chains[:2]
    assert (first.error.domain.source, second.error.domain.source) == ("--input-range", "of the layer in front")
    assert first.error.domain.low == pytest.approx(0, abs=1e-5) and first.error.domain.high == pytest.approx(
        1, rel=1e-5
    )
    # What validates lies in the range, what is fitted to is as broad as ever.
    assert first.error.outside == second.error.outside == 0
    assert second.error.certified is not None and second.error.attacked is not None
    assert second.error.attacked <= second.error.certified


def test_a_radius_may_be_of_one_layer() -> None:
    first, second = optimize(mlp([6, 20, 16, 4]), ratio=0.5, radius={"h1": 0.7, "": 3.0}, **FAST).report.chains[:2]
    assert (first.error.domain.radius, second.error.domain.radius) == (3.0, 0.7)
    with pytest.raises(UsageError, match="--radius h7 matches no chain"):
        optimize(mlp([6, 20, 16, 4]), ratio=0.5, radius={"h7": 0.7}, **FAST)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("eps", [1.0, 2.0])
def test_widths_are_chosen_by_what_is_proven(eps: float, absolute: bool) -> None:
    model = mlp([6, 40, 4])
    result = optimize(model, eps=eps, error="certified", absolute=absolute, **FAST)
    (chain,) = [chain for chain in result.report.chains if chain.code != "output"]
    assert chain.status == "pruned" and chain.width_after is not None and chain.width_after < 40
    error = chain.error
    assert error.certified is not None and error.spread is not None
    unit = 1.0 if absolute else error.spread
    assert error.certified / unit <= eps
    assert apart(model, result.model, inside(chain)).max() / unit <= eps
    narrower = optimize(model, width={"h0": chain.width_after - 1}, **FAST).report.chains[0].error
    assert narrower.certified is not None and narrower.certified / unit > 0.9 * eps


def test_nothing_narrower_that_is_proven_is_kept_whole() -> None:
    (chain, *_) = optimize(mlp([6, 12, 4]), eps=1e-4, error="certified", **FAST).report.chains
    assert (chain.status, chain.code) == ("kept", "eps") and chain.error.certified is None


def test_chains_polished_together_are_certified_together() -> None:
    model = mlp([6, 24, 20, 4])
    result = optimize(model, ratio=0.5, polish=True, input_range=(-1, 1), **FAST)
    first, second = result.report.chains[:2]
    assert first.polish is not None and first.polish.together == ("h0", "h1")
    assert first.error.certified == second.error.certified is not None
    assert apart(model, result.model, inside(first)).max() <= first.error.certified


def test_what_is_not_asked_for_is_null() -> None:
    chain = optimize(mlp([6, 24, 4]), ratio=0.5, **(FAST | {"certify": "off"})).report.chains[0]
    assert chain.error.attacked is chain.error.attacked_mean is None
    assert chain.error.certified is chain.error.certified_mean is None and chain.error.domain.kind == "ball"


def test_two_runs_prove_the_same() -> None:
    one, other = (optimize(mlp([6, 24, 4]), ratio=0.5, **FAST).report.chains[0].error for _ in range(2))
    assert (one.attacked, one.certified) == (other.attacked, other.certified)
