"""The hidden layer and its coresets: shapes are checked at birth, arrays are read-only, shrinking selects."""

from __future__ import annotations

import numpy as np
import pytest

from hidden_layers import RELU, Columns, PRelu, neurons, plain, readout
from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons, Readout, restrict, shrink, whole


def inputs(layer: HiddenLayer, count: int = 30) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((count, layer.inputs))


def heads() -> HiddenLayer:
    rng = np.random.default_rng(3)
    first, second = neurons(7, 4, rng), neurons(7, 4, rng, PRelu(rng.random(7)))
    return HiddenLayer(7, (readout(first, 3, rng), readout(second, 2, rng, False), readout(first, 1, rng)))


def test_a_layer_computes_what_its_formula_says() -> None:
    layer = plain()
    part = layer.readouts[0]
    x = inputs(layer)
    hidden = np.maximum(x @ part.features.incoming.T + part.features.bias, 0)
    np.testing.assert_allclose(layer.evaluate(x)[0], hidden @ part.outgoing[:, :, 0].T + part.constant, rtol=1e-12)


def test_every_column_of_a_neuron_is_read_with_its_own_weight() -> None:
    rng = np.random.default_rng(0)
    features = Columns(rng.standard_normal((5, 3, 4)))
    part = readout(features, 2, rng)
    x = rng.standard_normal((6, 4))
    expected = np.einsum("kjs,Njs->Nk", part.outgoing, features.evaluate(x)) + part.constant
    np.testing.assert_allclose(part.apply(features.evaluate(x)), expected, rtol=1e-12)


def test_whole_shrinks_a_layer_to_itself_bit_for_bit() -> None:
    layer = heads()
    same = shrink(layer, whole(layer))
    for before, after in zip(layer.evaluate(inputs(layer)), same.evaluate(inputs(layer)), strict=True):
        np.testing.assert_array_equal(before, after)


def test_restrict_equals_setting_the_outgoing_weights_of_dropped_neurons_to_zero() -> None:
    layer, kept = heads(), np.array([0, 2, 5])
    small = shrink(layer, restrict(layer, kept)).evaluate(inputs(layer))
    for part, after in zip(layer.readouts, small, strict=True):
        outgoing = np.zeros_like(part.outgoing)
        outgoing[:, kept] = part.outgoing[:, kept]
        zeroed = Readout(part.features, outgoing, part.constant)
        expected = zeroed.apply(part.features.evaluate(inputs(layer)))
        np.testing.assert_allclose(after, expected, rtol=1e-12, atol=1e-12)


def test_shrinking_selects_the_parameters_of_the_activation_too() -> None:
    layer = heads()
    small = shrink(layer, restrict(layer, np.array([1, 4])))
    features, kept = layer.readouts[1].features, small.readouts[1].features
    np.testing.assert_array_equal(kept.activation.slope, features.activation.slope[[1, 4]])


def test_shrinking_keeps_whether_a_constant_may_change() -> None:
    small = shrink(heads(), restrict(heads(), np.array([1, 4])))
    assert [part.constant_allowed for part in small.readouts] == [True, False, True]


def test_readouts_that_share_features_share_them_after_shrinking() -> None:
    small = shrink(heads(), restrict(heads(), np.array([1, 4])))
    assert small.readouts[0].features is small.readouts[2].features
    assert small.readouts[0].features is not small.readouts[1].features


def test_inputs_and_outputs_are_counted_over_all_readouts() -> None:
    layer = heads()
    assert (layer.inputs, layer.outputs, layer.width) == (4, 6, 7)


@pytest.mark.parametrize("bias", [np.zeros(2), np.zeros((3, 1))])
def test_neurons_refuse_a_bias_of_another_shape(bias: np.ndarray) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Neurons(np.zeros((3, 2)), bias, RELU)


@pytest.mark.parametrize(
    ("outgoing", "constant"),
    [
        (np.zeros((2, 12)), np.zeros(2)),
        (np.zeros((2, 11, 1)), np.zeros(2)),
        (np.zeros((2, 12, 2)), np.zeros(2)),
        (np.zeros((2, 12, 1)), np.zeros(3)),
    ],
)
def test_readouts_refuse_weights_of_another_shape(outgoing: np.ndarray, constant: np.ndarray) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Readout(plain().readouts[0].features, outgoing, constant)


def test_a_layer_needs_a_readout() -> None:
    with pytest.raises(ValueError, match="needs a readout"):
        HiddenLayer(3, ())


def test_a_layer_refuses_readouts_of_another_width() -> None:
    with pytest.raises(ValueError, match="same neurons"):
        HiddenLayer(12, (*plain(12).readouts, *plain(11).readouts))


@pytest.mark.parametrize("kept", [[], [1, 1], [2, 1], [-1, 2]])
def test_a_coreset_refuses_indices_that_do_not_increase_from_zero(kept: list[int]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        Coreset(np.array(kept, dtype=np.intp), (np.zeros((1, len(kept), 1)),), (np.zeros(1),))


def coreset(kept: list[int], k: int, m: int, parts: int = 1) -> Coreset:
    return Coreset(np.array(kept), (np.zeros((k, m, 1)),) * parts, (np.zeros(k),) * parts)


@pytest.mark.parametrize(
    "other",
    [coreset([0, 12], 4, 2), coreset([0, 1], 4, 2, parts=2), coreset([0, 1], 4, 3), coreset([0, 1], 3, 2)],
    ids=["neuron", "readouts", "width", "outputs"],
)
def test_shrinking_refuses_a_coreset_of_another_layer(other: Coreset) -> None:
    with pytest.raises(ValueError, match=r"fit|made for"):
        shrink(plain(), other)


def test_arrays_of_layers_and_coresets_are_read_only() -> None:
    layer = plain()
    part, kept = layer.readouts[0], whole(layer)
    for array in (part.outgoing, part.constant, part.features.incoming, part.features.bias):
        assert not array.flags.writeable
    for array in (kept.kept, *kept.outgoing, *kept.constant):
        assert not array.flags.writeable


def test_arrays_of_a_layer_are_float64_whatever_they_came_in() -> None:
    features = Neurons(np.ones((3, 2), dtype=np.float16), np.ones(3, dtype=np.float32), RELU)
    assert features.incoming.dtype == features.bias.dtype == np.float64
