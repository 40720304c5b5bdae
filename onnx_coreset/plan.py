"""How wide a layer stays, and which coreset it gets: from a layer and samples of its inputs to a decision.

What is lossless goes first. The method then orders or picks neurons of what is left, the outgoing weights are
refitted, and eps is met by bisection on samples that were not used for the fit. A nested order also tells what every
width would cost: its error path, on the moments that were fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.domains import Domain
from onnx_coreset.core.gram import Moments, layer_moments
from onnx_coreset.core.laws import Law
from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict, whole
from onnx_coreset.core.lossless import compose, reduced, widened
from onnx_coreset.core.measure import Errors, errors
from onnx_coreset.core.methods.base import Context, Method, Ordered
from onnx_coreset.core.methods.target import error_path
from onnx_coreset.core.refit import refit
from onnx_coreset.options import Options

_POINTS = 16


@dataclass(frozen=True)
class Candidates:
    """The coresets of a layer, one a width.

    Attributes:
        layer: The hidden layer, n neurons.
        base: Its lossless coreset.
        inner: What that leaves.
        moments: Moments of the features of `inner`; none where neither method nor refit needs them.
        method: What chooses neurons.
        context: What the method is told.
        order: Nested order over the neurons of `inner`, where the method has one.
        fitted: Whether outgoing weights are refitted.
        generator: Makes the source of randomness for a width.
        known: Coresets made so far.
        measured: Relative rms on samples that were not fitted to, by width, where it was asked for.
    """

    layer: HiddenLayer
    base: Coreset
    inner: HiddenLayer
    moments: tuple[Moments, ...]
    method: Method
    context: Context
    order: Indices | None
    fitted: bool
    generator: Callable[[int], np.random.Generator]
    known: dict[int, Coreset] = field(default_factory=dict)
    measured: dict[int, float] = field(default_factory=dict)

    @cached_property
    def path(self) -> Array | None:
        """Relative rms of the refit at widths 1 .. n, shape (n,), under the law fitted to; None without an order."""
        if self.order is None or not self.fitted:
            return None
        path = error_path(self.inner, self.moments, self.order)
        return np.concatenate([path, np.zeros(self.layer.width - path.size)])

    @property
    def lossless(self) -> int:
        """How many neurons can be dropped without any error."""
        return self.layer.width - self.base.width

    @property
    def held(self) -> int:
        """Bytes of what was computed of the layer as a whole."""
        return sum(gram.nbytes for gram in {id(m): m.gram for m in self.moments}.values())

    def curve(self, chosen: int) -> tuple[tuple[int, float], ...] | None:
        """Return (width, relative rms) at some widths, increasing, `chosen` among them; None where nothing is known."""
        full = self.layer.width
        if self.path is None:
            return tuple(sorted((self.measured | {full: 0.0}).items())) if self.measured else None
        widths = {*spaced(full), chosen, min(self.base.width, full)}
        return tuple((width, float(self.path[width - 1])) for width in sorted(widths))

    def predicted(self, widths: Indices, x: Array) -> Array:
        """Return the relative rms at some widths, shape (w,): of the path, else measured on `x` (N, d)."""
        if self.path is not None:
            return np.asarray(self.path[widths - 1])
        missing = [int(width) for width in widths if width not in self.measured]
        if missing:
            features, before = observed(self.layer, x)
            for width in missing:
                self.measured[width] = evaluate(self.layer, self.at(width), features, before).norm("rms", False)
        return np.array([self.measured[int(width)] for width in widths])

    def at(self, width: int) -> Coreset:
        """Return the coreset of `width` neurons."""
        if width not in self.known:
            self.known[width] = self._make(width)
        return self.known[width]

    def _make(self, width: int) -> Coreset:
        if width >= self.layer.width:
            return whole(self.layer, self.method.name)
        if not self.fitted:
            if self.order is not None:
                return restrict(self.layer, np.sort(self.order[:width]), self.method.name)
            return self.method.select(self.layer, width, self.context, self.generator(width))
        if width >= self.base.width:
            return widened(self.layer, self.base, width)
        if self.order is not None:
            kept = np.sort(self.order[:width])
        else:
            kept = self.method.select(self.inner, width, self.context, self.generator(width)).kept
        return compose(self.layer, self.base, refit(self.inner, kept, self.moments, method=self.method.name))


def candidates(
    layer: HiddenLayer,
    x: Array,
    method: Method,
    law: Law,
    radius: float,
    options: Options,
    generator: Callable[[int], np.random.Generator],
    domain: Domain | None = None,
) -> Candidates:
    """Return the coresets that `method` gives for a layer.

    Args:
        layer: The hidden layer, n neurons.
        x: Samples of its inputs that may be fitted to, shape (N, d).
        method: What chooses neurons.
        law: Where the samples come from.
        radius: Radius of a ball that holds the inputs.
        options: What was asked.
        generator: Makes the source of randomness for a width; 0 is for the order.
        domain: Where all inputs lie, proven, those that a shrunk model computes included; None: anywhere.
    """
    base, inner = reduced(layer, domain)
    if not options.refit:
        inner = layer
    needed = options.refit or "moments" in method.requires
    moments = layer_moments(inner, x, law.components()) if needed else ()
    context = Context(law=law, moments=moments or None, radius=radius)
    order = method.order(inner, context, generator(0)) if isinstance(method, Ordered) else None
    return Candidates(layer, base, inner, moments, method, context, order, options.refit, generator)


def observed(layer: HiddenLayer, x: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return features (N, n, s) and outputs (N, k) of each readout for inputs (N, d)."""
    cache: dict[int, Array] = {}
    for readout in layer.readouts:
        if id(readout.features) not in cache:
            cache[id(readout.features)] = readout.features.evaluate(x)
    features = tuple(cache[id(readout.features)] for readout in layer.readouts)
    return features, tuple(readout.apply(h) for readout, h in zip(layer.readouts, features, strict=True))


