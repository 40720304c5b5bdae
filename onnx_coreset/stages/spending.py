"""Third stage under a budget: the widths of all chains at once, for `--params` and `--output-eps`.

Every chain has a curve, its local error at each width, and a gain, how much of that arrives at the model's outputs.
Widths are chosen by that model and then checked: the parameters on the model as it would be written, the error at the
outputs by running it. Where the check disagrees, the target is moved by as much and the widths are chosen again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.budget import Curve, phi, within_error, within_parameters
from onnx_coreset.core.layer import Coreset
from onnx_coreset.core.tally import Tally
from onnx_coreset.edge.runtime import Provider, RuntimeRefused
from onnx_coreset.errors import UsageError
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.tally import fewer, tally
from onnx_coreset.options import Options
from onnx_coreset.plan import allowance, allowed, spaced
from onnx_coreset.stages.gains import coresets, gains
from onnx_coreset.stages.judging import side_by_side
from onnx_coreset.stages.narrowing import Prepared
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import Sources

_HELD = 2 << 30
_TRIES = 6
_LARGEST = 4.0
_STEPS = 4
_MEASURED = 10
_NEAR = 0.9
_CAUTION = 0.97


@dataclass(frozen=True)
class Market:
    """What widths cost and what they are worth.

    Attributes:
        chains: The chains.
        curves: What each may become.
        tally: What that costs in parameters.
        whole: Parameters of the original.
    """

    chains: tuple[Prepared, ...]
    curves: tuple[Curve, ...]
    tally: Tally
    whole: int

    def named(self, widths: Sequence[int]) -> dict[str, int]:
        """Return the width of each chain by its name."""
        return {chain.name: width for chain, width in zip(self.chains, widths, strict=True)}


def spend(
    chains: Sequence[Prepared],
    opened: Opened,
    found: Sources,
    options: Options,
    provider: Provider,
    fixed: Mapping[str, int],
) -> dict[str, int]:
    """Return the width of each chain.

    Args:
        chains: The chains that may be cut, in the order of the graph.
        opened: The model.
        found: Where inputs come from.
        options: What was asked; the target is `params` or `output_eps`.
        provider: Where models are run.
        fixed: Widths that are settled already, by name.

    Raises:
        UsageError: No widths that the options allow leave so few parameters.
    """
    market = _market(chains, opened, found, options, provider, fixed)
    if options.params is not None:
        return _by_parameters(market, opened, options)
    assert options.output_eps is not None
    return _by_error(market, opened, found, options, provider)


def affordable(chains: Sequence[Prepared], in_memory: bool = True) -> tuple[list[Prepared], dict[str, Skip]]:
    """Return the chains that have coresets, and why the others do not; what takes too much memory is made anew later.

    Args:
        chains: The chains.
        in_memory: Whether what is made takes memory, and not room on a disk.
    """
    held = 0
    good: list[Prepared] = []
    bad: dict[str, Skip] = {}
    for chain in chains:
        try:
            choice = chain.choice()
        except FloatingPointError as error:
            bad[chain.name] = Skip(chain.name, str(error), "non-finite", chain.space.width)
            continue
        good.append(chain)
        _ = choice.path
        if in_memory and held + choice.held > _HELD:
            chain.made.clear()
        else:
            held += choice.held
    return good, bad


def _market(
    chains: Sequence[Prepared],
    opened: Opened,
    found: Sources,
    options: Options,
    provider: Provider,
    fixed: Mapping[str, int],
) -> Market:
    curves = [_errors(chain, _widths(chain, opened, options, fixed)) for chain in chains]
    gain = gains(chains, curves, opened, found, options, provider)
    made = tuple(Curve(widths, phi(float(g), errors)) for g, (widths, errors) in zip(gain, curves, strict=True))
    layers = {chain.name: chain.layer for chain in chains}
    counted = tally(opened.model, layers, options.constant_inputs)
    return Market(tuple(chains), made, counted, parameters(opened.original))


def _widths(chain: Prepared, opened: Opened, options: Options, fixed: Mapping[str, int]) -> Indices:
    """Return the widths that a chain may have, increasing."""
    settled = fixed.get(chain.name, opened.asked(chain.name, options))
    if settled is not None:
        return np.array([min(settled, chain.space.width)])
    return allowed(chain.space.width, options)


def _errors(chain: Prepared, widths: Indices) -> tuple[Indices, Array]:
    """Return widths and the errors there; a method without an order is asked at about 16 of them."""
    choice, full = chain.choice(), chain.space.width
    if choice.path is None and widths.size > 1:
        nearest = np.searchsorted(widths, spaced(full))
        widths = np.unique(np.append(widths[np.minimum(nearest, widths.size - 1)], widths[[0, -1]]))
    errors = choice.predicted(widths, chain.inputs.hold)
    return widths, np.where(widths < full, errors, 0.0)


def _by_parameters(market: Market, opened: Opened, options: Options) -> dict[str, int]:
    assert options.params is not None
    most = allowance(market.whole, options.params)
    narrowest = market.named([int(curve.widths[0]) for curve in market.curves])
    few = {c.name: fewer(c.layer, narrowest[c.name]) for c in market.chains if narrowest[c.name] < c.space.width}
    least = _written(opened, few, options)
    if least > most:
        raise _unreachable(least, market.whole, options.params)
    limit = most
    for _ in range(_TRIES):
        widths = market.named(within_parameters(market.curves, market.tally, limit))
        excess = _written(opened, coresets(market.chains, widths), options) - most
        if excess <= 0:
            return widths
        limit -= excess
    return narrowest


def _unreachable(least: int, whole: int, share: float) -> UsageError:
    """Return the error that says what share can be reached: `least` of `whole` parameters."""
    shown = np.ceil(1e4 * least / whole) / 1e4
    return UsageError(
        f"--params {share:g}: with every layer as narrow as is allowed, {shown:g} of the parameters are left: "
        "ask for that or more"
    )


def _written(opened: Opened, narrower: Mapping[str, Coreset], options: Options) -> int:
    """Return the parameters of the model as it would be written."""
    return parameters(cut(opened.model, narrower, options.constant_inputs)[0])


def _by_error(market: Market, opened: Opened, found: Sources, options: Options, provider: Provider) -> dict[str, int]:
    """Return the cheapest widths tried whose measured error meets the target, else the widest ones allowed."""
    assert options.output_eps is not None
    limit = options.output_eps
    target, met, missed, failures = limit, 0.0, np.inf, 0
    best: tuple[int, tuple[int, ...]] | None = None
    known: dict[tuple[int, ...], float | None] = {}
    for _ in range(_MEASURED):
        plan = within_error(market.curves, market.tally, target)
        widths = market.named(plan)
        if plan not in known:
            known[plan] = _measured(market, widths, opened, found, options, provider)
        measured = known[plan]
        if measured is None:
            return widths
        if measured > limit:
            failures += 1
            missed = target
            # Where less predicted error does not help in proportion, ask for less and less of it.
            target *= max(_CAUTION * limit / measured, 1e-3) / 2.0 ** (failures - 1)
        else:
            met = max(met, target)
            if best is None or market.tally.count(plan) < best[0]:
                best = market.tally.count(plan), plan
            if measured >= _NEAR * limit:
                break
            # What costs nothing says nothing of what the next neuron costs.
            target *= min(_CAUTION * limit / measured, _LARGEST) if measured > 0 else _LARGEST
        if met and np.isfinite(missed) and not met < target < missed:
            target = float(np.sqrt(met * missed))
    if best is None:
        return market.named([int(curve.widths[-1]) for curve in market.curves])

    def meets(plan: tuple[int, ...]) -> bool:
        if plan not in known:
            known[plan] = _measured(market, market.named(plan), opened, found, options, provider)
        return (known[plan] or 0.0) <= limit

    used = known[best[1]] or 0.0
    return market.named(best[1] if used >= _NEAR * limit else _squeezed(market, best[1], meets))


def _squeezed(market: Market, plan: tuple[int, ...], meets: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """Return a plan with single chains a step narrower, the one that saves most first, as long as that is met."""
    for _ in range(_STEPS):
        steps = []
        for index, curve in enumerate(market.curves):
            place = int(np.searchsorted(curve.widths, plan[index]))
            if place > 0:
                steps.append((*plan[:index], int(curve.widths[place - 1]), *plan[index + 1 :]))
        steps.sort(key=market.tally.count)
        narrower = next((step for step in steps[:_STEPS] if meets(step)), None)
        if narrower is None:
            break
        plan = narrower
    return plan


def _measured(
    market: Market,
    widths: Mapping[str, int],
    opened: Opened,
    found: Sources,
    options: Options,
    provider: Provider,
) -> float | None:
    """Return the relative rms at the worst output, infinite where the model is unacceptable; None where unknown."""
    if not options.validate or found.held_back is None:
        return None
    model = cut(opened.model, coresets(market.chains, widths), options.constant_inputs)[0]
    try:
        comparison = side_by_side(opened, model, found, options, provider, {})
    except RuntimeRefused:
        return None
    return float("inf") if comparison.faults else comparison.worst
