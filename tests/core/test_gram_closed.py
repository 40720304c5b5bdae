"""Moments in closed form: those of quadrature and of samples, for every activation that has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from hidden_layers import EPS, Columns, neurons, readout
from onnx_coreset.core.activations import ACTIVATIONS, Activation, Composite, Named, Step
from onnx_coreset.core.activations.program import Program
from onnx_coreset.core.gram import closed, hermite, layer_moments, ramps, sampled
from onnx_coreset.core.laws import Gaussian, Mixture, Normal
from onnx_coreset.core.layer import Gated, HiddenLayer, Neurons

ONE = (Gaussian(1.0),)
RAMP_ERROR = 1.2e-7
"""What the docstring of `ramps` states of the integral."""
NAMED = {record.name: record for record in ACTIVATIONS}


def named(name: str, *parameters: object) -> Named:
    return Named(NAMED[name], tuple(np.asarray(p, dtype=np.float64) for p in parameters) or NAMED[name].examples[0])


def fitted(record_index: int, example: int, n: int) -> Named:
    record = ACTIVATIONS[record_index]
    chosen = record.examples[example % len(record.examples)]
    return Named(record, tuple(p if p.ndim == 0 else np.resize(p, n) for p in chosen))


def pair(mean: tuple[float, float], deviation: tuple[float, float], rho: float, activation: Activation) -> Neurons:
    """Two neurons whose pre-activations have these moments under N(0, I)."""
    rest = np.sqrt(max(0.0, (1 - rho) * (1 + rho)))
    rows = np.array([[1.0, 0.0], [rho, rest]]) * np.array(deviation)[:, None]
    return Neurons(rows, np.array(mean), activation)


def quadrature(features: Neurons, step: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of two neurons by the trapezoidal rule in both inputs."""
    grid = np.arange(-9.0, 9.0 + step / 2, step)
    weight = step * np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
    u, v = np.meshgrid(grid, grid, indexing="ij")
    x = np.stack([u.ravel(), v.ravel()], axis=1)
    values = features.evaluate(x)[:, :, 0]
    w = np.outer(weight, weight).ravel()
    mean = w @ values
    return mean, (values - mean).T @ ((values - mean) * w[:, None])


CORRELATIONS = st.one_of(
    st.floats(-1, 1), st.sampled_from([0.0, 1.0, -1.0, 1 - 1e-15, -1 + 1e-15, 1 - 1e-12, 0.999, -0.999])
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, len(ACTIVATIONS) - 1),
    st.integers(0, 9),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    st.tuples(st.floats(0.05, 2.5), st.floats(0.05, 2.5)),
    CORRELATIONS,
)
def test_moments_are_those_of_quadrature(
    record: int, example: int, mean: tuple[float, float], deviation: tuple[float, float], rho: float
) -> None:
    activation = fitted(record, example, 2)
    features = pair(mean, deviation, rho, activation)
    found = closed(features, ONE)
    assume(found is not None)
    assert found is not None
    step = 0.02
    expected_mean, expected = quadrature(features, step)
    power = np.sqrt(np.diag(expected) + expected_mean**2)
    # A kink of a continuous f costs the rule step^2 / 8 times its jump of slope, twice for a product; slopes of what
    # has a closed form here are at most 3 per unit, and polynomials have no kinks.
    slope = 3.0 * np.array(deviation)
    rule = step**2 * (slope + power)
    assert np.all(np.abs(found.mean - expected_mean) <= rule)
    function = ramps.ramps(activation, 2)
    own = np.sqrt(np.diag(expected))
    if function is not None:
        bend = np.array(deviation) * np.abs(function.rises).sum(axis=0)
        stated = RAMP_ERROR * np.outer(bend, bend)
    else:
        # The tail of each is at most twice TAIL of its variance on average: a product of roots is at most TAIL.
        stated = hermite.TAIL * np.outer(own, own) + 1e-6 * np.outer(power, power)
        stated[np.diag_indices(2)] = 1e-6 * power**2
    error = np.abs(found.gram - expected)
    assert np.all(error <= stated + 2 * np.outer(rule, power) + 2 * np.outer(power, rule) + np.outer(rule, rule))