def evaluate(layer: HiddenLayer, coreset: Coreset, features: tuple[Array, ...], before: tuple[Array, ...]) -> Errors:
    """Return the local error of a coreset on features that are already known.

    Args:
        layer: The hidden layer.
        coreset: A coreset of it.
        features: Features of each readout, (N, n, s).
        before: Outputs of each readout, (N, k).
    """
    after = tuple(
        h[:, coreset.kept].reshape(h.shape[0], -1) @ w.reshape(w.shape[0], -1).T + c
        for h, w, c in zip(features, coreset.outgoing, coreset.constant, strict=True)
    )
    return errors(before, after)


def asked(name: str, width: int, options: Options, named: int | None) -> int | None:
    """Return the width that the options ask for, or None where an error or a budget decides.

    Args:
        name: Name of the chain.
        width: Its number of neurons n.
        options: What was asked.
        named: What `--width` or `--widths` says of this chain.
    """
    if named is not None:
        return min(named, width)
    if options.ratio is None:
        return None
    return rounded(max(1, math.ceil(options.ratio * width - 1e-9)), width, options)


def rounded(wanted: int, width: int, options: Options) -> int:
    """Return `wanted` at least the smallest width allowed, rounded up, and never above `width`."""
    wanted = max(wanted, options.min_width)
    return min(width, -(-wanted // options.round_to) * options.round_to)


def allowed(width: int, options: Options) -> Indices:
    """Return the widths that a layer of n = `width` neurons may have, increasing, n always among them."""
    wanted = np.maximum(np.arange(1, width + 1), options.min_width)
    return np.unique(np.minimum(width, -(-wanted // options.round_to) * options.round_to))


def allowance(whole: int, share: float) -> int:
    """Return how many parameters a share of `whole` is; rounding of the product is forgiven."""
    return math.floor(share * whole * (1 + 1e-12))


def spaced(width: int) -> tuple[int, ...]:
    """Return about 16 widths from 1 to `width`, in equal ratios."""
    return tuple(sorted({round(width ** (i / (_POINTS - 1))) for i in range(_POINTS)}))


def measured_on(found: Candidates, x: Array, options: Options) -> Callable[[int], bool]:
    """Return what tells whether a width meets eps on samples.

    Args:
        found: The coresets, one a width.
        x: Samples that were not fitted to, shape (N, d).
        options: What was asked; eps is given.
    """
    features, before = observed(found.layer, x)

    def meets(width: int) -> bool:
        assert options.eps is not None
        measured = evaluate(found.layer, found.at(width), features, before)
        return measured.norm(options.norm, options.absolute) <= options.eps

    return meets


def least_width(found: Candidates, meets: Callable[[int], bool], options: Options) -> int:
    """Return the least width that meets eps, by bisection.

    Args:
        found: The coresets, one a width.
        meets: Whether a width meets eps.
        options: What was asked.

    Returns:
        A width; where none below meets eps, that of the lossless coreset, which was not asked about. O(log n) refits.
    """
    full = found.layer.width
    low, high = 0, min(full, found.base.width if found.fitted else full)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return rounded(high, full, options)
