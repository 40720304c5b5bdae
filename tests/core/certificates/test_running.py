"""What float32 makes of a layer stays within the rounding that is said, for every kind of features and activation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certificate_cases import DOMAINS, domain, functions, inputs, named
from feature_cases import FEATURES, JOINT, anything
from onnx_coreset.core.activations import ACTIVATIONS, ELEMENTWISE, Composite, Named, Program, Step
from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates import BallDomain, BoxDomain, Domain
from onnx_coreset.core.certificates.deployed import SINGLE, deployed
from onnx_coreset.core.certificates.domains import contains
from onnx_coreset.core.certificates.running import Running, running
from onnx_coreset.core.layer import Columns, Gated, HiddenLayer, Joint, Neurons, Readout

NAMES = tuple(functions(1, np.random.default_rng(0)))
SPELLED = tuple(
    (record.name, place)
    for record in ACTIVATIONS
    for place, _ in enumerate(record.spellings(record.examples[0]) if record.name != "PRelu" else ())
)
ONE = (
    *("Relu", "LeakyRelu", "ThresholdedRelu", "Clip", "HardSigmoid", "Abs", "Identity", "Neg", "Sign", "Floor", "Ceil"),
    *("Round", "Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "Celu", "Gelu", "HardSwish", "Mish", "Swish"),
    *("QuickGelu", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Atan", "Not"),
)
EXACT = ("Relu", "Abs", "Identity", "Neg", "Clip", "ThresholdedRelu", "Min", "Max", "And", "Or", "Not", "Where")
TWO = (
    *("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Min", "Max", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("Equal", "And", "Or", "PRelu"),
)


def stored(values: Array) -> Array:
    return np.float32(values).astype(np.float64)


def single(layer: HiddenLayer, x: Array, rng: np.random.Generator) -> Array:
    """A layer computed in float32: every step of it rounded, sums in a random order, one by one."""
    readout = layer.readouts[0]
    values = [_single(part, x, rng) for part, _ in _columns(readout)]
    weights = [np.float32(outgoing) for _, outgoing in _columns(readout)]
    return _sum(np.concatenate(values, axis=1), np.concatenate(weights, axis=1), np.float32(readout.constant), rng)


def _columns(readout: Readout) -> list[tuple[Neurons | Gated | Joint, Array]]:
    own = readout.features
    if not isinstance(own, Columns):
        assert isinstance(own, Neurons | Gated | Joint)
        return [(own, readout.outgoing[:, :, 0])]
    return [(part, readout.outgoing[:, :, s] * own.seen[:, s]) for s, part in enumerate(own.parts)]


def _sum(values: Array, weights: Array, bias: Array, rng: np.random.Generator) -> Array:
    """values (N, q) times weights (k, q), plus bias, in float32."""
    order = rng.permutation(values.shape[1])
    if rng.random() < 0.3:
        return np.float32(np.float32(values[:, order]) @ np.float32(weights[:, order]).T + bias)
    terms = np.float32(values[:, None, order]) * np.float32(weights[None, :, order])
    return np.float32(np.cumsum(terms, axis=2, dtype=np.float32)[:, :, -1] + bias)


def _applied(activation: Activation, t: Array) -> Array:
    if isinstance(activation, Composite):
        return steps(activation.program, [t])
    return np.float32(activation(t.astype(np.float64)))


def _single(part: Neurons | Gated | Joint, x: Array, rng: np.random.Generator) -> Array:
    if isinstance(part, Gated):
        return np.float32(_single(part.gate, x, rng) * _single(part.up, x, rng))
    if isinstance(part, Joint):
        return steps(part.program, [_sum(x, own.incoming, np.float32(own.bias), rng) for own in part.parts])
    return _applied(part.activation, _sum(x, part.incoming, np.float32(part.bias), rng))


def steps(program: Program, values: list[Array]) -> Array:
    """A program with the result of every step rounded to float32."""
    known = [np.float32(v) for v in values]
    for step in program.steps:
        operands = [np.float64(known[o]) if isinstance(o, int) else o for o in step.operands]
        with np.errstate(all="ignore"):
            known.append(np.float32(ELEMENTWISE[step.op](operands, dict(step.attributes))))
    return np.broadcast_to(known[-1], known[0].shape)


def rounded(layer: HiddenLayer) -> HiddenLayer:
    """The layer with weights of float32."""
    readout = layer.readouts[0]

    def own(part: Neurons | Gated | Joint) -> Neurons | Gated | Joint:
        if isinstance(part, Gated):
            gate, up = own(part.gate), own(part.up)
            assert isinstance(gate, Neurons) and isinstance(up, Neurons)
            return Gated(gate, up)
        if isinstance(part, Joint):
            return Joint(tuple(p for p in map(own, part.parts) if isinstance(p, Neurons)), part.program)
        return Neurons(stored(part.incoming), stored(part.bias), part.activation)

    old = readout.features
    if isinstance(old, Columns):
        features: Columns | Neurons | Gated | Joint = Columns(tuple(map(own, old.parts)), old.seen)
    else:
        assert isinstance(old, Neurons | Gated | Joint)
        features = own(old)
    return HiddenLayer(layer.width, (Readout(features, stored(readout.outgoing), stored(readout.constant)),))


def compared(layer: HiddenLayer, where: Domain, x: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Largest error of float32, with that of float64 taken off, and what it may be."""
    x = stored(x)
    x = x[contains(where, x)]
    bound = deployed(layer.readouts[0], where)
    if not x.size:
        return np.zeros(bound.shape), bound
    exact = layer.evaluate(x)[0]
    off = np.abs(single(layer, x, rng).astype(np.float64) - exact).max(axis=0, initial=0.0)
    return off * (1 - 1e-6) - 1e-9 * bound, bound


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from((*FEATURES, "neurons")),
    st.sampled_from(NAMES),
    st.sampled_from([name for name in DOMAINS if "point" not in name]),
    st.integers(1, 12),
    st.integers(1, 30),
    st.sampled_from((1e-4, 1.0, 1e3)),
    st.integers(0, 2**32 - 1),
)
def test_single_precision_stays_within_rounding(
    which: str, name: str, where: str, n: int, d: int, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    layer = anything(which, "plain", n, d, 2, rng, functions(n, rng)[name])
    region = domain(where, d, rng)
    if isinstance(region, BallDomain):
        region = BallDomain(region.centre * size, region.radius * size)
    if isinstance(region, BoxDomain):
        region = BoxDomain(region.low * size, region.high * size)
    x = inputs(region, 60, d, rng)
    off, bound = compared(rounded(layer), region, region_centre(region) + (x - region_centre(region)) * 0.999999, rng)
    assert np.isfinite(bound).all() and np.all(off <= bound)


def region_centre(region: Domain) -> Array:
    return 0.5 * (region.low + region.high) if isinstance(region, BoxDomain) else region.centre


@pytest.mark.parametrize(("name", "place"), SPELLED)
def test_a_spelt_out_activation_stays_within_rounding(name: str, place: int) -> None:
    record = next(record for record in ACTIVATIONS if record.name == name)
    rng = np.random.default_rng(place)
    parameters = record.examples[0]
    own = Composite(record.spellings(parameters)[place])
    layer = rounded(anything("neurons", "plain", 20, 15, 3, rng, own))
    where = BoxDomain(-np.ones(15), np.ones(15))
    off, bound = compared(layer, where, inputs(where, 300, 15, rng) * 0.99, rng)
    assert np.isfinite(bound).all() and np.all(off <= bound)
    # The same under its name is said to be off by no less than it is, either.
    part = layer.readouts[0].features
    assert isinstance(part, Neurons)
    plain = Readout(
        Neurons(part.incoming, part.bias, Named(record, parameters)),
        layer.readouts[0].outgoing,
        layer.readouts[0].constant,
    )
    assert np.all(off <= deployed(plain, where))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from((*ONE, *TWO, "Pow", "Where")), st.integers(0, 2**32 - 1))