ANALYTIC = [named(name) for name in ("Gelu", "GeluTanh", "Silu", "Tanh", "Sigmoid", "Softplus", "Mish")]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ANALYTIC),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    st.tuples(st.floats(0.05, 2.0), st.floats(0.05, 2.0)),
    CORRELATIONS,
)
def test_the_series_of_smooth_activations_errs_by_its_tail_at_most(
    activation: Named, mean: tuple[float, float], deviation: tuple[float, float], rho: float
) -> None:
    features = pair(mean, deviation, rho, activation)
    found = closed(features, ONE)
    parts = hermite.series(activation, [features.bias], [np.linalg.norm(features.incoming, axis=1)], [1.0])
    assert found is not None and parts is not None
    # The rule has all digits for functions that are analytic in a strip some steps wide.
    expected_mean, expected = quadrature(features, 0.05)
    rounding = 1e-8 * (np.abs(expected_mean) + np.sqrt(np.diag(expected)))
    assert np.all(np.abs(found.mean - expected_mean) <= rounding)
    missing = abs(rho) ** (parts[0].terms.shape[0] + 1) * np.sqrt(np.outer(parts[0].tail, parts[0].tail))
    missing[np.diag_indices(2)] = 0
    assert np.all(np.abs(found.gram - expected) <= missing + np.outer(rounding, np.sqrt(np.diag(expected))) + 1e-9)


def price(h: float, k: float, r: float) -> float:
    """I(h, k; r) as the integral of what Price's theorem says, by an adaptive rule."""

    def density(v: float) -> float:
        q = 1.0 - v * v
        return float((r - v) * np.exp(-(h * h - 2 * h * k * v + k * k) / (2 * q)) / (2 * np.pi * np.sqrt(q)))

    return float(integrate.quad(density, 0.0, r, limit=500, epsabs=1e-12, epsrel=1e-12)[0])


@settings(max_examples=100, deadline=None)
@given(st.floats(-6, 6), st.floats(-6, 6), st.floats(1e-12, 1e-3), st.booleans(), CORRELATIONS, st.booleans())
def test_the_integral_of_two_ramps_is_prices(
    h: float, k: float, near: float, close: bool, rho: float, opposite: bool
) -> None:
    assume(abs(rho) < 1)
    k = h + near if close else k
    k = -k if opposite else k
    features = pair((h, k), (1.0, 1.0), rho, named("Relu"))
    found = closed(features, ONE)
    assert found is not None
    # The correlation is that of the rounded weights.
    exact = float(np.clip(features.incoming[0] @ features.incoming[1] / np.linalg.norm(features.incoming[1]), -1, 1))
    assume(abs(exact) < 1)
    linear = exact * float(stats.norm.cdf(h) * stats.norm.cdf(k))
    assert found.gram[0, 1] == pytest.approx(linear + price(h, k, exact), abs=RAMP_ERROR)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_relu_of_centred_inputs_is_the_arc_cosine_kernel(scale: float) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 5)) * scale
    found = closed(Neurons(rows, np.zeros(40), named("Relu")), ONE)
    assert found is not None
    norms = np.linalg.norm(rows, axis=1)
    rho = np.clip(rows @ rows.T / np.outer(norms, norms), -1, 1)
    kernel = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho)) - 1) / (2 * np.pi)
    # Without biases the integrand has no sharp corner: the rule has all digits but those that arccos loses at 1.
    np.testing.assert_allclose(found.gram, kernel * np.outer(norms, norms), atol=2e-8 * scale**2 * 30)
    np.testing.assert_allclose(found.mean, norms / np.sqrt(2 * np.pi), rtol=1e-14)


def families() -> list[Named]:
    found = []
    for index, record in enumerate(ACTIVATIONS):
        found += [fitted(index, example, 12) for example in range(len(record.examples))]
    return found


