"""The certificate of a whole network and its shrunk self: how far their outputs are apart at most, over a domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.certificates.depth.attack import attack, starts
from onnx_coreset.core.certificates.depth.backward import substitute
from onnx_coreset.core.certificates.depth.deployed import SINGLE, computed
from onnx_coreset.core.certificates.depth.networks import FeedForward, Pair
from onnx_coreset.core.certificates.depth.ranges import Ranges
from onnx_coreset.core.certificates.depth.regions import region
from onnx_coreset.core.certificates.depth.search import Besides, Functions, Limits, Proof, output_rows, prove
from onnx_coreset.core.certificates.domains import BoxDomain, Domain, place
from onnx_coreset.core.certificates.rounding import UNIT

__all__ = ["EndToEnd", "certify_ends", "gaps"]

_SLACK = 0.05
_SHARE = 0.2
_NOTHING = 1e-7
"""A difference this small, in units of the outputs, is what float32 adds: no box is halved for it."""
_ROUNDING = 1e-4
"""Nor for a rounding this small, some hundred operations' worth."""


@dataclass(frozen=True)
class EndToEnd:
    """What is proven, and what was found, about the outputs of two networks over a domain.

    Attributes:
        domain: The inputs it holds for.
        certified: No input makes outputs differ by more, shape (k,); weights as stored, real arithmetic.
        attacked: They do differ by as much at `worst`, shape (k,).
        worst: An input for each output, shape (k, d).
        rounding: What the rounding of both networks as they run adds at most, shape (k,).
        before: Lower and upper bounds of the original's outputs, shape (k,) each.
        after: The same of the shrunk network's.
        boxes: Number of boxes that branch and bound looked at.
    """

    domain: Domain
    certified: Array
    attacked: Array
    worst: Array
    rounding: Array
    before: tuple[Array, Array]
    after: tuple[Array, Array]
    boxes: int

    def __post_init__(self) -> None:
        for name in ("certified", "attacked", "worst", "rounding"):
            object.__setattr__(self, name, frozen(getattr(self, name)))


def certify_ends(
    pair: Pair,
    domain: Domain,
    rng: np.random.Generator | None = None,
    seconds: float = 10.0,
    unit: float = SINGLE,
    boxes: int = 100_000,
    off: Array | None = None,
) -> EndToEnd:
    """Return how far the outputs of two networks are apart for every input of a domain.

    Args:
        pair: The networks.
        domain: The inputs.
        rng: For the search; what is proven holds whatever it draws.
        seconds: When to stop; a last step may take longer.
        unit: Largest relative error of one operation of the networks as they run.
        boxes: Most boxes that are looked at.
        off: How far inputs as computed may be off, shape (d,); by nothing unless it is given.

    Returns:
        The certificate.

    Raises:
        ValueError: The domain has another number of inputs.
    """
    _fits(pair, domain)
    rng = np.random.default_rng(0) if rng is None else rng
    outputs, one = pair.before.outputs, np.eye(pair.before.outputs)
    found = attack(pair, domain, rng, seconds=_SHARE * seconds)
    with np.errstate(all="ignore"):
        size = np.max(np.nan_to_num(np.abs(pair.before(_points(pair.before, domain)))), axis=0)
    # Both signs: where the difference is large with one sign, a bound as large for the other one is good enough.
    goal = np.tile(found.value * (1.0 + _SLACK) + _NOTHING * size, 2)
    functions = Functions(np.concatenate([-one, one]), np.concatenate([one, -one]), goal)
    rounding = Besides(lambda ranges: _rounding(pair, ranges, unit, off), _SLACK * found.value + _ROUNDING * size)
    proof = prove(pair, region(domain), functions, Limits((1.0 - _SHARE) * seconds, boxes), rounding)
    certified = np.maximum(np.maximum(proof.value[:outputs], proof.value[outputs:]), 0.0)
    before, after = _outputs(pair, proof)
    with np.errstate(all="ignore"):
        spread = np.maximum(after[1] - before[0], before[1] - after[0])
        certified = np.fmin(certified, np.maximum(spread + 2.0 * UNIT * np.abs(spread), 0.0))
    return EndToEnd(domain, certified, found.value, found.worst, proof.besides, before, after, proof.boxes)


