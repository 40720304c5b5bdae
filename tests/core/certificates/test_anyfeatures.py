"""Layers of any features: no input of a domain makes two differ by more than their certificate says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certificate_cases import DOMAINS, KINDS, domain, functions, inputs, named
from feature_cases import FEATURES, activation, anything, fewer, polished
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates import BallDomain, BoxDomain, Certificate, Domain, certify, quadratic
from onnx_coreset.core.certificates.domains import contains
from onnx_coreset.core.certificates.mixture import mixture, surely
from onnx_coreset.core.layer import Columns, Gated, HiddenLayer, Neurons, Readout

NAMES = tuple(functions(1, np.random.default_rng(0)))


def reached(before: HiddenLayer, after: HiddenLayer, where: Domain, x: Array) -> Array:
    """What they differ by at least at some inputs, (N, k)."""
    return surely(mixture(before.readouts[0], after.readouts[0], where), where, x)


def check(before: HiddenLayer, after: HiddenLayer, where: Domain, rng: np.random.Generator, count: int = 200) -> None:
    found = certify(before, after, where, "fast", rng)
    assert found is not None and contains(where, found.worst).all()
    most = reached(before, after, where, inputs(where, count, before.inputs, rng)).max(axis=0)
    for name, values in found.bounds.items():
        assert np.all(values >= most), name
        assert np.all(values >= found.attacked), name
    assert np.all(found.certified >= found.attacked) and not np.isnan(found.rounding).any()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FEATURES),
    st.sampled_from(KINDS),
    st.sampled_from(DOMAINS),
    st.sampled_from(NAMES),
    st.integers(1, 10),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_no_point_of_the_domain_exceeds_a_bound(
    which: str, kind: str, where: str, name: str, n: int, d: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    before = anything(which, kind, n, d, 2, rng, activation(name, n, rng))
    check(before, fewer(before, rng), domain(where, d, rng), rng)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_gated_neurons_stay_below_their_bounds_at_any_scale(name: str, box: bool, size: float) -> None:
    rng = np.random.default_rng(len(name) + box)
    before = anything("gated", "plain", 9, 2, 2, rng, activation(name, 9, rng))
    where = BoxDomain(-size * np.ones(2), size * np.ones(2)) if box else BallDomain(np.zeros(2), size)
    check(before, polished(fewer(before, rng), rng), where, rng, 4000)


@pytest.mark.parametrize("which", FEATURES)
def test_values_taken_down_are_the_difference_itself(which: str) -> None:
    rng = np.random.default_rng(1)
    before = anything(which, "plain", 12, 4, 3, rng, named("Silu"))
    after, where = fewer(before, rng), BallDomain(np.zeros(4), 2.0)
    x = inputs(where, 300, 4, rng)
    exact = np.abs(before.evaluate(x)[0] - after.evaluate(x)[0])
    found = reached(before, after, where, x)
    assert np.all(found <= exact + 1e-13) and np.all(found >= exact - 1e-11)


@pytest.mark.parametrize("which", FEATURES)
def test_what_was_kept_as_it_was_costs_nothing(which: str) -> None:
    rng = np.random.default_rng(2)
    whole = anything(which, "copies", 8, 3, 2, rng, named("Gelu"))
    found = certify(whole, whole, BallDomain(np.zeros(3), 1.0), "fast", rng)
    assert found is not None and np.all(found.certified <= 1e-12)
    if "columns" not in which:
        # No neuron is there twice: weights cancel, and nothing is left.
        whole = anything(which, "plain", 8, 3, 2, rng, named("Gelu"))
        assert not mixture(whole.readouts[0], whole.readouts[0], found.domain).terms


@pytest.mark.parametrize("box", [False, True])
def test_the_certificate_of_gated_neurons_is_close_to_the_attack(box: bool) -> None:
    rng = np.random.default_rng(3)
    d, n = 24, 60
    before = anything("gated", "plain", n, d, 4, rng, named("Silu"))
    after = fewer(before, rng)
    where = BoxDomain(-np.ones(d), np.ones(d)) if box else BallDomain(np.zeros(d), 4.0)
    found = certify(before, after, where, "tight", rng)
    assert found is not None and np.mean(found.certified / found.attacked) <= (2.6 if box else 2.1)
    assert np.all(found.bounds["interval"] >= 4.0 * found.certified)


def test_a_bilinear_layer_is_bounded_by_its_eigenvalue() -> None:
    # g u with g = u = t: t^2 over the ball of radius 3 is 9 at most; and x1 x2 is 9 / 2.
    one, identity = np.eye(2)[:1], named("Identity")
    for up, value in ((np.eye(2)[:1], 9.0), (np.eye(2)[1:], 4.5)):
        gated = Gated(Neurons(one, np.zeros(1), identity), Neurons(up, np.zeros(1), identity))
        before = HiddenLayer(1, (Readout(gated, np.ones((1, 1, 1)), np.zeros(1)),))
        after = HiddenLayer(1, (Readout(gated, np.zeros((1, 1, 1)), np.zeros(1)),))
        found = certify(before, after, BallDomain(np.zeros(2), 3.0), "tight")
        assert found is not None and value <= found.certified[0] <= value * (1 + 1e-3)
        assert found.attacked[0] >= value * (1 - 1e-5)


def test_columns_of_dense_neurons_are_dense_neurons() -> None:
    rng = np.random.default_rng(4)
    before = anything("dense columns", "plain", 8, 4, 2, rng, named("Relu"))
    after, where = fewer(before, rng), BallDomain(np.zeros(4), 2.0)
    old = before.readouts[0]
    assert isinstance(old.features, Columns)

    def flat(layer: HiddenLayer) -> HiddenLayer:
        own = layer.readouts[0]
        assert isinstance(own.features, Columns)
        parts = [part for part in own.features.parts if isinstance(part, Neurons)]
        p, b = (np.concatenate([getattr(part, name) for part in parts]) for name in ("incoming", "bias"))
        weights = (own.outgoing * own.features.seen).transpose(0, 2, 1).reshape(own.outputs, -1, 1)
        return HiddenLayer(b.size, (Readout(Neurons(p, b, named("Relu")), weights, own.constant),))

    found = certify(before, after, where, "tight", np.random.default_rng(0))
    same = certify(flat(before), flat(after), where, "tight", np.random.default_rng(0))
    assert found is not None and same is not None
    np.testing.assert_allclose(found.certified, same.certified, rtol=0.02)


def test_out_of_time_leaves_the_bound_of_ranges() -> None:
    rng = np.random.default_rng(5)
    before = anything("gated", "plain", 20, 6, 30, rng, named("Silu"))
    after, where = fewer(before, rng), BallDomain(np.zeros(6), 2.0)
    found = certify(before, after, where, "tight", rng, seconds=0.0)
    assert found is not None and np.isfinite(found.certified).all() and np.all(found.attacked > 0)
    assert not np.isfinite(found.bounds["quadratic"]).all()
    assert np.all(found.certified >= reached(before, after, where, inputs(where, 500, 6, rng)).max(axis=0))


def test_other_inputs_are_refused() -> None:
    rng = np.random.default_rng(6)
    one, two = (anything("gated", "plain", 3, d, 1, rng, named("Silu")) for d in (2, 3))
    with pytest.raises(ValueError, match="other inputs or outputs"):
        mixture(one.readouts[0], two.readouts[0], BallDomain(np.zeros(2), 1.0))
    both = HiddenLayer(3, (replace(one.readouts[0]), one.readouts[0]))
    with pytest.raises(ValueError, match="number of readouts"):
        certify(one, both, BallDomain(np.zeros(2), 1.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("box", [False, True])
def test_neurons_that_were_moved_a_little_are_bounded_beside_what_they_were(name: str, box: bool) -> None:
    rng = np.random.default_rng(len(name) + box)
    d = 3
    before = anything("gated", "plain", 8, d, 2, rng, activation(name, 8, rng))
    for share in (1e-12, 1e-3, 0.1, 0.5):
        after = polished(fewer(before, rng), rng, share)
        where = BoxDomain(-np.ones(d), 2.0 * np.ones(d)) if box else BallDomain(0.3 * np.ones(d), 2.0)
        check(before, after, where, rng, 2000)


def test_what_moved_a_little_costs_little() -> None:
    rng = np.random.default_rng(7)
    before = anything("gated", "plain", 30, 12, 3, rng, named("Silu"))
    where = BallDomain(np.zeros(12), 3.0)
    sizes = []
    for share in (1e-2, 1e-3):
        found = certify(before, polished(before, rng, share), where, "fast", np.random.default_rng(0))
        assert found is not None
        sizes.append(float(found.certified.mean()))
        assert np.mean(found.certified / found.attacked) <= 6.0
    # The bound falls with the distance, as the difference itself does.
    assert sizes[1] <= 0.15 * sizes[0]


@pytest.mark.parametrize("moved", ["gate", "up"])
def test_a_pair_is_bounded_exactly_where_one_factor_moved(moved: str) -> None:
    # relu(y1) (0.1 y1 - 0.1 y2), or (relu(y1) - relu(0.9 y1 + 0.1 y2)) y1: 0.05 (1 + sqrt 2) at most, at y1 > 0.
    still, other, zero = np.array([[1.0, 0.0]]), np.array([[0.9, 0.1]]), np.zeros(1)
    gates = (Neurons(still, zero, named("Relu")), Neurons(other if moved == "gate" else still, zero, named("Relu")))
    ups = (Neurons(still, zero, named("Identity")), Neurons(other if moved == "up" else still, zero, named("Identity")))
    before, after = (
        HiddenLayer(1, (Readout(Gated(gate, up), np.ones((1, 1, 1)), zero),))
        for gate, up in zip(gates, ups, strict=True)
    )
    found = certify(before, after, BallDomain(np.zeros(2), 1.0), "tight")
    value = 0.05 * (1.0 + np.sqrt(2.0))
    assert found is not None and value * (1 - 1e-12) <= found.certified[0] <= 1.02 * value


def test_a_value_on_a_jump_counts_for_nothing() -> None:
    # t is 0 up to rounding: the step may be on either side.
    step, identity = named("Step", 0.0, 0.0, 0.0, 1.0), named("Identity")
    gated = Gated(Neurons(np.ones((1, 2)), np.zeros(1), step), Neurons(np.zeros((1, 2)), np.ones(1), identity))
    before, after = (Readout(gated, np.full((1, 1, 1), w), np.zeros(1)) for w in (1.0, 0.0))
    where = BallDomain(np.zeros(2), 1.0)
    found = surely(mixture(before, after, where), where, np.array([[0.3, -0.3], [0.3, 0.3]]))
    assert found[0, 0] == 0.0 and found[1, 0] > 0.99


def test_with_a_goal_only_what_decides_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    # One output at a time.
    monkeypatch.setattr(quadratic, "_TOGETHER", 1)
    rng = np.random.default_rng(9)
    before = anything("gated", "plain", 12, 5, 6, rng, named("Silu"))
    after, where = polished(fewer(before, rng), rng), BallDomain(np.zeros(5), 2.0)

    def bounded(enough: Array | None) -> Certificate:
        found = certify(before, after, where, "fast", np.random.default_rng(0), enough=enough)
        assert found is not None and np.all(found.attacked <= found.certified)
        return found

    every = bounded(None)
    ranged, tight = every.bounds["interval"], every.certified
    # The first half is below its goals by ranges alone.
    goal = np.where(np.arange(6) < 3, 1.01 * ranged, 1.05 * tight) + every.rounding
    found = bounded(goal)
    assert np.all(found.certified + found.rounding <= goal)
    assert not np.isfinite(found.bounds["quadratic"][:3]).any() and np.isfinite(found.bounds["quadratic"][3:]).all()
    sure = bounded(np.where(np.arange(6) == 2, 0.9 * every.attacked, 1.05 * tight + every.rounding))
    assert not np.isfinite(sure.bounds["quadratic"]).any()
    # Just below what can be shown: nothing that is found says no, and the first bound that does ends it.
    unsure = bounded(0.999 * tight + every.rounding)
    assert np.all(every.attacked < 0.999 * tight) and np.any(unsure.certified > 0.999 * tight)
    assert np.isfinite(unsure.bounds["quadratic"]).sum() == 1