LAWS = [
    Mixture(6),
    Normal(6, (Gaussian(0.3, np.linspace(-1, 1, 6)), Gaussian(0.7, np.full(6, 0.3), np.eye(6)[:, :3], 0.7))),
]
CLOSED = ["Identity", "Relu", "Abs", "LeakyRelu", "PRelu", "Clip", "HardSigmoid", "Polynomial", "Sigmoid", "Tanh"]
CLOSED += ["Softplus", "Softsign", "Gelu", "GeluTanh", "Silu", "QuickGelu", "HardSwish", "Mish", "Elu", "Selu", "Celu"]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("activation", families(), ids=lambda a: a.name)
def test_moments_are_those_of_samples_at_six_sigma(activation: Named, law: Mixture | Normal) -> None:
    rng = np.random.default_rng(1)
    features = Neurons(rng.standard_normal((12, 6)) / 2, 0.5 * rng.standard_normal(12), activation)
    found = closed(features, law.components())
    if found is None:
        assert activation.name not in CLOSED
        return
    assert activation.name not in ("Step", "ThresholdedRelu")
    count = 60_000
    values = features.evaluate(law.sample(count, rng))[:, :, 0] - found.mean
    own = np.sqrt(np.diag(found.gram))
    assert np.all(np.abs(values.mean(axis=0)) <= 6 * own / np.sqrt(count) + 1e-9)
    gram, fourth = values.T @ values / count, np.square(values).T @ np.square(values) / count
    error = 6 * np.sqrt(np.maximum(fourth - gram**2, 0) / count)
    assert np.all(np.abs(found.gram - gram) <= error + hermite.TAIL * np.outer(own, own) + 1e-9)


def degenerate(activation: Activation) -> Neurons:
    """Duplicates (0, 1, nearly 2), opposites (3), dead ones (4, 5), far ones (6, 7), a faint one (8), and others."""
    rng = np.random.default_rng(4)
    rows, bias = rng.standard_normal((14, 5)), rng.standard_normal(14)
    rows[[1, 2]], bias[[1, 2]] = rows[0], bias[0]
    rows[2] *= 1 + 1e-9
    rows[3], bias[3] = -rows[0], -bias[0]
    rows[4], rows[5], bias[4], bias[5] = 0.0, 0.0, 0.7, -0.7
    bias[6], bias[7] = 1e7, -1e7
    rows[8] *= 1e-9
    return Neurons(rows, bias, activation)


BOUNDED = [named(name) for name in ("Relu", "Abs", "LeakyRelu", "Clip", "HardSigmoid", "Gelu", "Silu", "Tanh", "Elu")]


@pytest.mark.parametrize("components", [ONE, Mixture(5).components()], ids=len)
@pytest.mark.parametrize("activation", BOUNDED, ids=lambda a: a.name)
def test_the_matrix_is_symmetric_and_positive_semidefinite_up_to_what_is_stated(
    activation: Named, components: tuple[Gaussian, ...]
) -> None:
    features = degenerate(activation)
    found = closed(features, components)
    assert found is not None
    assert np.isfinite(found.gram).all() and np.isfinite(found.mean).all()
    np.testing.assert_array_equal(found.gram, found.gram.T)
    largest = np.diag(found.gram).max()
    power = np.square(np.linalg.norm(features.incoming, axis=1)).max() * max(c.scale**2 for c in components)
    bound = 14 * (RAMP_ERROR * 4 * power + 64 * EPS * largest)
    assert np.linalg.eigvalsh(found.gram)[0] >= -bound


@pytest.mark.parametrize("components", [ONE, Mixture(5).components()], ids=len)
@pytest.mark.parametrize("activation", BOUNDED, ids=lambda a: a.name)
def test_duplicates_are_equal_and_what_does_not_vary_has_no_variance(
    activation: Named, components: tuple[Gaussian, ...]
) -> None:
    found = closed(degenerate(activation), components)
    assert found is not None
    gram = found.gram
    tail = hermite.TAIL * gram[0, 0]
    np.testing.assert_allclose(gram[0], gram[1], rtol=1e-10, atol=tail + 1e-12)
    assert gram[0, 0] == pytest.approx(gram[1, 1], rel=1e-12)
    np.testing.assert_array_equal(gram[[4, 5]], np.zeros((2, 14)))
    np.testing.assert_allclose(found.mean[[4, 5]], activation(np.array([0.7, -0.7])), rtol=8 * EPS, atol=8 * EPS)


