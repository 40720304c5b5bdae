"""Small hidden layers for tests: activations that need no record, random layers, moments of random features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.gram import Moments
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class PRelu:
    """x for x >= 0, slope * x below; slope is () or (n,)."""

    slope: Array
    name: str = "PRelu"

    def __call__(self, t: Array) -> Array:
        return np.where(t >= 0, t, self.slope * t)

    def take(self, kept: Indices) -> PRelu:
        return PRelu(self.slope if self.slope.ndim == 0 else self.slope[kept])

    def interval(self, low: Array, high: Array) -> tuple[Array, Array]:
        return self(low), self(high)

    def supremum(self, low: Array, high: Array) -> Array:
        return np.maximum(np.abs(self(low)), np.abs(self(high)))


@dataclass(frozen=True, eq=False)
class Capped(PRelu):
    """min(x, slope): a parameter that shows only far from zero."""

    def __call__(self, t: Array) -> Array:
        return np.minimum(t, self.slope)

    def take(self, kept: Indices) -> Capped:
        return Capped(self.slope[kept])


RELU = PRelu(np.zeros(()))


def neurons(n: int, d: int, rng: np.random.Generator, activation: Activation = RELU) -> Neurons:
    return Neurons(rng.standard_normal((n, d)), 0.5 * rng.standard_normal(n), activation)


def readout(features: Neurons, k: int, rng: np.random.Generator, constant_allowed: bool = True) -> Readout:
    outgoing = rng.standard_normal((k, features.width, features.columns))
    return Readout(features, outgoing, rng.standard_normal(k), constant_allowed)


def plain(n: int = 12, d: int = 5, k: int = 4, seed: int = 0, activation: Activation = RELU) -> HiddenLayer:
    """A layer of one readout of dense neurons."""
    rng = np.random.default_rng(seed)
    return HiddenLayer(n, (readout(neurons(n, d, rng, activation), k, rng),))


@dataclass(frozen=True)
class Columns:
    """Features (N, n, s) that are a fixed linear map of the inputs: s columns a neuron."""

    maps: Array
    name: str = "columns"

    @property
    def width(self) -> int:
        return int(self.maps.shape[0])

    @property
    def columns(self) -> int:
        return int(self.maps.shape[1])

    @property
    def inputs(self) -> int:
        return int(self.maps.shape[2])

    def evaluate(self, x: Array) -> Array:
        return np.maximum(np.einsum("jsd,Nd->Njs", self.maps, x), -0.1)

    def sample(self, law, count, rng):
        return self.evaluate(law.sample(count, rng))

    def take(self, kept: Indices) -> Columns:
        return Columns(self.maps[kept])


def drawn(p: int, seed: int = 0, rank: int | None = None, rows: int = 400) -> Moments:
    """Moments of p correlated random features, far from zero."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, rank or p)) @ rng.standard_normal((rank or p, p)) + rng.standard_normal(p)
    return Moments(values.mean(axis=0), np.cov(values.T, bias=True).reshape(p, p))
