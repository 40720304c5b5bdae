"""How far apart two readouts of any features are at most, and the worst inputs found.

    interval    every neuron replaced by its range
    quadratic   gated neurons as one quadratic form for each output and sign, all others as their ranges

The first holds for all features. The second is spent on the outputs whose bound is largest first, while there is time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.attack import Attack
from onnx_coreset.core.certificates.domains import Domain
from onnx_coreset.core.certificates.gates import is_product
from onnx_coreset.core.certificates.mixture import Mixture, ranges
from onnx_coreset.core.certificates.products import products
from onnx_coreset.core.certificates.quadratic import quadratic
from onnx_coreset.core.certificates.rounding import UNIT
from onnx_coreset.core.certificates.search import search

__all__ = ["Found", "Work", "bounded"]

_SHARE = 0.6


@dataclass(frozen=True)
class Work:
    """How much is spent: steps and rank of the relaxation, steps and restarts of the search."""

    steps: int
    rank: int
    climb: int
    restarts: int


@dataclass(frozen=True)
class Found:
    """Upper bounds of D and -D by name, shape (2 k,) each, and the worst inputs found."""

    bounds: Mapping[str, Array]
    attack: Attack


def bounded(
    layer: Mixture,
    domain: Domain,
    work: Work,
    rng: np.random.Generator,
    deadline: float,
    enough: Array | None = None,
) -> Found:
    """Return bounds of a difference of any features, and an attack.

    Args:
        layer: The difference, k outputs.
        domain: The domain.
        work: How much is spent.
        rng: For the starts.
        deadline: On the clock of `time.monotonic`: after it nothing more is begun.
        enough: What bounds of |D| are to stay below, shape (k,): nothing is spent on outputs that do, and nothing more
            on any once one is known not to.

    Returns:
        The bounds, each sound on its own; infinite where a feature's range is or time was up.
    """
    started, outputs = time.monotonic(), layer.outputs
    fixed = np.concatenate([layer.constant, -layer.constant])
    fixed = fixed + np.concatenate([layer.doubt, layer.doubt]) * (1.0 + 1e-10)
    bounds = {"interval": _sum(fixed, ranges(layer.terms, outputs))}
    order = np.argsort(-np.maximum(bounds["interval"][:outputs], bounds["interval"][outputs:]), kind="stable")
    starts = np.zeros((2 * outputs, 0, layer.inputs))
    gated = tuple(term for term in layer.terms if is_product(term))
    if gated:
        bounds["quadratic"] = np.full(2 * outputs, np.inf)
    if enough is not None:
        early = search(layer, domain, work.climb, work.restarts, rng, starts, order, deadline)
        if np.any(early.value > enough):
            return Found(bounds, early)
    if gated:
        rest = _sum(fixed, ranges(tuple(term for term in layer.terms if not is_product(term)), outputs))
        until = started + _SHARE * (deadline - started)
        goal = np.full(2 * outputs, -np.inf)
        if enough is not None:
            # Where ranges say enough, anything will do.
            goal = np.where(bounds["interval"] <= np.tile(enough, 2), np.inf, np.tile(enough, 2) - rest)
        # All gated neurons in one form: those of either layer cancel.
        values, starts = quadratic(products(gated), order, work.steps, work.rank, rng, until, goal)
        bounds["quadratic"] = _sum(rest, values)
    return Found(bounds, search(layer, domain, work.climb, work.restarts, rng, starts, order, deadline))


def _sum(first: Array, second: Array) -> Array:
    """Return sums rounded up, infinite where they are not a number."""
    with np.errstate(invalid="ignore"):
        total = first + second
        total = total + 4.0 * UNIT * (np.abs(first) + np.abs(second))
    return np.where(np.isnan(total), np.inf, total)