def test_an_opposite_of_relu_has_the_covariance_of_both_halves() -> None:
    found = closed(pair((0.4, -0.4), (1.5, 1.5), -1.0, named("Relu")), ONE)
    assert found is not None
    # max(t, 0) and max(-t, 0) are never both positive.
    assert found.gram[0, 1] == pytest.approx(-found.mean[0] * found.mean[1], abs=RAMP_ERROR * 1.5**2)


@pytest.mark.parametrize("far", [50.0, 1e6, 1e300])
def test_relu_far_from_its_kink_is_linear_or_nothing(far: float) -> None:
    rows = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]])
    found = closed(Neurons(rows, np.array([far, far, -far]), named("Relu")), ONE)
    assert found is not None
    expected = rows @ rows.T
    expected[2] = expected[:, 2] = 0
    np.testing.assert_allclose(found.gram, expected, rtol=1e-12, atol=1e-30)
    np.testing.assert_allclose(found.mean, [far, far, 0], rtol=1e-14, atol=1e-30)


@pytest.mark.parametrize("name", ["Relu", "Gelu", "Tanh", "Clip"])
def test_a_single_neuron_has_moments(name: str) -> None:
    features = Neurons(np.array([[0.6, 0.8]]), np.array([0.2]), named(name))
    found = closed(features, ONE)
    assert found is not None
    mean, gram = quadrature(Neurons(np.array([[1.0, 0.0], [1.0, 0.0]]), np.full(2, 0.2), named(name)))
    # step^2 of the rule, for slopes of about 1.
    assert found.mean[0] == pytest.approx(mean[0], abs=1e-4)
    assert found.gram[0, 0] == pytest.approx(gram[0, 0], abs=2e-4)


@pytest.mark.parametrize("name", ["Relu", "Clip", "Gelu"])
def test_tiles_leave_no_trace(name: str) -> None:
    rng = np.random.default_rng(2)
    features = neurons(150, 7, rng, named(name))
    found, tiled = closed(features, Mixture(7).components()), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx_coreset.core.gram.normal.ROWS", 7)
        patch.setattr("onnx_coreset.core.gram.normal.COLUMNS", 11)
        tiled = closed(features, Mixture(7).components())
    assert found is not None and tiled is not None
    # Terms of the series that do not matter are left out tile by tile: 1e-12 of the deviations, once a component.
    np.testing.assert_allclose(found.gram, tiled.gram, atol=1e-11 * np.diag(found.gram).max())
    np.testing.assert_array_equal(found.mean, tiled.mean)


@pytest.mark.parametrize("name", ["Relu", "Gelu"])
def test_a_mixture_is_the_sum_of_its_parts_and_of_their_means(name: str) -> None:
    features = neurons(9, 4, np.random.default_rng(3), named(name))
    root = np.random.default_rng(5).standard_normal((4, 2))
    parts = (Gaussian(0.25, np.ones(4)), Gaussian(0.35, None, root, 0.5), Gaussian(0.4, -np.ones(4), root, 2.0))
    found = closed(features, parts)
    own = [closed(features, (Gaussian(1.0, p.mean, p.root, p.scale),)) for p in parts]
    assert found is not None and all(o is not None for o in own)
    mean = sum(p.weight * o.mean for p, o in zip(parts, own, strict=True))
    shift = [np.outer(o.mean - mean, o.mean - mean) for o in own]
    gram = sum(p.weight * (o.gram + s) for p, o, s in zip(parts, own, shift, strict=True))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.gram, gram, rtol=hermite.AIM, atol=10 * hermite.AIM * np.diag(gram).max())


@pytest.mark.parametrize("name", ["Relu", "Gelu"])
def test_a_root_counts_by_its_covariance_alone(name: str) -> None:
    features = neurons(9, 4, np.random.default_rng(3), named(name))
    found = closed(features, (Gaussian(1.0, None, None, 0.7),))
    turned = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0]
    other = closed(features, (Gaussian(1.0, None, 1.4 * turned, -0.5),))
    assert found is not None and other is not None
    np.testing.assert_allclose(found.gram, other.gram, atol=1e-10 * np.diag(found.gram).max())


