"""The certificate of a layer and its shrunk self: how far apart they are at most, for every input of a domain.

Several bounds are computed and the least of them is taken, output by output; each is sound on its own:

    interval   every neuron replaced by its range
    linear     every neuron replaced by a line, around its even part or around the middle of the domain
    affine     affine policies on the even parts, or relaxed signs around the middle of the domain

The first two are cheap. The third is spent on the outputs whose bound is largest first, until the time is up. Features
that are not dense neurons have bounds of their own; columns of dense neurons are dense neurons.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from onnx_coreset.core.arrays import Array, Indices, frozen
from onnx_coreset.core.certificates.affine import affine, scaled
from onnx_coreset.core.certificates.anyfeatures import Work, bounded
from onnx_coreset.core.certificates.attack import Attack, attack
from onnx_coreset.core.certificates.deployed import SINGLE, deployed
from onnx_coreset.core.certificates.difference import Difference, difference
from onnx_coreset.core.certificates.domains import Domain
from onnx_coreset.core.certificates.forms import Form, even, interval, local
from onnx_coreset.core.certificates.linear import linear
from onnx_coreset.core.certificates.mixture import dense, mixture
from onnx_coreset.core.features import Columns, Gated, Joint, Neurons
from onnx_coreset.core.layer import HiddenLayer

__all__ = ["Certificate", "Effort", "certify"]

Effort = Literal["fast", "tight"]


@dataclass(frozen=True)
class _Plan:
    """How much is spent: steps and rank for the ball and the box, then steps and restarts of the attack."""

    ball: tuple[int, int]
    box: tuple[int, int]
    search: tuple[int, int]


_PLANS: Mapping[str, _Plan] = MappingProxyType(
    {"fast": _Plan((60, 16), (100, 12), (30, 2)), "tight": _Plan((200, 24), (200, 16), (60, 4))}
)
_WORK: Mapping[str, Work] = MappingProxyType({"fast": Work(40, 8, 30, 2), "tight": Work(150, 12, 60, 4)})
_KNOWN = (Neurons, Gated, Joint, Columns)
_MOST_DENSE = 4096
_SHARE = 0.75
_MOST = 6_000_000
_TOGETHER = 16


@dataclass(frozen=True)
class Certificate:
    """What is proven, and what was found, about two layers over a domain.

    Outputs of all readouts stand one after another, k in all.

    Attributes:
        domain: The inputs it holds for.
        certified: No input of the domain makes outputs differ by more, shape (k,); weights as stored, real arithmetic.
        attacked: They do differ by as much at `worst`, shape (k,).
        worst: An input for each output, shape (k, d).
        rounding: What the rounding of both networks as they run adds at most, shape (k,).
        methods: Which bound is the one certified, for each output.
        bounds: Every bound that was computed, by name, shape (k,) each; infinite where it was not.
        reason: Why nothing is certified, or "".
    """

    domain: Domain
    certified: Array
    attacked: Array
    worst: Array
    rounding: Array
    methods: tuple[str, ...]
    bounds: Mapping[str, Array]
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("certified", "attacked", "worst", "rounding"):
            object.__setattr__(self, name, frozen(getattr(self, name)))


def certify(
    before: HiddenLayer,
    after: HiddenLayer,
    domain: Domain,
    effort: Effort = "tight",
    rng: np.random.Generator | None = None,
    seconds: float = float("inf"),
    unit: float = SINGLE,
    workers: int = 1,
) -> Certificate | None:
    """Return how far apart two layers are for every input of a domain.

    Args:
        before: A layer.
        after: Another with the same inputs and outputs; its neurons may be fewer, and other ones.
        domain: The inputs.
        effort: "tight", or "fast" with fewer steps.
        rng: For the starts of descent and search; what is proven holds whatever it draws.
        seconds: When to stop improving bounds; a last step may take longer.
        unit: Largest relative error of one operation of the networks as they run.
        workers: Threads that share the outputs. The products are small: with one thread of BLAS each they take a
            tenth of the time that several threads of BLAS on a busy machine do.

    Returns:
        The certificate, or None where features are of a kind that is not known.

    Raises:
        ValueError: The layers or the domain do not fit each other.
    """
    if len(before.readouts) != len(after.readouts):
        raise ValueError("the layers have another number of readouts")
    pairs = tuple(zip(before.readouts, after.readouts, strict=True))
    if not all(isinstance(side.features, _KNOWN) for pair in pairs for side in pair):
        return None
    rng = np.random.default_rng(0) if rng is None else rng
    started = time.monotonic()
    parts = []
    for index, (old, new) in enumerate(pairs):
        rounding = deployed(old, domain, unit) + deployed(new, domain, unit)
        deadline = started + seconds * (index + 1) / len(pairs)
        plain = isinstance(old.features, Neurons) and isinstance(new.features, Neurons)
        mixed = None if plain else mixture(old, new, domain)
        joined = difference(old, new, domain) if mixed is None else dense(mixed, _MOST_DENSE)
        if joined is not None:
            parts.append(_one(joined, domain, rounding, _PLANS[effort], rng, deadline, workers))
        elif mixed is not None:
            found = bounded(mixed, domain, _WORK[effort], rng, deadline)
            parts.append(_made(domain, found.bounds, found.attack, rounding))
    return parts[0] if len(parts) == 1 else _joined(parts, domain)


def _joined(parts: list[Certificate], domain: Domain) -> Certificate:
    names = [name for name in parts[0].bounds if all(name in part.bounds for part in parts)]
    return Certificate(
        domain,
        np.concatenate([part.certified for part in parts]),
        np.concatenate([part.attacked for part in parts]),
        np.concatenate([part.worst for part in parts]),
        np.concatenate([part.rounding for part in parts]),
        tuple(method for part in parts for method in part.methods),
        MappingProxyType({name: frozen(np.concatenate([part.bounds[name] for part in parts])) for name in names}),
    )


def _one(
    layer: Difference,
    domain: Domain,
    rounding: Array,
    plan: _Plan,
    rng: np.random.Generator,
    deadline: float,
    workers: int,
) -> Certificate:
    """Return the certificate of one readout."""
    frame, outputs = layer.frame, layer.outputs
    started = time.monotonic()
    forms = {"even": even(layer), "local": local(layer)}
    plain = interval(layer)
    bounds = {"interval": plain.constant + plain.slack}
    for name, form in forms.items():
        bounds[f"linear {name}"] = linear(form, frame.rows, frame.reach, frame.ball)
    bounds = {name: _clean(values) for name, values in bounds.items()}
    starts = np.zeros((2 * outputs, 0, frame.rows.shape[1]))
    for name, form in forms.items():
        # Where nothing is left over, the even form is the difference itself, and no other one says more.
        if name == "local" and _exact(layer):
            continue
        best = np.min(np.stack(list(bounds.values())), axis=0)
        until = started + _SHARE * (deadline - started) * (1.0 if _exact(layer) or name == "local" else 0.6)
        found, points = _spend(layer, form, best, plan, rng, until, workers)
        bounds[f"affine {name}"] = _clean(found)
        starts = np.concatenate([starts, points], axis=1)
    steps, restarts = plan.search
    return _made(domain, bounds, attack(layer, domain, steps, restarts, rng, starts, deadline), rounding)


def _made(domain: Domain, bounds: Mapping[str, Array], worst: Attack, rounding: Array) -> Certificate:
    """Return the certificate of upper bounds of D and -D by name, shape (2 k,) each."""
    outputs = rounding.size
    table = np.stack([np.maximum(values[:outputs], values[outputs:]) for values in bounds.values()])
    # Both signs may take another bound; the name is that of the best one for the absolute value.
    least = np.min(np.stack(list(bounds.values())), axis=0)
    certified = np.maximum(np.maximum(least[:outputs], least[outputs:]), 0.0)
    names = list(bounds)
    return Certificate(
        domain,
        certified,
        worst.value,
        worst.worst,
        rounding,
        tuple(names[place] for place in np.argmin(table, axis=0)),
        MappingProxyType({name: frozen(values) for name, values in zip(names, table, strict=True)}),
    )


def _clean(values: Array) -> Array:
    """Return bounds with those that are not a number, from overflow, replaced by infinity."""
    return np.where(np.isnan(values), np.inf, values)


def _exact(layer: Difference) -> bool:
    """Return whether every neuron is a linear part and a multiple of |t| without a rest."""
    found = layer.activation.split(layer.low, layer.high)
    return not (np.any(found.low) or np.any(found.high))


def _spend(
    layer: Difference, form: Form, best: Array, plan: _Plan, rng: np.random.Generator, until: float, workers: int
) -> tuple[Array, Array]:
    """Return affine bounds of a form, those of the largest bounds first, until a time; and points to start from."""
    frame, outputs = layer.frame, layer.outputs
    steps, rank = plan.ball if frame.ball else plan.box
    found = np.full(2 * outputs, np.inf)
    points = np.zeros((2 * outputs, 8, frame.rows.shape[1]))
    if frame.rows.size == 0 or not (
        np.isfinite(frame.rows).all() and np.isfinite(form.weights).all() and np.isfinite(form.lin).all()
    ):
        return found, points[:, :0]
    ready = scaled(form, frame.rows, frame.reach, frame.ball)
    order = np.argsort(-np.maximum(best[:outputs], best[outputs:]), kind="stable")
    parts = _parts(form, order, rank)
    generators = rng.spawn(len(parts))

    def work(index: int) -> None:
        now = time.monotonic()
        if now >= until:
            return
        own = parts[index]
        both = np.concatenate([own, outputs + own])
        limit = now + (until - now) * workers / (len(parts) - index)
        values, where = affine(ready, both, steps, rank, generators[index], limit)
        found[both] = form.constant[both] + values + form.slack[both]
        points[both] = where

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(len(parts))))
    return found + 8.0 * np.finfo(np.float64).eps * np.abs(found), points


def _parts(form: Form, order: Indices, rank: int) -> list[Indices]:
    """Return the outputs in groups small enough for the memory that their policies take."""
    up = int(np.count_nonzero(form.weights > 0, axis=1).max(initial=0))
    down = int(np.count_nonzero(form.weights < 0, axis=1).max(initial=0))
    each = up * down + form.weights.shape[1] * rank
    size = int(np.clip(_MOST // max(2 * each, 1), 1, _TOGETHER))
    return [order[begin : begin + size] for begin in range(0, order.size, size)]