def test_every_operator_carries_errors_along(op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 3 if op == "Where" else 1 if op in ONE else 2
    size = 10.0 ** rng.uniform(-3, 1)
    middle = rng.standard_normal((count, 400)) * size
    if op in ("Log", "Sqrt", "Div") or rng.random() < 0.3:
        middle = np.abs(middle) + 0.02 * size
    if rng.random() < 0.3:
        # On a jump, or as near as float32 can tell.
        middle[0] = np.rint(middle[0])
    spread, error = 0.1 * size * rng.random((count, 400)), 10.0 ** rng.uniform(-6, -1, (count, 400)) * size
    if op in ("Log", "Sqrt", "Div"):
        spread, error = np.minimum(spread, 0.3 * middle), np.minimum(error, 0.3 * middle)
    if op == "Where":
        # A condition is 0 or 1, and the other one where it is wrong.
        middle[0], spread[0], error[0] = rng.integers(0, 2, (3, 400)) * np.array([[1.0], [0.0], [1.0]])
    steps_ = (Step(op, tuple(range(count))),)
    if op == "Pow":
        count, steps_ = 1, (Step(op, (0, np.asarray(float(rng.choice([0.0, 0.5, 1.0, 2.0, 3.0, -1.0, 2.5]))))),)
    own = [Running(m - s, m + s, e) for m, s, e in zip(middle[:count], spread[:count], error[:count], strict=True)]
    found = running(Program(steps_, count), own, SINGLE)
    for _ in range(20):
        exact = [m + s * rng.uniform(-1, 1, 400) for m, s in zip(middle[:count], spread[:count], strict=True)]
        moved = [x + e * rng.uniform(-1, 1, 400) for x, e in zip(exact, error[:count], strict=True)]
        if op == "Where":
            moved[0] = np.where((error[0] > 0) & (rng.random(400) < 0.5), 1.0 - exact[0], exact[0])
        with np.errstate(all="ignore"):
            operands, others = [*exact, *(steps_[0].operands[1:] if op == "Pow" else ())], list(moved)
            value = ELEMENTWISE[op](operands)
            computed = ELEMENTWISE[op]([*others, *operands[len(others) :]])
            off = np.abs((computed if op in EXACT else np.float32(computed)) - value)
        known = np.isfinite(off)
        assert np.all(off[known] <= found.error[known] * (1 + 1e-9) + 1e-40)
        assert np.all(np.isinf(found.error[~known]) | ~np.isfinite(value[~known]))


def test_the_logarithm_of_a_sum_is_off_by_little() -> None:
    # exp(60) alone is off by more than it is near 1, and the sum's error exceeds its least value.
    naive = Composite(Program((Step("Exp", (0,)), Step("Add", (1, np.asarray(1.0))), Step("Log", (2,)))))
    rng = np.random.default_rng(2)
    p = stored(rng.standard_normal((1, 15)) * 4)
    layer = HiddenLayer(1, (Readout(Neurons(p, np.zeros(1), naive), np.ones((1, 1, 1)), np.zeros(1)),))
    where = BoxDomain(-np.ones(15), np.ones(15))
    assert np.abs(p).sum() > 40
    off, bound = compared(layer, where, rng.uniform(-1, 1, (2000, 15)), rng)
    assert 0 < off[0] <= bound[0] <= 1e-3


def test_a_jump_that_is_missed_costs_nothing() -> None:
    step = named("Step", 0.0, 0.0, 0.0, 1.0)
    p, w = np.ones((1, 3)), np.ones((1, 1, 1))
    for low, far in ((0.5, False), (-0.5, True)):
        where = BoxDomain(np.full(3, low), np.ones(3))
        for own in (step, Composite(Program((Step("Greater", (0, np.asarray(0.0))),)))):
            found = deployed(Readout(Neurons(p, np.zeros(1), own), w, np.zeros(1)), where)[0]
            assert (1.0 <= found <= 1.001) if far else found <= 1e-5


def test_every_record_is_finite_on_a_finite_domain() -> None:
    where = BallDomain(np.zeros(3), 2.0)
    rng = np.random.default_rng(0)
    for record in ACTIVATIONS:
        for parameters in record.examples:
            own = Named(record, parameters)
            layer = Readout(Neurons(rng.standard_normal((3, 3)), np.zeros(3), own), np.ones((1, 3, 1)), np.zeros(1))
            assert np.isfinite(deployed(layer, where)).all(), record.name


def test_a_step_of_a_joint_program_is_followed() -> None:
    # Large pre-activations: what counts is their own rounding, carried through.
    rng = np.random.default_rng(1)
    p = stored(1e2 * rng.standard_normal((2, 1, 200)))
    joint = Joint(tuple(Neurons(own, np.zeros(1), named("Identity")) for own in p), JOINT)
    layer = HiddenLayer(1, (Readout(joint, np.ones((1, 1, 1)), np.zeros(1)),))
    where = BoxDomain(-np.ones(200), np.ones(200))
    off, bound = compared(layer, where, rng.uniform(-1, 1, (2000, 200)), rng)
    assert 1e-4 < off[0] <= bound[0]
