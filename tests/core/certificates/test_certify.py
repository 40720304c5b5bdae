"""The certificate as a whole: what it holds, when there is none, and what rounding adds."""

from __future__ import annotations

import numpy as np
import pytest

from certificate_cases import DOMAINS, RELU, domain, functions, inputs, layer, named, of, shrunk
from hidden_layers import Columns
from onnx_coreset.core.certificates import BallDomain, BoxDomain, certify
from onnx_coreset.core.certificates.attack import attack
from onnx_coreset.core.certificates.deployed import deployed
from onnx_coreset.core.certificates.domains import contains
from onnx_coreset.core.certificates.policy import project
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout


@pytest.mark.parametrize("kind", DOMAINS)
def test_the_worst_input_lies_in_the_domain_and_is_as_bad_as_said(kind: str) -> None:
    rng = np.random.default_rng(4)
    before = layer("plain", 15, 5, 3, rng)
    after, where = shrunk(before, rng), domain(kind, 5, rng)
    found = certify(before, after, where, "fast", rng)
    assert found is not None and contains(where, found.worst).all()
    direct = np.abs(np.diagonal(before.evaluate(found.worst)[0] - after.evaluate(found.worst)[0]))
    np.testing.assert_allclose(direct, found.attacked, rtol=1e-9, atol=1e-11)


def test_the_search_uses_the_starts_it_is_given() -> None:
    # |x1| times 1e-3 hides beside the large terms of x2: only a start at it, without steps, tells.
    p = np.array([[1.0, 0.0], [-1.0, 0.0]])
    before = HiddenLayer(2, (Readout(Neurons(p, np.zeros(2), RELU), np.ones((1, 2, 1)), np.zeros(1)),))
    after = HiddenLayer(1, (Readout(Neurons(p[:1], np.zeros(1), RELU), np.zeros((1, 1, 1)), np.zeros(1)),))
    where = BallDomain(np.zeros(2), 3.0)
    starts = {function: np.array([[1.0, 0.0]]) for function in range(2)}
    found = attack(of(before, after, where), where, 0, 0, np.random.default_rng(0), starts)
    assert found.value[0] == pytest.approx(3.0, rel=1e-6)


def test_several_readouts_stand_one_after_another() -> None:
    rng = np.random.default_rng(5)
    one, two = layer("plain", 10, 4, 2, rng), layer("plain", 10, 4, 3, rng)
    both = HiddenLayer(10, (one.readouts[0], Readout(one.readouts[0].features, two.readouts[0].outgoing, np.zeros(3))))
    less = HiddenLayer(
        4, tuple(Readout(r.features.take(np.arange(4)), r.outgoing[:, :4], r.constant) for r in both.readouts)
    )
    found = certify(both, less, BallDomain(np.zeros(4), 1.0), "fast", rng)
    assert found is not None and found.certified.shape == found.attacked.shape == found.rounding.shape == (5,)
    assert len(found.methods) == 5 and found.worst.shape == (5, 4)
    for index in range(2):
        alone = certify(
            *(HiddenLayer(side.width, side.readouts[index : index + 1]) for side in (both, less)), found.domain, "fast"
        )
        assert alone is not None
        part = found.certified[:2] if index == 0 else found.certified[2:]
        np.testing.assert_allclose(alone.certified, part, rtol=0.1)


def test_layers_of_unknown_features_have_none() -> None:
    unknown = HiddenLayer(2, (Readout(Columns(np.ones((2, 1, 3))), np.ones((1, 2, 1)), np.zeros(1)),))
    assert certify(unknown, unknown, BallDomain(np.zeros(3), 1.0)) is None


def test_layers_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="other inputs or outputs"):
        certify(layer("plain", 3, 2, 1, rng), layer("plain", 3, 2, 2, rng), BallDomain(np.zeros(2), 1.0))
    with pytest.raises(ValueError, match="does not fit"):
        certify(layer("plain", 3, 2, 1, rng), layer("plain", 3, 2, 1, rng), BallDomain(np.zeros(3), 1.0))