def scaled(slopes: np.ndarray, op: str) -> Composite:
    """slope * op(x + 0.1), with a slope for each neuron."""
    return Composite(Program((Step("Add", (0, np.array(0.1))), Step(op, (1,)), Step("Mul", (2, slopes)))))


@pytest.mark.parametrize(("op", "name"), [("Relu", "Relu"), ("Gelu", "Gelu"), ("Tanh", "Tanh")])
def test_a_composite_with_a_factor_for_each_neuron_has_the_moments_of_the_named_one_scaled(op: str, name: str) -> None:
    rng = np.random.default_rng(6)
    slopes, base = rng.standard_normal(20), neurons(20, 5, rng)
    found = closed(Neurons(base.incoming, base.bias, scaled(slopes, op)), ONE)
    plain = closed(Neurons(base.incoming, base.bias + 0.1, named(name)), ONE)
    assert found is not None and plain is not None
    expected = plain.gram * np.outer(slopes, slopes)
    np.testing.assert_allclose(found.gram, expected, atol=1e-9 * np.diag(expected).max())
    np.testing.assert_allclose(found.mean, plain.mean * slopes, rtol=1e-9, atol=1e-12)


def test_neurons_with_parameters_of_their_own_meet_them_whatever_their_deviation() -> None:
    # Deviations out of order: coefficients are computed in another order than neurons have.
    features = Neurons(np.diag([0.5, 3.0, 1.0]), np.array([0.1, 0.2, 0.3]), named("QuickGelu", [0.5, 1.0, 3.0]))
    found = closed(features, ONE)
    assert found is not None
    for j in range(3):
        mean, gram = quadrature(
            pair((features.bias[j],) * 2, (features.incoming[j, j],) * 2, 1.0, features.activation.take(np.array([j])))
        )
        assert found.mean[j] == pytest.approx(mean[0], rel=1e-8)
        assert found.gram[j, j] == pytest.approx(gram[0, 0], rel=1e-8)


def steep(factor: float) -> Composite:
    return Composite(Program((Step("Mul", (0, np.array(factor))), Step("Tanh", (1,)))))


OUT_OF_REACH = {
    "a jump": named("Step"),
    "nearly a jump": steep(1e4),
    "no variance": Composite(Program((Step("Mul", (0, np.array(8.0))), Step("Exp", (1,))))),
    "infinite": Composite(Program((Step("Mul", (0, np.array(1e3))), Step("Exp", (1,))))),
    "not a number": Composite(Program((Step("Log", (0,)),))),
}


@pytest.mark.parametrize("activation", OUT_OF_REACH.values(), ids=OUT_OF_REACH)
def test_what_no_short_series_describes_has_no_closed_form(activation: Activation) -> None:
    assert closed(neurons(10, 4, np.random.default_rng(0), activation), ONE) is None


def test_other_features_and_other_laws_have_no_closed_form() -> None:
    rng = np.random.default_rng(0)
    part = neurons(5, 3, rng, named("Relu"))
    assert closed(Gated(part, part), ONE) is None
    assert closed(Columns(rng.standard_normal((3, 2, 4))), ONE) is None
    assert closed(part, ()) is None