def _fits(pair: Pair, domain: Domain) -> None:
    """Raise ValueError where a domain has another number of inputs than the networks."""
    size = domain.low.size if isinstance(domain, BoxDomain) else domain.centre.size
    if size != pair.before.inputs:
        raise ValueError(f"a domain of {size} inputs does not fit {pair.before.inputs} inputs")


def _outputs(pair: Pair, proof: Proof) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return lower and upper bounds of the outputs of both networks over the whole domain."""
    one, none = np.eye(pair.before.outputs), np.zeros((pair.before.outputs, pair.before.outputs))
    functions = Functions(
        np.concatenate([one, -one, none, none]), np.concatenate([none, none, one, -one]), np.zeros(4 * one.shape[0])
    )
    root = proof.root
    which = np.arange(4 * one.shape[0])
    rows = output_rows(pair, root, functions, np.zeros(which.size, dtype=np.intp), which)
    upper = substitute(pair, root.region, list(root.relaxed), root.far, rows).value
    top, bottom, high, low = np.split(upper, 4)
    return (-bottom, top), (-low, high)


def _rounding(pair: Pair, found: Ranges, unit: float, off: Array | None) -> Array:
    """Return what the rounding of both networks as they run adds at most on each part of a region, shape (B, k)."""
    total = np.zeros((found.region.parts, pair.before.outputs))
    for side, net in enumerate((pair.before, pair.after)):
        far = (found.far, *(layer.far[side] for layer in found.relaxed))
        total = total + computed(net, far, [(band.before, band.after)[side] for band in found.bands], unit, off)
    return total * (1.0 + 4.0 * UNIT)


def gaps(pair: Pair, domain: Domain, after: bool, seconds: float = 10.0, boxes: int = 100_000) -> Array:
    """Return upper bounds of every difference of two outputs of one of both networks over a domain.

    Args:
        pair: The networks.
        domain: The inputs.
        after: Whether the shrunk network is meant.
        seconds: When to stop.
        boxes: Most boxes that are looked at.

    Returns:
        Largest y_i - y_j, shape (k, k); where it is negative, y_i < y_j is proven. Differences that some sampled input
        shows to be positive are infinite: nothing about their sign can be proven.

    Raises:
        ValueError: The domain has another number of inputs.
    """
    _fits(pair, domain)
    outputs = pair.before.outputs
    net = pair.after if after else pair.before
    first, second = np.nonzero(~np.eye(outputs, dtype=bool) & ~(_sampled(net, domain) > 0))
    bound = np.full((outputs, outputs), np.inf)
    if first.size == 0:
        return bound
    one = np.eye(outputs)
    rows, none = one[first] - one[second], np.zeros((first.size, outputs))
    # The least negative number: what is 0 or above does not decide a sign.
    goal = np.full(first.size, -1e-300)
    functions = Functions(none if after else rows, rows if after else none, goal)
    bound[first, second] = prove(pair, region(domain), functions, Limits(seconds, boxes)).value
    return bound


def _sampled(net: FeedForward, domain: Domain) -> Array:
    """Return the largest y_i - y_j over some inputs of the domain, shape (k, k)."""
    with np.errstate(all="ignore"):
        y = net(_points(net, domain))
        return np.asarray(np.max(y[:, :, None] - y[:, None, :], axis=0))


def _points(net: FeedForward, domain: Domain) -> Array:
    """Return some inputs of the domain, shape (N, d)."""
    return place(domain, starts(net.inputs, not isinstance(domain, BoxDomain), np.random.default_rng(0), net.size))