@pytest.mark.parametrize("name", ["Relu", "Gelu", "Silu", "Tanh", "LeakyRelu", "Mish"])
@pytest.mark.parametrize("box", [False, True])
def test_single_precision_stays_within_rounding(name: str, box: bool) -> None:
    rng = np.random.default_rng(6)
    whole = layer("plain", 60, 40, 4, rng, functions(60, rng)[name])
    part = whole.readouts[0].features
    assert isinstance(part, Neurons)
    # Numbers of float32, the inputs too: what is left is the rounding of operations.
    stored = [
        np.float32(v)
        for v in (part.incoming, part.bias, whole.readouts[0].outgoing[:, :, 0], whole.readouts[0].constant)
    ]
    p, b, w, c = (v.astype(np.float64) for v in stored)
    readout = Readout(Neurons(p, b, part.activation), w[:, :, None], c)
    where = BoxDomain(-np.ones(40), np.ones(40)) if box else BallDomain(np.zeros(40), 5.0)
    x = np.float32(inputs(where, 500, 40, rng) * (1 - 1e-6))
    t = (x @ stored[0].T + stored[1]).astype(np.float32)
    h = part.activation(t.astype(np.float64)).astype(np.float32)
    single = (h @ stored[2].T + stored[3]).astype(np.float64)
    exact = HiddenLayer(60, (readout,)).evaluate(x.astype(np.float64))[0]
    off, bound = np.abs(single - exact).max(axis=0), deployed(readout, where)
    assert np.all(off <= bound) and np.all(bound <= 3000 * off)


def test_the_projection_is_the_closest_point() -> None:
    rng = np.random.default_rng(7)
    z = rng.standard_normal((3, 40, 9)).astype(np.float32)
    found = project(z)
    assert np.all(np.abs(found).sum(axis=-1) <= 1 + 1e-6)
    # Optimality: z - p makes no acute angle with any corner of the l1 ball seen from p.
    rest = z - found
    assert np.all(np.abs(rest).max(axis=-1) <= np.einsum("kbr,kbr->kb", rest, found) + 1e-5)
    inside = z / (1.01 * np.abs(z).sum(axis=-1, keepdims=True))
    np.testing.assert_array_equal(project(inside), inside)


@pytest.mark.parametrize(("box", "ratio"), [(False, 1.35), (True, 1.6)])
def test_the_certificate_is_close_to_the_attack(box: bool, ratio: float) -> None:
    # As wide and deep as needed for rounding of the relaxation to show; intervals and lines are 4 times above or more.
    rng = np.random.default_rng(8)
    before = layer("plain", 60, 30, 6, rng)
    kept = np.arange(45)
    readout = before.readouts[0]
    after = HiddenLayer(
        45,
        (
            Readout(
                readout.features.take(kept),
                readout.outgoing[:, kept] + 0.2 * rng.standard_normal((6, 45, 1)),
                readout.constant,
            ),
        ),
    )
    where = BoxDomain(-np.ones(30), np.ones(30)) if box else BallDomain(np.zeros(30), 4.0)
    found = certify(before, after, where, "tight", rng)
    assert found is not None and np.mean(found.certified / found.attacked) <= ratio
    assert np.mean(found.bounds["linear even"] / found.certified) >= 1.5


def test_the_rounding_of_pre_activations_counts() -> None:
    # One neuron of large weights: its sums err by far more than a few units of its value, which is what is left.
    rng = np.random.default_rng(9)
    p = np.float32(1e3 * rng.standard_normal((1, 300)))
    one = Readout(Neurons(p.astype(np.float64), np.zeros(1), named("Tanh")), np.ones((1, 1, 1)), np.zeros(1))
    x = np.float32(rng.uniform(-1, 1, (4000, 300)))
    x -= ((x @ p[0]) / (p[0] @ p[0]))[:, None] * p
    t = np.cumsum(x * p, axis=1, dtype=np.float32)[:, -1].astype(np.float64)
    exact = x.astype(np.float64) @ p[0].astype(np.float64)
    off = np.abs(np.tanh(t) - np.tanh(exact)).max()
    bound = deployed(one, BoxDomain(-np.full(300, 2.0), np.full(300, 2.0)))[0]
    assert 1e-5 < off <= bound
