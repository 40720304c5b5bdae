"""Sensitivity sampling is unbiased, has the width asked for, and mends what the paper and its code leave wrong."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.core.activations import recognise
from onnx_coreset.core.activations.spell import spell
from onnx_coreset.core.laws import Ball, Mixture
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout, shrink
from onnx_coreset.core.methods import METHODS, Context, Method, Sensitivity
from onnx_coreset.core.methods.sensitivity import distinct, draws_for

RELU = recognise(spell(("Relu", "x")))
GELU = recognise(spell(("Gelu", "x")))


def layer(rng, n=12, d=4, k=3, activation=RELU, heads=1):
    features = Neurons(rng.standard_normal((n, d)), 0.5 * rng.standard_normal(n), activation)
    heads = [Readout(features, rng.standard_normal((k, n, 1)), rng.standard_normal(k)) for _ in range(heads)]
    return HiddenLayer(n, tuple(heads))


def context(d=4, radius=2.0):
    return Context(Ball(radius, d), radius=radius)


def mean_and_error(samples):
    samples = np.asarray(samples)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples)) + 1e-15


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("activation", [RELU, GELU], ids=["relu", "gelu"])
def test_the_estimator_is_unbiased_for_every_input(signs, activation):
    rng = np.random.default_rng(1)
    whole = layer(rng, activation=activation)
    x = Ball(2.0, 4).sample(5, rng)
    exact = whole.evaluate(x)[0]
    method = Sensitivity(signs=signs)
    outputs = [shrink(whole, method.estimate(whole, 7, context(), rng)).evaluate(x)[0] for _ in range(4000)]
    mean, error = mean_and_error(outputs)
    assert np.all(np.abs(mean - exact) <= 5 * error)
    # A bias of a tenth of the spread would be seen.
    assert np.all(error <= 0.02 * np.std(outputs, axis=0))


@pytest.mark.parametrize("signs", [False, True])
def test_a_coreset_of_exact_width_is_unbiased_too(signs):
    rng = np.random.default_rng(2)
    whole = layer(rng)
    x = Ball(2.0, 4).sample(5, rng)
    exact = whole.evaluate(x)[0]
    drawn = [Sensitivity(signs=signs).select(whole, 5, context(), rng) for _ in range(6000)]
    assert all(coreset.width == 5 for coreset in drawn)
    mean, error = mean_and_error([shrink(whole, coreset).evaluate(x)[0] for coreset in drawn])
    assert np.all(np.abs(mean - exact) <= 5 * error)


def test_dropping_the_surplus_instead_would_be_biased():
    # The test above can fail: without the division by the inclusion probabilities the mean is off by many errors.
    rng = np.random.default_rng(2)
    whole = layer(rng)
    x = Ball(2.0, 4).sample(5, rng)
    outputs = []
    for _ in range(6000):
        coreset = Sensitivity().estimate(
            whole, draws_for(Sensitivity().sensitivities(whole, context()), 5), context(), rng
        )
        weights = coreset.outgoing[0].copy()
        weights[:, np.argsort(-np.abs(weights[:, :, 0]).max(axis=0))[5:]] = 0
        features = whole.readouts[0].features.take(coreset.kept)
        outputs.append(Readout(features, weights, coreset.constant[0]).apply(features.evaluate(x)))
    mean, error = mean_and_error(outputs)
    assert np.max(np.abs(mean - whole.evaluate(x)[0]) / error) > 5


def test_the_bias_is_inside_the_supremum():
    features = Neurons(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1.0, -1.0]), RELU)
    whole = HiddenLayer(2, (Readout(features, np.ones((1, 2, 1)), np.zeros(1)),))
    (s,) = Sensitivity().sensitivities(whole, context(2))
    np.testing.assert_allclose(s, [3.0, 1.0], rtol=1e-14)
    # The published bound radius * |(p, b)| is 2.83: the neuron itself reaches more.
    assert 2.0 * np.hypot(1.0, 1.0) < features.evaluate(np.array([[2.0, 0.0]]))[0, 0, 0] == 3.0


@pytest.mark.parametrize("name", ["Gelu", "Mish", "Tanh", "HardSwish"])
def test_sensitivities_bound_signed_and_non_monotone_activations(name):
    rng = np.random.default_rng(3)
    whole = layer(rng, activation=recognise(spell((name, "x"))))
    x = rng.standard_normal((20000, 4))
    x *= 2.0 * rng.random((20000, 1)) ** 0.25 / np.linalg.norm(x, axis=1, keepdims=True)
    features = whole.readouts[0].features
    tips = 2.0 * features.incoming / np.linalg.norm(features.incoming, axis=1, keepdims=True)
    x = np.concatenate([x, tips, -tips])
    reached = np.abs(features.evaluate(x)[:, :, 0]).max(axis=0) * np.abs(whole.readouts[0].outgoing[:, :, 0]).max(
        axis=0
    )
    (s,) = Sensitivity().sensitivities(whole, context())
    assert np.all(reached <= s) and np.all(reached >= 0.98 * s)


def test_a_dip_below_zero_counts_where_the_end_does_not_show_it():
    features = Neurons(np.array([[0.5]]), np.array([-1.0]), GELU)
    whole = HiddenLayer(1, (Readout(features, np.ones((1, 1, 1)), np.zeros(1)),))
    (s,) = Sensitivity().sensitivities(whole, context(1, 1.0))
    # Pre-activations lie in [-1.5, -0.5]; the minimum at -0.7518 exceeds both ends.
    np.testing.assert_allclose(s, 0.16997120747990366, rtol=1e-13)


def test_one_output_is_algorithm_1():
    rng = np.random.default_rng(4)
    n, d, m = 6, 3, 5
    p, w = rng.standard_normal((n, d)), rng.random(n)
    whole = HiddenLayer(n, (Readout(Neurons(p, np.zeros(n), RELU), w.reshape(1, n, 1), np.zeros(1)),))
    # Algorithm 1 as printed: pr = w phi(beta |p|) / sum, u(q) += w(q) / (m pr(q)) for m draws.
    score = w * np.maximum(2.0 * np.linalg.norm(p, axis=1), 0)
    pr = score / score.sum()
    coreset = Sensitivity().estimate(whole, m, context(3), np.random.default_rng(5))
    hits = np.random.default_rng(5).multinomial(m, pr)
    np.testing.assert_array_equal(coreset.kept, np.flatnonzero(hits))
    np.testing.assert_allclose(coreset.outgoing[0][0, :, 0], (hits * w / (m * pr))[hits > 0], rtol=1e-12)


def test_the_variance_is_what_refutes_the_stated_size():
    # Orthonormal rows, weights L, radius 1, x one of the rows: Var = L^2 n (1 - 1/n) / m, so errors scale with L.
    n, m, big = 8, 4, 50.0
    whole = HiddenLayer(n, (Readout(Neurons(np.eye(n), np.zeros(n), RELU), np.full((1, n, 1), big), np.zeros(1)),))
    rng, x = np.random.default_rng(6), np.eye(n)[:1]
    outputs = [
        float(shrink(whole, Sensitivity().estimate(whole, m, context(n, 1.0), rng)).evaluate(x)[0][0, 0])
        for _ in range(20000)
    ]
    expected = big**2 * n * (1 - 1 / n) / m
    # The sum over draws is binomial: the variance of its sample variance is at most 3 of its square.
    assert abs(np.var(outputs, ddof=1) - expected) <= 5 * expected * np.sqrt(3 / 20000)


def test_stopping_at_a_number_of_distinct_neurons_is_biased():
    # The published code: draw until `width` distinct neurons are met, then divide by the number of draws.
    pr, width, runs = np.array([0.8, 0.15, 0.05]), 2, 20000
    rng = np.random.default_rng(7)
    ratios = np.zeros((runs, 3))
    for run in range(runs):
        hits = np.zeros(3)
        while np.count_nonzero(hits) < width:
            hits[rng.choice(3, p=pr)] += 1
        ratios[run] = hits / (hits.sum() * pr)
    mean, error = mean_and_error(ratios)
    assert np.max(np.abs(mean - 1) / error) > 20
    fixed = rng.multinomial(5, pr, size=runs) / (5 * pr)
    mean, error = mean_and_error(fixed)
    assert np.all(np.abs(mean - 1) <= 5 * error)


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("width", [1, 2, 7, 11, 12])
def test_the_width_is_exact(signs, width):
    rng = np.random.default_rng(8)
    whole = layer(rng, heads=2)
    for _ in range(50):
        coreset = Sensitivity(signs=signs).select(whole, width, context(), rng)
        assert coreset.width == width and len(coreset.outgoing) == 2
        for readout, constant in zip(whole.readouts, coreset.constant, strict=True):
            np.testing.assert_array_equal(constant, readout.constant)
    if width == 12:
        np.testing.assert_array_equal(coreset.outgoing[0], whole.readouts[0].outgoing)


def test_neurons_without_effect_are_never_drawn_and_the_rest_stays_exact():
    rng = np.random.default_rng(9)
    whole = layer(rng, n=8)
    outgoing = whole.readouts[0].outgoing.copy()
    outgoing[:, [1, 4]] = 0
    features = whole.readouts[0].features
    bias = features.bias.copy()
    bias[6] = -100.0
    features = Neurons(features.incoming, bias, RELU)
    whole = HiddenLayer(8, (Readout(features, outgoing, np.zeros(3)),))
    coreset = Sensitivity().select(whole, 5, context(), rng)
    np.testing.assert_array_equal(coreset.kept, [0, 2, 3, 5, 7])
    x = Ball(2.0, 4).sample(50, rng)
    np.testing.assert_allclose(shrink(whole, coreset).evaluate(x)[0], whole.evaluate(x)[0], atol=1e-12)
    for _ in range(100):
        assert not set(Sensitivity().estimate(whole, 30, context(), rng).kept) & {1, 4, 6}


def test_a_layer_without_any_effect_keeps_what_it_is_asked_for():
    rng = np.random.default_rng(10)
    features = layer(rng).readouts[0].features
    whole = HiddenLayer(12, (Readout(features, np.zeros((2, 12, 1)), np.ones(2)),))
    assert Sensitivity().select(whole, 3, context(), rng).width == 3
    coreset = Sensitivity().estimate(whole, 3, context(), rng)
    np.testing.assert_array_equal(shrink(whole, coreset).evaluate(np.ones((1, 4)))[0], [[1.0, 1.0]])


def test_an_activation_without_bound_is_sampled_all_the_same():
    rng = np.random.default_rng(11)
    whole = layer(rng, activation=recognise(spell(("Div", 1.0, "x"))))
    (s,) = Sensitivity().sensitivities(whole, context())
    assert np.all(np.isfinite(s)) and np.all(s > 0)


def test_the_expected_number_of_distinct_neurons_meets_the_width():
    rng = np.random.default_rng(12)
    parts = (rng.random(40) ** 4,)
    draws = draws_for(parts, 15)
    assert distinct(parts, draws) <= 15 < distinct(parts, draws + 1)
    counts = [np.count_nonzero(rng.multinomial(draws, parts[0] / parts[0].sum())) for _ in range(4000)]
    mean, error = mean_and_error(counts)
    assert abs(mean - distinct(parts, draws)) <= 5 * error


def test_each_head_counts_in_its_own_unit():
    rng = np.random.default_rng(13)
    features = layer(rng).readouts[0].features
    big, small = 1e6 * rng.standard_normal((2, 12, 1)), 1e-6 * rng.standard_normal((2, 12, 1))
    both = HiddenLayer(12, (Readout(features, big, np.zeros(2)), Readout(features, small, np.zeros(2))))
    (s,) = Sensitivity().sensitivities(both, context())
    alone = [Sensitivity().sensitivities(HiddenLayer(12, (r,)), context())[0] for r in both.readouts]
    np.testing.assert_allclose(s, np.maximum(alone[0] / alone[0].max(), alone[1] / alone[1].max()))


def test_signs_split_the_weights_and_nothing_else():
    rng = np.random.default_rng(14)
    whole = layer(rng)
    plus, minus = Sensitivity(signs=True).sensitivities(whole, context())
    (s,) = Sensitivity().sensitivities(whole, context())
    np.testing.assert_allclose(np.maximum(plus, minus), s)
    x = Ball(2.0, 4).sample(200, rng)
    plain = [shrink(whole, Sensitivity().estimate(whole, 20, context(), rng)).evaluate(x)[0] for _ in range(400)]
    split = [
        shrink(whole, Sensitivity(signs=True).estimate(whole, 20, context(), rng)).evaluate(x)[0] for _ in range(400)
    ]
    # No split is needed: it does not lower the variance where weights have both signs for different outputs.
    assert np.mean(np.var(plain, axis=0)) <= 1.1 * np.mean(np.var(split, axis=0))


def test_radius_and_centre():
    rng = np.random.default_rng(15)
    whole = layer(rng)
    (near,) = Sensitivity(radius=1.0).sensitivities(whole, context())
    (given,) = Sensitivity().sensitivities(whole, context(radius=1.0))
    np.testing.assert_array_equal(near, given)
    free = Context(Mixture(4), radius=1.0)
    np.testing.assert_array_equal(Sensitivity().sensitivities(whole, free)[0], given)


def test_misuse_is_refused():
    rng = np.random.default_rng(16)
    whole = layer(rng)
    for width in (0, 13):
        for method in METHODS.values():
            if "moments" not in method.requires:
                with pytest.raises(ValueError, match="width"):
                    method.select(whole, width, context(), rng)
    with pytest.raises(ValueError, match="draw"):
        Sensitivity().estimate(whole, 0, context(), rng)


def test_the_table_holds_methods_by_name():
    assert {"sensitivity", "uniform", "norm"} <= set(METHODS)
    for name, method in METHODS.items():
        assert method.name == name and isinstance(method, Method)
    with pytest.raises(TypeError):
        METHODS["other"] = Sensitivity()  # type: ignore[index]
