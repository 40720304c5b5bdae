"""What ONNX Runtime computes of any row stays in the ellipsoid that the normalisation proves."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_coreset.core.domains import EllipsoidDomain
from onnx_coreset.edge.runtime import Session, choose

UNIT = 2.0**-24
STEPS = 40
FAR = 50.0


def normaliser(op: str, gamma: np.ndarray, beta: np.ndarray, eps: float) -> Session:
    d = gamma.size
    centred = op == "LayerNormalization"
    inputs = ["x", "g", "b"] if centred else ["x", "g"]
    tensors = [numpy_helper.from_array(v, n) for n, v in (("g", gamma), ("b", beta)) if n in inputs]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", d]) for n in "xy"]
    node = helper.make_node(op, inputs, ["y"], axis=-1, epsilon=eps)
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    opset = 23 if op == "RMSNormalization" else 17
    return Session(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)]), choose("cpu")
    )


def rows(d: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of every scale, spikes, signs, steps and near-constants, each with a mean of at most `FAR` deviations."""
    base = [
        rng.standard_normal((600, d)),
        rng.uniform(0, 1, (300, d)) ** 8,
        np.sign(rng.standard_normal((300, d))),
        np.eye(d)[rng.integers(d, size=300)] * rng.choice([-1.0, 1.0], (300, 1)),
        np.linspace(-1, 1, d)[None] + 1e-3 * rng.standard_normal((300, d)),
        rng.standard_cauchy((300, d)),
        np.zeros((10, d)),
    ]
    x = np.concatenate(base)
    x = x[np.abs(x.mean(axis=1)) <= FAR * x.std(axis=1)]
    deviations = x.std(axis=1, keepdims=True)
    x = x - x.mean(axis=1, keepdims=True) * rng.integers(0, 2, (len(x), 1))
    x = x + 0.9 * rng.uniform(-FAR, FAR, (len(x), 1)) * deviations * rng.integers(0, 2, (len(x), 1))
    return np.asarray(x * 10.0 ** rng.uniform(-4, 4, (len(x), 1)), dtype=np.float32)


def climbed(session: Session, domain: EllipsoidDomain, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows moved at random wherever that brings what is computed further out."""
    best = outermost(session, domain, x)
    for _ in range(STEPS):
        size = 10.0 ** rng.uniform(-7, 0, (len(x), 1)) * np.abs(x).max(axis=1, keepdims=True)
        tried = (x + size * rng.standard_normal(x.shape)).astype(np.float32)
        ratio = np.abs(tried.mean(axis=1)) <= FAR * tried.std(axis=1)
        far = np.where(ratio, outermost(session, domain, tried), -np.inf)
        x = np.where((far > best)[:, None], tried, x)
        best = np.maximum(far, best)
    return x


def outermost(session: Session, domain: EllipsoidDomain, x: np.ndarray) -> np.ndarray:
    y = session.run({"x": x})["y"].astype(np.float64)
    return np.linalg.norm((y - domain.shift) / domain.gain, axis=1)


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("d", [2, 3, 16, 96, 768])
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_rows_stay_inside_random_and_climbed(op: str, d: int, eps: float) -> None:
    rng = np.random.default_rng(d)
    gamma = (rng.choice([-1.0, 1.0], d) * rng.uniform(0.5, 2, d)).astype(np.float32)
    centred = op == "LayerNormalization"
    beta = (rng.standard_normal(d) if centred else np.zeros(d)).astype(np.float32)
    domain = EllipsoidDomain.normalised(gamma.astype("f8"), beta.astype("f8"), centred)
    session = normaliser(op, gamma, beta, eps)
    x = rows(d, rng)
    found = outermost(
        session, domain, np.concatenate([x, climbed(session, domain, x[rng.permutation(len(x))[:200]], rng)])
    )
    # y = gamma u + beta is rounded twice: each entry of u, of at most the root of d, moves by that much over |gamma|.
    rounded = UNIT * np.linalg.norm((np.abs(gamma) * np.sqrt(d) + np.abs(beta)) / np.abs(gamma))
    assert np.all(found <= domain.radius + (rounded if centred else 0.0))


def test_a_mean_far_above_the_deviation_is_where_single_precision_leaves_it() -> None:
    """The documented limit of the slack is real: beyond it ONNX Runtime's rows do leave the ellipsoid."""
    rng = np.random.default_rng(0)
    one, zero = np.ones(4, "f4"), np.zeros(4, "f4")
    domain = EllipsoidDomain.normalised(one.astype("f8"), zero.astype("f8"), True)
    x = (1e5 + rng.standard_normal((500, 4))).astype("f4")
    assert outermost(normaliser("LayerNormalization", one, zero, 1e-12), domain, x).max() > domain.radius
