"""On a domain, neurons that stay on one piece of their activation go, and the function stays on the domain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hidden_layers import RELU, readout
from onnx_coreset.core.activations import ACTIVATIONS
from onnx_coreset.core.activations.program import Program, Step
from onnx_coreset.core.activations.record import Composite, Named
from onnx_coreset.core.certificates.domains import BallDomain, BoxDomain, Domain, EllipsoidDomain, frame, place
from onnx_coreset.core.certificates.pieces import lipschitz
from onnx_coreset.core.features import Joint
from onnx_coreset.core.layer import Gated, HiddenLayer, Neurons, shrink
from onnx_coreset.core.lossless import lossless, reduced
from onnx_coreset.core.stable import _basis

NAMED = {record.name: Named(record, record.examples[0]) for record in ACTIVATIONS}
SCALAR = [a for a in NAMED.values() if not any(np.ndim(p) for p in a.parameters)]


def layer_of(rows: np.ndarray, bias: np.ndarray, name: str = "Relu", k: int = 3, free: bool = True) -> HiddenLayer:
    features = Neurons(np.asarray(rows, float), np.asarray(bias, float), NAMED[name])
    return HiddenLayer(len(rows), (readout(features, k, np.random.default_rng(3), free),))


def points(domain: Domain, d: int, seed: int = 0) -> np.ndarray:
    """Inputs of the domain, many of them at its border."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((300, d))
    y[:100] = np.sign(y[:100]) if isinstance(domain, BoxDomain) else 10.0 * y[:100]
    return place(domain, np.clip(y, -1, 1) if isinstance(domain, BoxDomain) else y)


def same_on(layer: HiddenLayer, domain: Domain) -> list[int]:
    """The neurons kept, after a check that outputs move by at most 1e-6 of their terms."""
    found = lossless(layer, domain)
    x = points(domain, layer.inputs)
    for old, new, part in zip(layer.evaluate(x), shrink(layer, found).evaluate(x), layer.readouts, strict=True):
        size = np.abs(part.constant) + np.zeros_like(old)
        if isinstance(part.features, Neurons):
            t = frame(domain, part.features.incoming, part.features.bias)
            steep = np.minimum(lipschitz(part.features.activation, part.features.width), 1e3)
            terms = np.maximum(steep * (t.reach + np.abs(t.offset)), np.abs(part.features.evaluate(x)[:, :, 0]).max(0))
            size = size + np.abs(part.outgoing[:, :, 0]) @ terms
        assert np.all(np.abs(new - old) <= 1e-6 * size)
    return found.kept.tolist()


def domains(d: int, rng: np.random.Generator) -> list[Domain]:
    middle = rng.standard_normal(d)
    gain = np.where(rng.random(d) < 0.2, 0.0, rng.standard_normal(d))
    return [
        BallDomain(middle, float(rng.uniform(0, 3))),
        BoxDomain(middle - rng.random(d) * (rng.random(d) < 0.8), middle + rng.random(d)),
        EllipsoidDomain.normalised(gain, middle, centred=True),
        EllipsoidDomain.normalised(gain, middle, centred=False),
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.booleans(), st.sampled_from(SCALAR))
def test_the_function_stays_on_the_domain(seed: int, d: int, free: bool, activation: Named) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((14, d)) * rng.choice([0.01, 1.0, 3.0], size=(14, 1))
    bias = rng.standard_normal(14) * rng.choice([0.1, 5.0, 30.0], size=14)
    # Copies and multiples, which other rules take before.
    rows[[3, 4, 5]], bias[[3, 4, 5]] = rows[[9, 9, 8]] * [[1], [2], [-1]], bias[[9, 9, 8]] * [1, 2, -1]
    if activation.name == "Polynomial":
        bias /= 10.0
    layer = HiddenLayer(14, (readout(Neurons(rows, bias, activation), 3, rng, free),))
    for domain in domains(d, rng):
        same_on(layer, domain)


@pytest.mark.parametrize(
    ("name", "at", "away"),
    [
        ("Relu", -2.0, -1.99),
        ("Clip", -2.0, -1.99),
        ("Clip", 8.0, 7.99),
        ("HardSigmoid", -4.6, -4.4),
        ("HardSwish", -5.1, -4.9),
        ("Tanh", 25.0, 8.0),
        ("Gelu", -9.0, -6.0),
        ("ThresholdedRelu", -1.01, -0.99),
        ("Step", 2.01, 1.99),
    ],
)
def test_neurons_that_do_not_vary_on_the_domain_go_to_the_constant(name: str, at: float, away: float) -> None:
    rows, ball = np.eye(4), BallDomain(np.zeros(4), 2.0)
    assert same_on(layer_of(rows, [0.1, at, 0.2, away], name), ball) == [0, 2, 3]
    assert lossless(layer_of(rows, [0.1, at, 0.2, away], name)).width == 4


def test_constants_that_are_not_zero_stay_where_the_constant_may_not_change() -> None:
    rows, ball = np.eye(4), BallDomain(np.zeros(4), 2.0)
    assert same_on(layer_of(rows, [0.1, -3.0, 8.5, 0.2], "Clip", free=False), ball) == [0, 2, 3]


