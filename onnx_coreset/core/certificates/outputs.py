"""Bounds of all outputs of dense neurons within a time: cheap ones for every output, the dear one where it counts most.

First what is cheap, for a block of outputs at a time: ranges, one eigenvalue shared by all, and lines as long as a
share of the time lasts. They are finite wherever ranges are. Then affine policies, with the form that does best on the
output whose bound is largest: the even part, broken lines, or slopes around the middle. They are spent on outputs in
the order of their bounds, the largest first. Last the attack, in the order of what is then proven, from the points
where the relaxations are worst.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.affine import affine, scaled
from onnx_coreset.core.certificates.attack import Attack, attack
from onnx_coreset.core.certificates.depth.single import few, halved
from onnx_coreset.core.certificates.difference import Difference
from onnx_coreset.core.certificates.domains import Domain
from onnx_coreset.core.certificates.forms import Form, even, interval, local
from onnx_coreset.core.certificates.kinks import kinked
from onnx_coreset.core.certificates.linear import linear
from onnx_coreset.core.certificates.shared import common, shared

__all__ = ["Plan", "proven"]

_SHARE, _CHEAP, _HALVED = 0.75, 0.3, 0.6
_MOST, _BLOCK, _KEPT = 6_000_000, 4_000_000, 16_000_000
_TOGETHER = 16
_PILOT = (30, 8)
_WORSE = 1.1
_CLOSE = 1.02
_KINKS, _MOST_TERMS = 3, 2400
_DEAR = 8_000_000
"""Above this many policies of one output none are sought: minutes an output."""


@dataclass(frozen=True)
class Plan:
    """How much is spent: steps and rank for the ball and the box, steps and restarts of the attack, and boxes."""

    ball: tuple[int, int]
    box: tuple[int, int]
    search: tuple[int, int]
    boxes: int = 20_000


@dataclass(frozen=True)
class _Terms:
    """A form of some outputs, and the rows (n, d) and reach (n,) of its terms."""

    form: Form
    rows: Array
    reach: Array


Make = Callable[[Difference], _Terms]


def proven(
    layer: Difference,
    domain: Domain,
    plan: Plan,
    rng: np.random.Generator,
    deadline: float,
    workers: int,
    enough: Array | None = None,
) -> tuple[Mapping[str, Array], Attack]:
    """Return upper bounds of D and -D by name, shape (2 k,) each, and the worst inputs found.

    Args:
        layer: The difference of two layers, k outputs.
        domain: Where its inputs lie.
        plan: How much is spent.
        rng: For the starts of descent and search.
        deadline: When to stop, on the clock of `time.monotonic`; a last step may take longer.
        workers: Threads that share the outputs.
        enough: What bounds of |D| are to stay below, shape (k,): nothing is spent on outputs that do, and nothing more
            on any once one is known not to. Where it is not given all bounds are made as small as can be.
    """
    started = time.monotonic()
    left = deadline - started
    bounds = _cheap(layer, started + _CHEAP * left, workers)
    starts: dict[int, Array] = {}
    makers = _makers(layer)
    bounds |= {name: np.full(2 * layer.outputs, np.inf) for name in (*(f"affine {name}" for name in makers), "halved")}
    goal = np.full(2 * layer.outputs, -np.inf) if enough is None else np.tile(enough, 2)
    if enough is not None:
        early = attack(layer, domain, *plan.search, rng)
        if np.any(early.value > enough):
            return bounds, early
    spare = workers * (started + _SHARE * left - time.monotonic())
    chosen = _chosen(layer, makers, _least(bounds), rng, spare) if spare > 0 and np.any(_least(bounds) > goal) else []
    for count, name in enumerate(chosen):
        now = time.monotonic()
        until = now + (started + _SHARE * left - now) / (len(chosen) - count)
        # The last one decides, unless boxes are halved after it.
        final = count == len(chosen) - 1 and not few(layer)
        spent = _Spent(plan, rng, until, workers, starts, goal, final)
        bounds[f"affine {name}"] = _spend(layer, makers[name], _least(bounds), spent)
    steps, restarts = plan.search
    best = _least(bounds)
    order = np.argsort(-np.maximum(best[: layer.outputs], best[layer.outputs :]), kind="stable")
    worst = attack(layer, domain, steps, restarts, rng, starts, deadline, order)
    bounds["halved"] = best
    # Where the search all but reaches what is proven, no box is halved.
    close = np.maximum(np.tile(worst.value, 2) * _CLOSE, goal)
    if np.any(best > close):
        seconds = _HALVED * max(0.0, deadline - time.monotonic())
        bounds["halved"] = halved(layer, best, seconds, plan.boxes, close)
    return bounds, worst


def _least(bounds: Mapping[str, Array]) -> Array:
    return np.asarray(np.min(np.stack(list(bounds.values())), axis=0))


def _exact(layer: Difference) -> bool:
    """Return whether every neuron is a linear part and a multiple of |t| without a rest."""
    found = layer.activation.split(layer.low, layer.high)
    return not (np.any(found.low) or np.any(found.high))


def _makers(layer: Difference) -> dict[str, Make]:
    """Return the forms that policies may be sought for."""
    rows, reach = layer.frame.rows, layer.frame.reach
    makers: dict[str, Make] = {"even": lambda part: _Terms(even(part), rows, reach)}
    # Where nothing is left over, the even form is the difference itself, and no other one says more.
    if not _exact(layer):
        makers["local"] = lambda part: _Terms(local(part), rows, reach)
        if _KINKS * layer.low.size <= _MOST_TERMS:
            makers["broken"] = lambda part: _Terms(*kinked(part, _KINKS))
    return makers


def _some(layer: Difference, which: Indices) -> Difference:
    """Return the difference of some outputs only."""
    return replace(
        layer,
        weights=layer.weights[which],
        doubt=layer.doubt[which],
        constant=layer.constant[which],
        constant_doubt=layer.constant_doubt[which],
    )


def _clean(values: Array) -> Array:
    """Return bounds with those that are not a number, from overflow, replaced by infinity."""
    return np.where(np.isnan(values), np.inf, values)


def _cheap(layer: Difference, until: float, workers: int) -> dict[str, Array]:
    """Return the bounds that cost little, shape (2 k,) each; lines are infinite for outputs whose turn was too late."""
    frame, outputs = layer.frame, layer.outputs
    size = int(np.clip(_BLOCK // max(2 * (layer.low.size + frame.rows.shape[1]), 1), 1, max(outputs, 1)))
    names = ("interval", "linear even", "linear local", "shared")
    bounds = {name: np.full(2 * outputs, np.inf) for name in names}
    base = common(local(_some(layer, np.arange(min(size, outputs)))), frame.rows, frame.ball)
    plain = np.zeros(2 * outputs)

    def first(begin: int) -> None:
        own = np.arange(begin, min(begin + size, outputs))
        part, both = _some(layer, own), np.concatenate([own, outputs + own])
        range_of = interval(part)
        bounds["interval"][both] = range_of.constant + range_of.slack
        bounds["shared"][both] = shared(local(part), base)
        plain[both] = np.fmin(bounds["interval"][both], bounds["shared"][both])

    def second(begin: int) -> None:
        if begin and time.monotonic() > until:
            return
        own = order[begin : begin + size]
        part, both = _some(layer, own), np.concatenate([own, outputs + own])
        for name, form in (("linear even", even(part)), ("linear local", local(part))):
            bounds[name][both] = linear(form, frame.rows, frame.reach, frame.ball)

    begins = range(0, outputs, size)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(first, begins))
        order = np.argsort(-np.fmax(plain[:outputs], plain[outputs:]), kind="stable")
        list(pool.map(second, begins))
    return {name: _clean(values) for name, values in bounds.items()}


def _usable(terms: _Terms) -> bool:
    form = terms.form
    finite = np.isfinite(terms.rows).all() and np.isfinite(form.weights).all() and np.isfinite(form.lin).all()
    return bool(terms.rows.size and finite and _policies(form) <= _DEAR)


def _policies(form: Form) -> int:
    """Return how many policies an output has at most."""
    up = int(np.count_nonzero(form.weights > 0, axis=1).max(initial=0))
    return up * int(np.count_nonzero(form.weights < 0, axis=1).max(initial=0))


def _chosen(
    layer: Difference, makers: Mapping[str, Make], best: Array, rng: np.random.Generator, spare: float
) -> list[str]:
    """Return the forms worth their time: the one best for the output of the largest bound, and those close to it.

    One that would not reach all outputs in the seconds to spare is left to others: an output that no policy reaches is
    what the layer's bound would be.
    """
    if len(makers) == 1:
        return list(makers)
    first = int(np.argmax(np.maximum(best[: layer.outputs], best[layer.outputs :]))) if layer.outputs else 0
    part, values, costs = _some(layer, np.array([first])), {}, {}
    for name, make in makers.items():
        begun = time.monotonic()
        terms = make(part)
        if _usable(terms):
            values[name] = float(_bounds(terms, layer.frame.ball, np.arange(2), *_PILOT, rng, np.inf)[0].max())
            costs[name] = (time.monotonic() - begun) * layer.outputs
    cheapest = min(costs.values(), default=0.0)
    able = [name for name in values if costs[name] <= max(spare, cheapest)]
    least = min((values[name] for name in able), default=0.0)
    near = sorted((name for name in able if values[name] <= _WORSE * least), key=lambda name: values[name])
    # A second one has to fit beside the first.
    total = np.cumsum([costs[name] for name in near])
    return [name for place, name in enumerate(near) if place == 0 or total[place] <= spare]


def _bounds(
    terms: _Terms, ball: bool, which: Indices, steps: int, rank: int, rng: np.random.Generator, until: float
) -> tuple[Array, Array]:
    """Return bounds of some functions of a form by affine policies, and points to start from."""
    form = terms.form
    ready = scaled(form, terms.rows, terms.reach, ball)
    values, points = affine(ready, which, steps, rank, rng, until)
    total = form.constant[which] + values + form.slack[which]
    return _clean(total + 8.0 * np.finfo(np.float64).eps * np.abs(total)), points


@dataclass(frozen=True)
class _Spent:
    """How policies are sought: the plan, a source of randomness, until when, by how many threads, and what for.

    Attributes:
        starts: Takes points to start an attack from, by function.
        goal: Functions below it are left alone, shape (2 k,).
        final: Whether an output that stays above its goal ends the search for the others.
    """

    plan: Plan
    rng: np.random.Generator
    until: float
    workers: int
    starts: dict[int, Array]
    goal: Array
    final: bool


def _spend(layer: Difference, make: Make, best: Array, spent: _Spent) -> Array:
    """Return affine bounds of a form, those of the largest bounds first, until a time."""
    outputs, until, workers = layer.outputs, spent.until, spent.workers
    steps, rank = spent.plan.ball if layer.frame.ball else spent.plan.box
    found = np.full(2 * outputs, np.inf)
    order = np.argsort(-np.maximum(best[:outputs], best[outputs:]), kind="stable")
    above = np.asarray(np.any((best > spent.goal).reshape(2, -1), axis=0))
    order = order[above[order]]
    each = _policies(make(_some(layer, order[:1])).form) + layer.low.size * rank
    size = int(np.clip(_MOST // max(2 * each, 1), 1, _TOGETHER))
    parts = [order[begin : begin + size] for begin in range(0, order.size, size)]
    generators = spent.rng.spawn(len(parts))
    room = _KEPT // max(layer.frame.rows.shape[1], 1)
    missed = threading.Event()

    def work(index: int) -> None:
        now = time.monotonic()
        if now >= until or missed.is_set():
            return
        own = parts[index]
        both = np.concatenate([own, outputs + own])
        terms = make(_some(layer, own))
        if not _usable(terms):
            return
        limit = now + (until - now) * workers / (len(parts) - index)
        values, where = _bounds(terms, layer.frame.ball, np.arange(both.size), steps, rank, generators[index], limit)
        found[both] = values
        if spent.final and np.isfinite(spent.goal).all() and np.any(np.fmin(values, best[both]) > spent.goal[both]):
            missed.set()
        for function, points in zip(both.tolist(), where, strict=True):
            if function not in spent.starts and 8 * len(spent.starts) < room:
                spent.starts[function] = points

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(len(parts))))
    return found