@pytest.mark.parametrize("name", ["Relu", "Gelu"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_have_no_closed_form(name: str, value: float) -> None:
    rows = np.eye(3)
    rows[1, 1] = value
    assert closed(Neurons(rows, np.zeros(3), named(name)), ONE) is None
    assert closed(Neurons(np.eye(3), np.array([0.0, value, 0.0]), named(name)), ONE) is None


def test_knots_that_stand_for_infinity_are_no_ramps() -> None:
    bounds = np.array([-3e38, -1.0, -3e38])
    activation = Composite(Program((Step("Max", (0, bounds)),)))
    assert ramps.ramps(activation, 3) is None
    found = closed(Neurons(np.eye(3), np.array([0.1, -0.5, 0.3]), activation), ONE)
    assert found is not None
    np.testing.assert_allclose(found.mean[[0, 2]], [0.1, 0.3], atol=1e-9)
    np.testing.assert_allclose(np.diag(found.gram)[[0, 2]], [1.0, 1.0], atol=1e-6)


def test_a_variance_that_stands_outside_of_the_grid_is_not_claimed() -> None:
    exponential = Composite(Program((Step("Exp", (0,)),)))
    # exp(5 u): the mean comes from u near 5, the mean square from u near 10, where the grid ends.
    assert closed(Neurons(5.0 * np.eye(2), np.zeros(2), exponential), ONE) is None
    found = closed(Neurons(np.eye(2), np.zeros(2), exponential), ONE)
    assert found is not None
    np.testing.assert_allclose(np.diag(found.gram), np.exp(2) - np.exp(1), rtol=1e-9)


def test_the_tail_of_a_series_is_never_more_than_what_is_stated() -> None:
    shares = []
    for factor in np.geomspace(1.0, 100.0, 25):
        parts = hermite.series(steep(factor), [np.zeros(1)], [np.ones(1)], [1.0])
        if parts is not None:
            shares.append(
                float(parts[0].tail[0] / closed(Neurons(np.eye(1), np.zeros(1), steep(factor)), ONE).gram[0, 0])
            )
    assert 0 < len(shares) < 25
    assert max(shares) <= hermite.TAIL


KINKED = {"Selu": (0.0,), "HardSwish": (-3.0, 3.0), "Elu": (0.0,), "Softsign": (0.0,)}


@pytest.mark.parametrize("name", KINKED)
def test_the_grid_is_refined_until_kinks_do_not_matter(name: str) -> None:
    activation = named(name) if name != "Elu" else named("Elu", 0.5)
    mean, deviation = np.array([0.3, -1.1]), np.array([1.7, 0.9])
    part = hermite.expand(activation, mean, deviation)
    assert part is not None
    for j in range(2):
        kinks = [(kink - mean[j]) / deviation[j] for kink in KINKED[name]]

        def integrand(u: float, j: int = j) -> float:
            return float(activation(np.array([mean[j] + deviation[j] * u]))[0] * stats.norm.pdf(u))

        exact = integrate.quad(integrand, -10, 10, points=kinks, epsabs=1e-12, limit=200)[0]
        # What has settled is the mean of two rules; their difference was SETTLED of the root mean square at the most.
        power = float(np.sqrt(part.variance[j] + part.mean[j] ** 2))
        assert part.mean[j] == pytest.approx(exact, abs=hermite.SETTLED * power)


@dataclass
class Counting:
    """An activation that counts the values it is asked for."""

    inner: Activation
    counts: list[int]
    name: str = "counting"

    def __call__(self, t: np.ndarray) -> np.ndarray:
        self.counts.append(t.size)
        return self.inner(t)

    def take(self, kept: np.ndarray) -> Counting:
        return self


NEEDED = {"a jump": (named("Step"), 1), "smooth": (named("Gelu"), 1), "kinked": (named("Selu"), 130)}
NEEDED["too large"] = (Composite(Program((Step("Mul", (0, np.array(3.2))), Step("Exp", (1,))))), 1)


@pytest.mark.parametrize(("activation", "most"), NEEDED.values(), ids=NEEDED)
def test_functions_are_evaluated_no_more_than_needed(activation: Activation, most: int) -> None:
    counts: list[int] = []
    hermite.expand(Counting(activation, counts), np.full(10, 0.3), np.ones(10))
    # A grid of about 200 points, and one value at the mean.
    assert sum(counts) <= (most * 200 + 1) * 10


def test_layers_use_the_closed_form_where_there_is_one_and_samples_elsewhere() -> None:
    rng = np.random.default_rng(0)
    smooth, jump = neurons(5, 3, rng, named("Gelu")), neurons(5, 3, rng, named("Step"))
    layer = HiddenLayer(5, (readout(smooth, 2, rng), readout(jump, 2, rng), readout(smooth, 3, rng)))
    x = rng.standard_normal((50, 3))
    found = layer_moments(layer, x, ONE)
    exact = closed(smooth, ONE)
    assert exact is not None
    np.testing.assert_array_equal(found[0].gram, exact.gram)
    np.testing.assert_array_equal(found[1].gram, sampled(jump, x).gram)
    assert found[0] is found[2]
    np.testing.assert_array_equal(layer_moments(layer, x)[0].gram, sampled(smooth, x).gram)
