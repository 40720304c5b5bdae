"""Synaptic flow: the sum of the published scores of a neuron's parameters, nested, for gated neurons too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hidden_layers import RELU, Columns, neurons, plain, readout
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.laws import Ball
from onnx_coreset.core.layer import Gated, HiddenLayer, Neurons, Readout, restrict
from onnx_coreset.core.methods import Context, Ordered, Synflow
from onnx_coreset.core.methods.synflow import flows

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Linear:
    """The identity, in place of an activation."""

    name: str = "linear"

    def __call__(self, t: Array) -> Array:
        return t


def context(layer: HiddenLayer) -> Context:
    return Context(Ball(1.0, layer.inputs))


def total(layer: HiddenLayer) -> float:
    """R: the sum of the outputs for inputs 1, all parameters positive, no constants."""
    return float(sum((outputs - r.constant).sum() for outputs, r in zip(ones(layer), layer.readouts, strict=True)))


def ones(layer: HiddenLayer) -> tuple[Array, ...]:
    return layer.evaluate(np.ones((1, layer.inputs)))


def positive(layer: HiddenLayer) -> HiddenLayer:
    def of(f: Neurons) -> Neurons:
        return Neurons(np.abs(f.incoming), np.abs(f.bias), Linear())

    readouts = []
    for r in layer.readouts:
        features = Gated(of(r.features.gate), of(r.features.up)) if isinstance(r.features, Gated) else of(r.features)
        readouts.append(Readout(features, np.abs(r.outgoing), r.constant))
    return HiddenLayer(layer.width, tuple(readouts))


def gated(n: int = 7) -> HiddenLayer:
    rng = np.random.default_rng(3)
    return HiddenLayer(n, (readout(Gated(neurons(n, 4, rng), neurons(n, 4, rng)), 3, rng),))


def headed(n: int = 7) -> HiddenLayer:
    rng = np.random.default_rng(4)
    features = neurons(n, 4, rng)
    return HiddenLayer(n, (readout(features, 3, rng), readout(features, 2, rng)))


@pytest.mark.parametrize("layer", [plain(), gated(), headed()], ids=["plain", "gated", "headed"])
def test_a_neurons_flow_is_the_sum_of_its_outgoing_scores(layer: HiddenLayer) -> None:
    # R is linear in the outgoing weights of one neuron: their scores w dR/dw sum to the change when they are doubled.
    whole = positive(layer)
    for j, flow in enumerate(flows(layer)):
        doubled = []
        for r in whole.readouts:
            outgoing = r.outgoing.copy()
            outgoing[:, j] *= 2
            doubled.append(Readout(r.features, outgoing, r.constant))
        assert total(HiddenLayer(whole.width, tuple(doubled))) - total(whole) == pytest.approx(flow, rel=1e-11)


def test_flow_is_conserved() -> None:
    # Incoming weights and bias of a neuron score what its outgoing weights do; together all neurons pass on R.
    layer = plain()
    whole = positive(layer)
    features, (r,) = whole.readouts[0].features, whole.readouts
    for j, flow in enumerate(flows(layer)):
        incoming, bias = features.incoming.copy(), features.bias.copy()
        incoming[j], bias[j] = 2 * incoming[j], 2 * bias[j]
        doubled = Readout(Neurons(incoming, bias, Linear()), r.outgoing, r.constant)
        assert total(HiddenLayer(whole.width, (doubled,))) - total(whole) == pytest.approx(flow, rel=1e-11)
    assert flows(layer).sum() == pytest.approx(total(whole), rel=1e-12)


def test_a_case_by_hand() -> None:
    # Neuron 0: (1 + 2 + 0) * (1 + 1) = 6; neuron 1: (0 + 0 + 5) * (2 + 0) = 10; neuron 2: (3 + 3 + 1) * 0 = 0.
    features = Neurons(np.array([[1.0, -2.0], [0.0, 0.0], [3.0, 3.0]]), np.array([0.0, -5.0, 1.0]), RELU)
    outgoing = np.array([[1.0, -2.0, 0.0], [-1.0, 0.0, 0.0]])[:, :, None]
    layer = HiddenLayer(3, (Readout(features, outgoing, np.zeros(2)),))
    np.testing.assert_array_equal(flows(layer), [6.0, 10.0, 0.0])
    np.testing.assert_array_equal(Synflow().order(layer, context(layer), RNG), [1, 0, 2])


def test_the_order_is_nested_and_another_round_changes_nothing() -> None:
    layer = plain()
    assert isinstance(Synflow(), Ordered)
    order = Synflow().order(layer, context(layer), RNG)
    left = layer
    kept = np.arange(layer.width)
    for width in range(layer.width - 1, 0, -1):
        # One neuron a round, with scores computed anew.
        stays = Synflow().select(left, width, context(left), RNG).kept
        part = restrict(left, stays)
        left = HiddenLayer(width, (Readout(left.readouts[0].features.take(stays), part.outgoing[0], np.zeros(4)),))
        kept = kept[stays]
        np.testing.assert_array_equal(kept, np.sort(order[:width]))


def test_outgoing_weights_stay_as_they_are() -> None:
    layer = gated()
    coreset = Synflow().select(layer, 3, context(layer), RNG)
    assert coreset.width == 3
    np.testing.assert_array_equal(coreset.outgoing[0], layer.readouts[0].outgoing[:, coreset.kept])


def test_equal_flows_go_by_index() -> None:
    layer = HiddenLayer(50, (Readout(Neurons(np.ones((50, 2)), np.zeros(50), RELU), np.ones((1, 50, 1)), np.zeros(1)),))
    np.testing.assert_array_equal(Synflow().order(layer, context(layer), RNG), range(50))


def test_features_of_another_kind_are_refused() -> None:
    rng = np.random.default_rng(5)
    layer = HiddenLayer(4, (readout(Columns(rng.standard_normal((4, 2, 3))), 2, rng),))
    with pytest.raises(ValueError, match="gated"):
        Synflow().order(layer, context(layer), rng)