def test_neurons_that_only_touch_their_kink_count_as_stable() -> None:
    # Coordinates in [0, 1], weights of one sign and no bias: 0 is reached exactly, but for rounding.
    rng = np.random.default_rng(0)
    rows = np.concatenate([-rng.random((3, 8)), rng.random((11, 8))])
    assert same_on(layer_of(rows, np.zeros(14)), BoxDomain(np.zeros(8), np.ones(8)))[0] == 3
    assert lossless(layer_of(rows, np.zeros(14)), BoxDomain(np.zeros(8), np.ones(8))).width == 8
    assert lossless(layer_of(rows, np.full(14, 1e-5)), BoxDomain(np.zeros(8), np.ones(8))).width == 11


def test_a_jump_that_rounding_to_float32_may_pass_counts_as_passed() -> None:
    domain = BoxDomain(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    rows = np.array([[1e4, 0.0], [1e4, 0.0], [0.0, 1.0]])
    assert lossless(layer_of(rows, [-9999.9999, -9990.0, -1.5], "Step"), domain).kept.tolist() == [0, 2]


@pytest.mark.parametrize(("name", "bias"), [("Relu", 3.0), ("Gelu", 11.0), ("LeakyRelu", -3.0), ("Abs", -3.0)])
def test_linear_neurons_are_as_many_as_inputs_vary_in(name: str, bias: float) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((12, 4))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    biases = np.full(12, bias)
    biases[[0, 1]] = 0.5
    ball = BallDomain(np.zeros(4), 2.0)
    kept = same_on(layer_of(rows, biases, name), ball)
    assert (kept[:2], len(kept)) == ([0, 1], 6)
    # Where the constant may not change, biases have to be made up for too.
    biases[2:] *= np.sign(bias) * np.sign(biases[2:]) * (1.0 + 0.1 * rng.random(10))
    assert len(same_on(layer_of(rows, biases, name, free=False), ball)) == 7
    flat = BoxDomain(np.array([-1.0, 0.3, -1.0, 0.7]), np.array([1.0, 0.3, 1.0, 0.7]))
    assert len(same_on(layer_of(rows, biases, name), flat)) == 4
    centred = EllipsoidDomain.normalised(np.ones(4), np.zeros(4), centred=True)
    assert len(same_on(layer_of(rows, biases, name), centred)) == 5


@pytest.mark.parametrize(("off", "width"), [(0.0, 3), (1e-8, 3), (1e-5, 4)])
def test_ranks_are_those_up_to_the_rounding_of_float32(off: float, width: int) -> None:
    rng = np.random.default_rng(2)
    basis = rng.standard_normal((3, 9))
    rows = np.concatenate([basis, rng.standard_normal((4, 3)) @ basis])
    rows[5, 2] += off
    rows = rows.astype(np.float32).astype(np.float64)
    assert len(same_on(layer_of(rows, np.full(7, 40.0)), BallDomain(np.zeros(9), 1.0))) == width
    assert lossless(layer_of(rows, np.full(7, 40.0))).width == 7


def test_slopes_on_either_side_of_a_kink_count() -> None:
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((10, 4))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    biases = np.where(np.arange(10) < 5, 3.0, -3.5)
    for name in ("LeakyRelu", "Abs"):
        assert len(same_on(layer_of(rows, biases, name), BallDomain(np.zeros(4), 2.0))) == 4


def test_neurons_with_parameters_of_their_own_are_looked_at_one_by_one() -> None:
    rng = np.random.default_rng(10)
    rows = rng.standard_normal((10, 3))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    slopes = np.where(np.arange(10) == 4, 0.0, rng.uniform(0.1, 2.0, 10))
    record = NAMED["PRelu"].record
    part = Neurons(rows, np.where(np.arange(10) < 8, -3.0, 0.1), Named(record, (slopes,)))
    kept = same_on(HiddenLayer(10, (readout(part, 3, rng),)), BallDomain(np.zeros(3), 2.0))
    assert kept[-2:] == [8, 9] and len(kept) == 5 and 4 not in kept
    tops = np.where(np.arange(10) < 5, -2.5, 9.0)
    part = Neurons(rows, np.zeros(10), Named(NAMED["Clip"].record, (np.full(10, -9.0), tops)))
    kept = same_on(HiddenLayer(10, (readout(part, 3, rng),)), BallDomain(np.zeros(3), 2.0))
    assert len(kept) == 3 and min(kept) > 4


def test_a_constant_that_may_not_change_does_not() -> None:
    rng = np.random.default_rng(7)
    layer = layer_of(rng.standard_normal((12, 3)), rng.uniform(30, 40, 12), free=False)
    found = lossless(layer, BallDomain(np.zeros(3), 1.0))
    assert found.width == 4
    np.testing.assert_array_equal(found.constant[0], layer.readouts[0].constant)


def test_neurons_that_hardly_vary_are_no_part_of_a_basis() -> None:
    rng = np.random.default_rng(8)
    rows, biases = rng.uniform(-1, 1, (9, 2)), np.array([-9.0, *rng.uniform(11, 12, 8)])
    # The constant may not change, and the first neuron is not quite 0.
    kept = same_on(layer_of(rows, biases, "Gelu", free=False), BallDomain(np.zeros(2), 1.0))
    assert kept[0] == 0 and len(kept) == 4


def test_neurons_that_went_before_are_no_part_of_a_basis() -> None:
    rows = np.concatenate([[[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]], np.eye(2), [[1.0, 1.0]]])
    layer = layer_of(rows, np.array([9.0, 18.0, 4.5, 9.0, 9.0, 9.0]))
    for order in (np.arange(6), np.arange(6)[::-1], np.array([1, 4, 0, 3, 5, 2])):
        part = layer.readouts[0]
        turned = HiddenLayer(6, (replace(part, features=part.features.take(order)),))
        assert len(same_on(turned, BallDomain(np.zeros(2), 1.0))) == 2


def test_one_neuron_that_may_leave_its_piece_is_not_among_the_linear_ones() -> None:
    rows = np.concatenate([np.eye(2), [[0.6, 0.8], [-0.6, 0.8]]])
    biases = np.array([2.0, 2.0, 1.99, 2.0])
    kept = same_on(layer_of(rows, biases), BallDomain(np.zeros(2), 2.0))
    assert 2 in kept and len(kept) == 3


def test_terms_that_would_cancel_beyond_float32_are_refused() -> None:
    layer = layer_of([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [1e6, 1e6, 10.0])
    outgoing = np.array(layer.readouts[0].outgoing)
    outgoing[:, :2] *= 1e-6
    layer = HiddenLayer(3, (replace(layer.readouts[0], outgoing=outgoing),))
    ball = BallDomain(np.zeros(2), 1.0)
    assert same_on(layer, ball) == [0, 1, 2]
    mild = HiddenLayer(
        3, (replace(layer.readouts[0], features=layer_of(np.eye(3)[:, :2] + 0.1, [9, 9, 9.0]).readouts[0].features),)
    )
    assert len(same_on(mild, ball)) == 2


def test_all_readouts_get_the_same_neurons() -> None:
    rng = np.random.default_rng(4)
    features = Neurons(rng.standard_normal((9, 3)), np.full(9, 30.0), NAMED["Relu"])
    layer = HiddenLayer(9, tuple(readout(features, k, rng) for k in (2, 4)))
    assert len(same_on(layer, BallDomain(np.zeros(3), 1.0))) == 3
    other = Neurons(features.incoming + 1.0, features.bias, NAMED["Relu"])
    assert (
        lossless(HiddenLayer(9, (layer.readouts[0], readout(other, 2, rng))), BallDomain(np.zeros(3), 1.0)).width == 9
    )


def test_products_with_a_gate_that_is_shut_on_the_domain_go() -> None:
    rng = np.random.default_rng(5)
    gate = Neurons(np.eye(4), np.array([0.1, -2.0, -1.9, -5.0]), NAMED["Relu"])
    up = Neurons(rng.standard_normal((4, 4)), rng.standard_normal(4), NAMED["Identity"])
    layer = HiddenLayer(4, (readout(Gated(gate, up), 3, rng, False),))
    assert same_on(layer, BallDomain(np.zeros(4), 2.0)) == [0, 2]
    both = HiddenLayer(4, (*layer.readouts, readout(up, 2, rng)))
    assert lossless(both, BallDomain(np.zeros(4), 2.0)).width == 4


def test_activations_without_a_record_are_looked_at_by_intervals() -> None:
    part = Neurons(np.eye(3), np.array([-2.1, 0.5, -1.9]), Composite(Program((Step("Relu", (0,)),))))
    layer = HiddenLayer(3, (readout(part, 2, np.random.default_rng(0)),))
    assert same_on(layer, BallDomain(np.zeros(3), 2.0)) == [1, 2]
    plain = replace(part, activation=RELU)
    assert (
        lossless(
            replace(layer, readouts=(replace(layer.readouts[0], features=plain),)), BallDomain(np.zeros(3), 2.0)
        ).width
        == 2
    )


def test_functions_of_several_preactivations_stay() -> None:
    parts = tuple(Neurons(np.eye(3), np.full(3, -9.0), NAMED["Identity"]) for _ in range(2))
    layer = HiddenLayer(3, (readout(Joint(parts, Program((Step("Max", (0, 1)),), 2)), 2, np.random.default_rng(0)),))
    assert lossless(layer, BallDomain(np.zeros(3), 1.0)).width == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 8), st.integers(0, 5))
def test_a_basis_spans_all_rows(seed: int, m: int, q: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, q)) * rng.choice([1e-3, 1.0, 50.0], size=(m, 1))
    basis, rest, mixing = _basis(rows)
    assert sorted([*basis, *rest]) == list(range(m))
    assert basis.size <= min(rank, m, q)
    size = np.linalg.norm(rows[rest], axis=1, keepdims=True)
    assert np.all(np.abs(rows[rest] - mixing @ rows[basis]) <= 2.0**-21 * size)


def test_a_domain_of_other_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        reduced(layer_of(np.eye(3), np.zeros(3)), BallDomain(np.zeros(4), 1.0))
