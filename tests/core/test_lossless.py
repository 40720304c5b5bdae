"""What is dropped as lossless changes nothing: the function stays, whatever the inputs are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hidden_layers import EPS, RELU, Capped, Columns, PRelu, neurons, plain, readout
from onnx_coreset.core import collinear, duplicates
from onnx_coreset.core.activations import ACTIVATIONS
from onnx_coreset.core.activations.evaluate import run
from onnx_coreset.core.activations.program import Activation, Program, Step
from onnx_coreset.core.activations.record import Composite, Named
from onnx_coreset.core.layer import Coreset, Gated, HiddenLayer, Neurons, Readout, restrict, shrink
from onnx_coreset.core.lossless import compose, lossless, reduced, widened


def reach(part: Neurons, x: np.ndarray) -> np.ndarray:
    """The absolute terms of the pre-activations (N, n)."""
    return np.abs(x) @ np.abs(part.incoming).T + np.abs(part.bias)


def assert_same(before: HiddenLayer, after: HiddenLayer) -> None:
    """Equal outputs up to the rounding of sums over neurons and inputs: 4 (n + d) EPS times the absolute terms."""
    for scale in (0.1, 1.0, 100.0):
        x = scale * np.random.default_rng(5).standard_normal((20, before.inputs))
        for old, new, part in zip(before.evaluate(x), after.evaluate(x), before.readouts, strict=True):
            terms = np.abs(part.features.evaluate(x)).reshape(20, -1)
            # All activations here have slopes of at most 1.
            if isinstance(part.features, Neurons):
                terms += reach(part.features, x)
            elif isinstance(part.features, Gated):
                terms += reach(part.features.gate, x) * reach(part.features.up, x)
            size = terms @ np.abs(part.outgoing).reshape(part.outputs, -1).T + np.abs(part.constant)
            assert np.all(np.abs(new - old) <= 4 * (before.width + before.inputs) * EPS * size)


def merged(layer: HiddenLayer) -> list[int]:
    """The neurons kept, after a check that the function is the same."""
    found = lossless(layer)
    assert_same(layer, shrink(layer, found))
    return found.kept.tolist()


def edited(incoming: dict[int, np.ndarray | float], bias: dict[int, float], n: int = 6) -> HiddenLayer:
    part = plain(n).readouts[0]
    rows, biases = np.array(part.features.incoming), np.array(part.features.bias)
    for j, row in incoming.items():
        rows[j] = row
    for j, value in bias.items():
        biases[j] = value
    return HiddenLayer(n, (replace(part, features=Neurons(rows, biases, RELU)),))


def copied(activation: object, source: int = 1, copy: int = 4, n: int = 6) -> HiddenLayer:
    """A layer whose neuron `copy` has the incoming weights and bias of `source`."""
    features = plain(n).readouts[0].features.take(np.where(np.arange(n) == copy, source, np.arange(n)))
    part = plain(n).readouts[0]
    return HiddenLayer(n, (replace(part, features=Neurons(features.incoming, features.bias, activation)),))


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6),
    st.sets(st.integers(0, 8)),
    st.sets(st.integers(0, 8)),
    st.booleans(),
)
def test_the_function_never_changes(
    seed: int, copies: list[tuple[int, int]], flat: set[int], unread: set[int], free: bool
) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for k in (2, 3):
        incoming, bias = rng.standard_normal((9, 4)), rng.standard_normal(9)
        incoming[sorted(flat)] = 0.0
        for source, copy in copies:
            incoming[copy], bias[copy] = incoming[source], bias[source]
        part = readout(Neurons(incoming, bias, PRelu(np.array(0.1))), k, rng, free or k == 2)
        outgoing = np.array(part.outgoing)
        outgoing[:, sorted(unread)] = 0.0
        parts.append(replace(part, outgoing=outgoing))
    layer = HiddenLayer(9, tuple(parts))
    assert len(merged(layer)) >= 1


def test_a_layer_without_anything_to_drop_is_left_bit_for_bit() -> None:
    layer, found = plain(), lossless(plain())
    assert found.kept.tolist() == list(range(12))
    np.testing.assert_array_equal(found.outgoing[0], layer.readouts[0].outgoing)
    np.testing.assert_array_equal(found.constant[0], layer.readouts[0].constant)


def test_a_constant_neuron_goes_to_the_constant() -> None:
    layer = edited({2: 0.0}, {2: 3.0})
    assert merged(layer) == [0, 1, 3, 4, 5]
    part = layer.readouts[0]
    np.testing.assert_allclose(lossless(layer).constant[0], part.constant + 3.0 * part.outgoing[:, 2, 0], rtol=1e-14)


def test_a_constant_neuron_stays_where_a_constant_may_not_change() -> None:
    layer = edited({2: 0.0}, {2: 3.0})
    fixed = HiddenLayer(6, (*layer.readouts, replace(layer.readouts[0], constant_allowed=False)))
    assert merged(fixed) == [0, 1, 2, 3, 4, 5]


def test_constant_neurons_of_equal_value_are_still_duplicates_where_the_constant_is_fixed() -> None:
    layer = edited({2: 0.0, 4: 0.0}, {2: 3.0, 4: 3.0})
    fixed = HiddenLayer(6, (replace(layer.readouts[0], constant_allowed=False),))
    assert merged(fixed) == [0, 1, 2, 3, 5]


def test_the_first_of_several_duplicates_stays_with_the_sum_of_their_weights() -> None:
    part = plain(6).readouts[0]
    layer = HiddenLayer(6, (replace(part, features=part.features.take(np.array([0, 1, 0, 3, 0, 1]))),))
    assert merged(layer) == [0, 1, 3]
    expected = part.outgoing[:, [0, 1, 3]] + part.outgoing[:, [2, 5, 3]] * [[[1], [1], [0]]]
    expected[:, 0] += part.outgoing[:, 4]
    np.testing.assert_allclose(lossless(layer).outgoing[0], expected, rtol=1e-14, atol=1e-15)


def test_neurons_that_differ_in_the_last_bit_are_no_duplicates() -> None:
    part = plain(6).readouts[0]
    row, bias = np.array(part.features.incoming[1]), part.features.bias[1]
    row[2] = np.nextafter(row[2], 9.0)
    assert merged(edited({4: row}, {4: bias})) == [0, 1, 2, 3, 4, 5]


def test_weights_and_biases_of_zero_are_equal_whatever_their_sign() -> None:
    row = np.array([1.0, 0.0, 2.0, -0.0, 3.0])
    assert merged(edited({1: row, 4: row * [1, -1, 1, -1, 1]}, {1: 0.0, 4: -0.0})) == [0, 1, 2, 3, 5]


def test_duplicates_whose_outgoing_weights_cancel_go_altogether() -> None:
    layer = copied(RELU)
    part = layer.readouts[0]
    outgoing = np.array(part.outgoing)
    outgoing[:, 4] = -outgoing[:, 1]
    assert merged(HiddenLayer(6, (replace(part, outgoing=outgoing),))) == [0, 2, 3, 5]


def test_equal_slopes_do_not_hinder_a_merge() -> None:
    slope = np.array([0.1, 0.2, 0.3, 0.4, 0.2, 0.5])
    assert merged(copied(PRelu(slope))) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("other", [0.3, np.nextafter(0.2, 1.0)])
def test_duplicates_of_different_slopes_are_not_merged(other: float) -> None:
    assert merged(copied(PRelu(np.array([0.1, 0.2, 0.3, 0.4, other, 0.5])))) == [0, 1, 2, 3, 4, 5]


def test_duplicates_whose_parameters_show_only_far_from_zero_are_not_merged() -> None:
    assert merged(copied(Capped(np.array([50.0, 60, 70, 80, 90, 95])))) == [0, 1, 2, 3, 4, 5]


def test_duplicates_whose_program_has_other_constants_are_not_merged() -> None:
    limits = np.array([50.0, 60, 70, 80, 90, 95])
    composite = Composite(Program((Step("Min", (0, limits)),)))
    assert run(composite.program, (np.full((1, 6), 200.0),)).tolist() == [limits.tolist()]
    assert merged(copied(composite)) == [0, 1, 2, 3, 4, 5]
    assert merged(copied(Composite(Program((Step("Min", (0, np.where(limits == 90, 60, limits))),))))) == [
        0,
        1,
        2,
        3,
        5,
    ]


def test_neurons_that_are_duplicates_for_one_readout_only_are_not_merged() -> None:
    rng = np.random.default_rng(0)
    first, second = copied(RELU).readouts[0], readout(neurons(6, 5, rng), 2, rng)
    assert merged(HiddenLayer(6, (first, second))) == [0, 1, 2, 3, 4, 5]


def gated(
    gate: dict[int, float | int] | None = None,
    up: dict[int, float | int] | None = None,
    biases: tuple[dict[int, float], dict[int, float]] = ({}, {}),
    twins: tuple[dict[int, int], dict[int, int]] = ({}, {}),
    slope: np.ndarray | None = None,
    n: int = 6,
) -> Gated:
    """Products of random neurons: `gate` and `up` fill rows, `biases` set entries, `twins` copies {copy: source}."""
    rng = np.random.default_rng(4)
    made = []
    for rows, values, pairs in zip((gate or {}, up or {}), biases, twins, strict=True):
        incoming, bias = rng.standard_normal((n, 5)), rng.standard_normal(n)
        for copy, source in pairs.items():
            incoming[copy], bias[copy] = incoming[source], bias[source]
        for j, row in rows.items():
            incoming[j] = row
        for j, value in values.items():
            bias[j] = value
        made.append((incoming, bias))
    first = RELU if slope is None else PRelu(slope)
    return Gated(Neurons(*made[0], first), Neurons(*made[1], PRelu(np.ones(()))))


def read_by(*features: Gated | Neurons, constant_allowed: bool = True) -> HiddenLayer:
    rng = np.random.default_rng(6)
    return HiddenLayer(6, tuple(readout(part, 3, rng, constant_allowed) for part in features))


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.sampled_from([(0,), (1,), (0, 1)]), st.integers(0, 6), st.integers(0, 6)), max_size=8),
    st.sets(st.tuples(st.integers(0, 1), st.integers(0, 6))),
    st.sets(st.tuples(st.integers(0, 1), st.integers(0, 6))),
    st.booleans(),
)
def test_the_function_of_products_and_factors_never_changes(
    seed: int,
    copies: list[tuple[tuple[int, ...], int, int]],
    flat: set[tuple[int, int]],
    centred: set[tuple[int, int]],
    free: bool,
) -> None:
    rng = np.random.default_rng(seed)
    incoming, bias, slope = rng.standard_normal((2, 7, 4)), rng.standard_normal((2, 7)), np.full(7, 0.1)
    for side, j in flat:
        incoming[side, j] = 0.0
    for side, j in centred:
        bias[side, j] = 0.0
    for sides, source, copy in copies:
        for side in sides:
            incoming[side, copy], bias[side, copy] = incoming[side, source], bias[side, source]
    gate, up = Neurons(incoming[0], bias[0], PRelu(slope)), Neurons(incoming[1], bias[1], PRelu(np.array(1.0)))
    layer = HiddenLayer(7, (readout(Gated(gate, up), 2, rng), readout(gate, 3, rng, free)))
    for part in (layer, HiddenLayer(7, layer.readouts[:1])):
        keys = {bytes(np.concatenate([incoming[:, j].ravel(), bias[:, j]])) for j in range(7)}
        assert 1 <= len(merged(part)) <= len(keys)


def test_products_whose_factors_are_both_equal_are_merged() -> None:
    layer = read_by(gated(twins=({4: 1, 5: 1}, {4: 1, 5: 1})))
    assert merged(layer) == [0, 1, 2, 3]
    outgoing = layer.readouts[0].outgoing
    np.testing.assert_allclose(lossless(layer).outgoing[0][:, 1], outgoing[:, [1, 4, 5]].sum(axis=1), rtol=1e-14)


@pytest.mark.parametrize(
    "part",
    [
        gated(twins=({4: 1}, {})),
        gated(twins=({}, {4: 1})),
        gated(twins=({4: 1}, {4: 2})),
        gated(twins=({4: 1}, {4: 1}), biases=({4: 9.0}, {})),
        gated(twins=({4: 1}, {4: 1}), biases=({}, {4: 9.0})),
        gated(twins=({4: 1}, {4: 1}), slope=np.array([0.1, 0.2, 0.3, 0.4, 0.3, 0.5])),
    ],
    ids=["gate only", "up only", "of two others", "gate bias", "up bias", "slope"],
)
def test_products_that_differ_in_one_part_are_not_merged(part: Gated) -> None:
    assert merged(read_by(part)) == [0, 1, 2, 3, 4, 5]


def test_equal_slopes_do_not_hinder_a_merge_of_products() -> None:
    part = gated(twins=({4: 1}, {4: 1}), slope=np.array([0.1, 0.2, 0.3, 0.4, 0.2, 0.5]))
    assert merged(read_by(part)) == [0, 1, 2, 3, 5]


def test_products_of_two_constants_and_those_with_a_factor_of_zero_go_to_the_constant() -> None:
    part = gated(
        gate={1: 0.0, 3: 0.0, 5: 0.0},
        up={1: 0.0, 2: 0.0},
        # 1 is 3 * -2, 2 has the up value 0, 3 the gate value relu(-1) = 0; the gate of 5 is a constant factor.
        biases=({1: 3.0, 3: -1.0, 5: 2.0}, {1: -2.0, 2: 0.0}),
    )
    layer = read_by(part)
    assert merged(layer) == [0, 4, 5]
    before = layer.readouts[0]
    np.testing.assert_allclose(lossless(layer).constant[0], before.constant - 6.0 * before.outgoing[:, 1, 0])


def test_of_constants_only_those_that_are_zero_go_where_a_constant_may_not_change() -> None:
    part = gated(gate={3: 0.0}, up={2: 0.0, 3: 0.0}, biases=({3: 3.0}, {2: 0.0, 3: -2.0}))
    assert merged(read_by(part, constant_allowed=False)) == [0, 1, 3, 4, 5]


def test_a_factor_that_another_readout_sees_must_be_constant_too() -> None:
    part = gated(gate={1: 0.0}, up={1: 0.0, 2: 0.0}, biases=({}, {2: 0.0}))
    layer = read_by(part, part.gate)
    assert merged(layer) == [0, 2, 3, 4, 5]
    np.testing.assert_allclose(
        lossless(layer).constant[1],
        layer.readouts[1].constant + part.gate.activation(part.gate.bias)[1] * layer.readouts[1].outgoing[:, 1, 0],
    )


def test_products_are_merged_where_all_readouts_see_them_as_equal() -> None:
    part = gated(twins=({4: 1, 5: 2}, {4: 1, 5: 2}))
    other = gated(twins=({4: 1}, {4: 3})).gate
    assert merged(read_by(part, part.gate, part.up)) == [0, 1, 2, 3]
    assert merged(read_by(part, other)) == [0, 1, 2, 3, 5]


def without_weights(part: Readout, unread: list[int]) -> Readout:
    outgoing = np.array(part.outgoing)
    outgoing[:, unread] = 0.0
    return replace(part, outgoing=outgoing)


def test_a_neuron_goes_when_no_readout_reads_it() -> None:
    first, second = plain(6).readouts[0], plain(6, k=2, seed=1).readouts[0]
    layer = HiddenLayer(6, (without_weights(first, [1, 2]), without_weights(second, [2, 3])))
    assert merged(layer) == [0, 1, 3, 4, 5]


def test_unread_neurons_of_any_features_go() -> None:
    rng = np.random.default_rng(0)
    part = readout(Columns(rng.standard_normal((5, 3, 4))), 2, rng)
    outgoing = np.array(part.outgoing)
    outgoing[:, 1], outgoing[:, 2, 0] = 0.0, 0.0
    assert merged(HiddenLayer(5, (replace(part, outgoing=outgoing),))) == [0, 2, 3, 4]


def test_a_layer_that_nobody_reads_keeps_one_neuron() -> None:
    assert merged(HiddenLayer(6, (without_weights(plain(6).readouts[0], list(range(6))),))) == [0]


def test_a_layer_of_constants_keeps_one_neuron_that_no_longer_counts_twice() -> None:
    layer = edited(dict.fromkeys(range(6), 0.0), dict.fromkeys(range(6), 2.0))
    assert merged(layer) == [0]


def test_reduced_is_the_coreset_and_the_layer_that_it_leaves() -> None:
    coreset, left = reduced(copied(RELU))
    assert left.width == coreset.width == 5
    assert_same(copied(RELU), left)


def test_composing_equals_shrinking_twice() -> None:
    layer = copied(RELU)
    base, left = reduced(layer)
    inner = replace(restrict(left, np.array([0, 3, 4]), "inner", 3), constant=(np.arange(4.0),))
    both = compose(layer, base, inner)
    x = np.random.default_rng(0).standard_normal((9, 5))
    np.testing.assert_array_equal(shrink(layer, both).evaluate(x)[0], shrink(left, inner).evaluate(x)[0])
    assert (both.kept.tolist(), both.method, both.seed) == ([0, 3, 5], "inner", 3)


@pytest.mark.parametrize("width", [5, 6, 9])
def test_widening_adds_neurons_that_nobody_reads(width: int) -> None:
    layer = plain(9)
    base = restrict(layer, np.array([0, 3, 4, 7]), "m", 2)
    wide = widened(layer, base, width)
    assert (wide.width, wide.method, wide.seed) == (width, "m", 2)
    assert set(base.kept) <= set(wide.kept)
    x = np.random.default_rng(0).standard_normal((9, 5))
    np.testing.assert_allclose(
        shrink(layer, wide).evaluate(x)[0], shrink(layer, base).evaluate(x)[0], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("width", [1, 3, 4])
def test_widening_to_no_more_than_there_are_changes_nothing(width: int) -> None:
    layer = plain(9)
    base: Coreset = restrict(layer, np.array([0, 3, 4, 7]))
    assert widened(layer, base, width).kept.tolist() == [0, 3, 4, 7]


NAMED = Named(next(record for record in ACTIVATIONS if record.name == "Relu"))


def multiples(activation: Activation, factors: dict[int, float], dtype: type = np.float32) -> HiddenLayer:
    """A layer whose neurons `factors` are those multiples of neuron 1, as float32 stores them."""
    part = plain(8, activation=activation).readouts[0]
    rows, biases = (np.array(v, dtype=dtype) for v in (part.features.incoming, part.features.bias))
    for j, factor in factors.items():
        rows[j], biases[j] = rows[1] * dtype(factor), biases[1] * dtype(factor)
    features = Neurons(rows.astype(np.float64), biases.astype(np.float64), part.features.activation)
    return HiddenLayer(8, (replace(part, features=features),))


@pytest.mark.parametrize(
    ("factors", "kept"),
    [({4: 3.7}, 7), ({4: 0.013, 6: 2.0}, 6), ({4: -1.0}, 8), ({4: -3.7, 5: 3.7}, 7), ({0: 1e6, 7: 1e-6}, 6)],
)
def test_positive_multiples_of_a_homogeneous_neuron_are_one(factors: dict[int, float], kept: int) -> None:
    layer = multiples(NAMED, factors)
    found = lossless(layer)
    assert found.width == kept
    x = np.random.default_rng(3).standard_normal((50, layer.inputs))
    part = layer.readouts[0]
    # Each multiple may be off by 2^-22 of its absolute terms, and ReLU has a slope of at most 1.
    size = reach(part.features, x) @ np.abs(part.outgoing[:, :, 0]).T + np.abs(part.constant)
    for old, new in zip(layer.evaluate(x), shrink(layer, found).evaluate(x), strict=True):
        assert np.all(np.abs(new - old) <= 2.0**-22 * (layer.inputs + 1) * size)


def test_multiples_of_other_neurons_stay() -> None:
    rows = {1: np.array(plain(6).readouts[0].features.incoming[1])}
    near = edited({1: rows[1], 4: rows[1] * (1 + np.array([1e-5, *[0.0] * (rows[1].size - 1)]))}, {1: 0.3, 4: 0.3})
    assert lossless(near).width == 6
    smooth = Composite(Program((Step("Tanh", (0,)),)))
    part = plain(6).readouts[0]
    two = np.array(part.features.incoming)
    biases = np.array(part.features.bias)
    two[4], biases[4] = 2 * two[1], 2 * biases[1]
    assert lossless(HiddenLayer(6, (replace(part, features=Neurons(two, biases, smooth)),))).width == 6


def named(name: str, example: int = 0) -> Named:
    record = next(record for record in ACTIVATIONS if record.name == name)
    return Named(record, record.examples[example])


@pytest.mark.parametrize(
    ("activation", "factors", "kept"),
    [
        (named("Relu"), {0: -1.0, 2: -2.0, 4: 3.7, 5: 0.5, 6: -0.3}, 4),
        (named("Abs"), {0: -1.0, 4: 3.7, 6: -0.3}, 5),
        (named("Identity"), {0: -1.0, 4: 3.7, 6: -0.3}, 5),
        (named("LeakyRelu"), {0: -1.0, 4: 3.7, 6: -0.3}, 6),
        (named("Tanh"), {0: -1.0, 4: -1.0, 5: 1.0}, 5),
        (named("Tanh"), {0: -2.0, 4: -0.999}, 8),
        (named("Softsign"), {4: -1.0}, 7),
        (named("Clip", 1), {4: -1.0}, 7),
        (named("Clip", 0), {4: -1.0}, 8),
        (named("Gelu"), {4: -1.0}, 8),
        (named("Gaussian"), {4: -2.0}, 8),
    ],
)
def test_multiples_of_either_sign_collapse_as_far_as_the_activation_allows(
    activation: Named, factors: dict[int, float], kept: int
) -> None:
    layer = multiples(activation, factors)
    found = lossless(layer)
    assert found.width == kept
    x = np.random.default_rng(3).standard_normal((50, layer.inputs))
    part = layer.readouts[0]
    size = reach(part.features, x) @ np.abs(part.outgoing[:, :, 0]).T + np.abs(part.constant)
    for old, new in zip(layer.evaluate(x), shrink(layer, found).evaluate(x), strict=True):
        assert np.all(np.abs(new - old) <= 2.0**-22 * (layer.inputs + 1) * size)


def test_odd_neurons_that_are_not_quite_opposite_stay() -> None:
    layer = multiples(named("Tanh"), {4: -1.0})
    part = layer.readouts[0]
    rows = np.array(part.features.incoming)
    rows[4, 0] = np.nextafter(rows[4, 0], 9.0)
    assert lossless(HiddenLayer(8, (replace(part, features=replace(part.features, incoming=rows)),))).width == 8


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 3))
def test_copies_and_multiples_in_any_number_are_all_found(seed: int, n: int, lines: int) -> None:
    rng = np.random.default_rng(seed)
    which = rng.integers(lines, size=n)
    signs = rng.choice([-1.0, 1.0], size=n)
    rows = rng.standard_normal((lines, 6))[which] * (signs * rng.uniform(0.1, 9.0, n))[:, None]
    part = Neurons(rows[:, :5], rows[:, 5], NAMED)
    layer = HiddenLayer(n, (readout(part, 2, rng),))
    assert lossless(layer).width == len({*zip(which.tolist(), signs.tolist(), strict=True)})
    x = rng.standard_normal((9, 5))
    size = reach(part, x) @ np.abs(layer.readouts[0].outgoing[:, :, 0]).T + np.abs(layer.readouts[0].constant)
    moved = reduced(layer)[1].evaluate(x)[0] - layer.evaluate(x)[0]
    assert np.all(np.abs(moved) <= 100 * n * EPS * size)


def test_rows_are_compared_where_hashes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    keys = [rng.standard_normal((5, 3))[[0, 1, 0, 2, 3, 1, 4]], rng.integers(2, size=7)[:, None].astype(float) * 0.0]
    keys[1][2] = -0.0
    expected = [0, 1, 0, 3, 4, 1, 6]
    assert duplicates.leaders(keys).tolist() == expected
    monkeypatch.setattr(duplicates, "_hashes", lambda keys: np.zeros(7, dtype=np.uint64))
    assert duplicates.leaders(keys).tolist() == expected


def test_hashes_tell_rows_apart() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, size=(4000, 6)).astype(np.float64)
    assert np.unique(duplicates._hashes([rows])).size == np.unique(rows, axis=0).shape[0]
    # The same entries in one key or in two are the same row.
    assert np.array_equal(duplicates._hashes([rows]), duplicates._hashes([rows[:, :2], rows[:, 2:]]))


def test_directions_between_two_equal_ones_do_not_hide_them() -> None:
    rows = np.array([[1.0, 2.0], [3.0, -1.0], [1.0, 2.0], [0.0, 1.0]])
    part = Neurons(rows, np.zeros(4), NAMED)
    places = np.array([[0.0, 1e-9, 2e-9, 3e-9], [0.0, 5.0, 0.0, 9.0]])
    lines = collinear._Lines(part, np.arange(4), np.ones(4), np.ones(4), places, 1e-8, 0.0)
    assert collinear._leaders(lines).tolist() == [0, 1, 0, 3]


def test_opposite_neurons_are_found_wherever_they_stand() -> None:
    rng = np.random.default_rng(9)
    rows = np.round(rng.standard_normal((150, 258)).astype(np.float32), 3).astype(np.float64)
    both = np.concatenate([rows, -rows])[rng.permutation(300)]
    layer = HiddenLayer(300, (readout(Neurons(both[:, 1:], both[:, 0], named("Tanh")), 2, rng),))
    assert lossless(layer).width == 150
