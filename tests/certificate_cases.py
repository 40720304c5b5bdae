"""Layers and domains that certificates are tried on: random ones, and those at the edge of what a layer can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_coreset.core.activations import ACTIVATIONS, Named, Program, Step
from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Composite
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.difference import Difference, difference
from onnx_coreset.core.certificates.domains import BallDomain, BoxDomain, Domain, EllipsoidDomain, place
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout

KINDS = ("plain", "zeros", "copies", "mirrored", "one sign", "other sign", "long", "huge", "tiny", "flat", "dead")
DOMAINS = ("ball", "centred ball", "box", "ellipsoid", "centred ellipsoid", "point", "flat box", "small ball")


def named(name: str, *parameters: Array | float) -> Named:
    record = next(record for record in ACTIVATIONS if record.name == name)
    return Named(record, tuple(np.asarray(p, dtype=np.float64) for p in parameters), record.exact)


def functions(n: int, rng: np.random.Generator) -> dict[str, Activation]:
    """Activations of n neurons: every record once, one with a parameter a neuron, and one without a name."""
    found: dict[str, Activation] = {}
    for record in ACTIVATIONS:
        scalar = [p for p in record.examples if all(np.ndim(value) == 0 for value in p)]
        if scalar:
            found[record.name] = Named(record, scalar[0], record.exact)
    found["PRelu"] = named("PRelu", rng.uniform(-0.5, 1.5, n))
    found["Composite"] = Composite(Program((Step("Sin", (0,)), Step("Mul", (0, 1)), Step("Add", (2, np.asarray(0.3))))))
    return found


RELU = named("Relu")


def rows(kind: str, n: int, d: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Incoming weights and biases of a kind."""
    p, b = rng.standard_normal((n, d)), 0.5 * rng.standard_normal(n)
    if kind == "zeros":
        live = rng.random(n) < 0.5
        return p * live[:, None], b * (rng.random(n) < 0.5)
    if kind in ("copies", "mirrored"):
        which = rng.integers(0, max(1, n // 2), n)
        sign = rng.choice([-1.0, 1.0], n) if kind == "mirrored" else np.ones(n)
        return p[which] * sign[:, None], b[which] * sign
    if kind == "long":
        return p * 10.0 ** rng.uniform(-4, 4, (n, 1)), b * 10.0 ** rng.uniform(-4, 4, n)
    if kind == "huge":
        return p * 1e18, b * 1e18
    if kind == "tiny":
        return p * 1e-25, b * 1e-25
    if kind == "flat":
        return p[:, :1] * p[:1], b
    return p, b


def layer(kind: str, n: int, d: int, k: int, rng: np.random.Generator, f: Activation = RELU) -> HiddenLayer:
    """A layer of a kind."""
    p, b = rows(kind, n, d, rng)
    w = rng.standard_normal((k, n))
    if kind == "one sign":
        w = np.abs(w)
    if kind == "other sign":
        w = -np.abs(w)
    if kind == "dead":
        w[:, rng.random(n) < 0.5] = 0.0
    return HiddenLayer(n, (Readout(Neurons(p, b, f), w[:, :, None], rng.standard_normal(k)),))


def shrunk(whole: HiddenLayer, rng: np.random.Generator, how: str = "kept") -> HiddenLayer:
    """Half of the neurons with other outgoing weights; or with other incoming weights too ("moved")."""
    readout = whole.readouts[0]
    part = readout.features
    assert isinstance(part, Neurons)
    kept = np.sort(rng.choice(whole.width, max(1, whole.width // 2), replace=False))
    w = readout.outgoing[:, kept] * (1.0 + 0.3 * rng.standard_normal((readout.outputs, kept.size, 1)))
    taken = part.take(kept)
    if how == "moved":
        taken = Neurons(
            taken.incoming * (1.0 + 0.1 * rng.standard_normal(taken.incoming.shape)), taken.bias, taken.activation
        )
    return HiddenLayer(kept.size, (Readout(taken, w, readout.constant + 0.1 * rng.standard_normal(readout.outputs)),))


def domain(kind: str, d: int, rng: np.random.Generator) -> Domain:
    """A domain of a kind."""
    if kind == "ball":
        return BallDomain(rng.standard_normal(d), float(rng.uniform(0.1, 4.0)))
    if kind == "centred ball":
        return BallDomain(np.zeros(d), float(rng.uniform(0.1, 4.0)))
    if kind == "small ball":
        return BallDomain(rng.standard_normal(d), 1e-4)
    if kind == "point":
        return BallDomain(rng.standard_normal(d), 0.0)
    low = rng.standard_normal(d)
    if kind == "box":
        return BoxDomain(low, low + rng.uniform(0.0, 3.0, d))
    if kind == "flat box":
        return BoxDomain(low, low + rng.uniform(0.0, 3.0, d) * (rng.random(d) < 0.5))
    gain = rng.standard_normal(d) * (rng.random(d) < 0.9)
    return EllipsoidDomain(gain, rng.standard_normal(d), float(np.sqrt(d)), centred=kind == "centred ellipsoid")


def points(ball: bool, count: int, d: int, rng: np.random.Generator) -> Array:
    """Points of the unit ball or box: on its border, its corners, along its axes, inside, and the middle."""
    drawn = rng.standard_normal((count, d))
    axes = np.concatenate([np.eye(d), -np.eye(d), np.zeros((1, d))])
    if not ball:
        return np.concatenate([np.sign(drawn), np.clip(drawn, -1.0, 1.0), axes])
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True) + 1e-300
    return np.concatenate([drawn, drawn * rng.random((count, 1)), axes])


def inputs(where: Domain, count: int, d: int, rng: np.random.Generator) -> Array:
    """Inputs of a domain."""
    return place(where, points(not isinstance(where, BoxDomain), count, d, rng))


def of(before: HiddenLayer, after: HiddenLayer, where: Domain) -> Difference:
    """The difference of their first readouts."""
    return difference(before.readouts[0], after.readouts[0], where)


Bound = Callable[[Difference], Array]
