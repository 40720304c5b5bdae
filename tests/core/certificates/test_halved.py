"""Parabolas on halved boxes: no input is above the bound, and few inputs bring it close to what is reached."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import certificate_cases as cases
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.attack import attack, surely
from onnx_coreset.core.certificates.depth.curves import curves
from onnx_coreset.core.certificates.depth.single import FEW, halved
from onnx_coreset.core.certificates.difference import Difference
from onnx_coreset.core.certificates.domains import BallDomain, BoxDomain, Domain, place

NAMES = sorted(cases.functions(6, np.random.default_rng(0)))


def holds(layer: Difference, where: Domain, x: Array, boxes: int) -> Array:
    """No input is above the bound, whichever sign."""
    found = halved(layer, boxes=boxes)
    both = np.maximum(found[: layer.outputs], found[layer.outputs :])
    assert np.all(surely(layer, where, x) <= both)
    return both


@pytest.mark.parametrize("name", NAMES)
def test_no_input_is_above_the_bound_for_any_activation(name: str) -> None:
    rng = np.random.default_rng([31, *name.encode()])
    for trial in range(24):
        d = 1 + trial % 6
        f = cases.functions(6, rng)[name]
        whole = cases.layer("plain", 6, d, 2, rng, f)
        where = cases.domain(cases.DOMAINS[trial % 8], d, rng)
        layer = cases.of(whole, cases.shrunk(whole, rng, ("kept", "moved")[trial % 2]), where)
        points = cases.inputs(where, 300, d, rng)
        if d <= 2:
            axis = np.linspace(-1.0, 1.0, 400 if d == 1 else 30)
            points = np.concatenate([points, place(where, np.array(list(product(axis, repeat=d))))])
        holds(layer, where, points, (1, 40, 200)[trial % 3])


@pytest.mark.parametrize("kind", cases.KINDS)
def test_degenerate_layers_and_domains_are_no_exception(kind: str) -> None:
    rng = np.random.default_rng([32, *kind.encode()])
    for where in cases.DOMAINS:
        for f in (cases.RELU, cases.named("Tanh"), cases.named("Gelu")):
            d, n = int(rng.integers(1, 7)), int(rng.integers(1, 8))
            whole = cases.layer(kind, n, d, 2, rng, f)
            domain = cases.domain(where, d, rng)
            layer = cases.of(whole, cases.shrunk(whole, rng), domain)
            holds(layer, domain, cases.inputs(domain, 200, d, rng), 30)


def test_a_layer_against_itself_differs_by_rounding_alone() -> None:
    rng = np.random.default_rng(33)
    whole = cases.layer("plain", 9, 3, 2, rng, cases.named("Tanh"))
    assert np.all(halved(cases.of(whole, whole, BallDomain(np.zeros(3), 2.0))) < 1e-12)


def test_smooth_layers_of_few_inputs_are_within_two_of_what_is_reached() -> None:
    rng = np.random.default_rng(34)
    for name in ("Tanh", "Sigmoid", "Gelu", "Elu"):
        whole = cases.layer("plain", 24, 6, 4, rng, cases.named(name, 1.0) if name == "Elu" else cases.named(name))
        where = BoxDomain(-np.ones(6), 0.5 * np.ones(6))
        layer = cases.of(whole, cases.shrunk(whole, rng), where)
        found = halved(layer, boxes=4000)
        reached = attack(layer, where, 60, 4, rng).value
        assert np.max(np.maximum(found[:4], found[4:])) <= 2.0 * reached.max()


def test_a_ball_of_two_inputs_is_closed_to_a_hundredth() -> None:
    rng = np.random.default_rng(35)
    for name in ("Tanh", "Relu", "Silu"):
        whole = cases.layer("plain", 12, 2, 1, rng, cases.named(name))
        where = BallDomain(rng.standard_normal(2), 2.0)
        layer = cases.of(whole, cases.shrunk(whole, rng), where)
        reached = attack(layer, where, 60, 8, rng).value[0]
        # A hundredth is where boxes are left alone; what is seen at their middles falls short of the attack.
        assert reached <= halved(layer).max() <= 1.011 * reached


def test_the_same_work_gives_the_same_bound_and_more_work_no_worse_one() -> None:
    rng = np.random.default_rng(36)
    whole = cases.layer("plain", 10, 4, 3, rng, cases.named("Sigmoid"))
    layer = cases.of(whole, cases.shrunk(whole, rng), BallDomain(np.zeros(4), 2.0))
    some = [halved(layer, boxes=boxes) for boxes in (1, 50, 50, 1000)]
    assert np.array_equal(some[1], some[2])
    assert np.all(some[1] <= some[0]) and np.all(some[3] <= some[1]) and some[3].max() < 0.99 * some[1].max()
    assert np.array_equal(halved(layer, some[3], boxes=1), some[3])


def test_many_inputs_are_not_halved_but_those_that_do_not_vary_count_for_nothing() -> None:
    rng = np.random.default_rng(37)
    whole = cases.layer("plain", 6, FEW + 1, 1, rng)
    half = cases.shrunk(whole, rng)
    assert np.all(np.isinf(halved(cases.of(whole, half, BallDomain(np.zeros(FEW + 1), 1.0)))))
    low = np.zeros(FEW + 1)
    high = low.copy()
    high[:2] = 1.0
    assert np.all(np.isfinite(halved(cases.of(whole, half, BoxDomain(low, high)), boxes=20)))


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_is_never_further_from_its_parabola_than_the_rest(name: str) -> None:
    rng = np.random.default_rng([38, *name.encode()])
    f = cases.functions(6, rng)[name]
    for scale in (1e-9, 1e-2, 1.0, 30.0):
        low = 2.0 * rng.standard_normal((20, 6))
        high = low + scale * rng.random((20, 6))
        around = low + (high - low) * rng.uniform(-0.5, 1.5, (20, 6))
        found = curves(f, low, high, around)
        for share in np.linspace(0.0, 1.0, 41):
            t = np.clip(low + share * (high - low), low, high)
            x = t - around
            away = np.abs(f(t) - (found.at + found.slope * x + found.bend * x**2))
            assert np.all(away <= found.rest + 1e-14 * (1.0 + np.abs(f(t))))
