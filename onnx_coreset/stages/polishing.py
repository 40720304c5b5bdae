"""Between narrowing and judging: the weights of the kept neurons polished, layers that follow each other together.

What comes out is adopted where it is better on samples that it was not fitted to, small, middling and large ones
alike, and better as ONNX Runtime runs it; otherwise the chains stay as they were. Chains that were polished together
are measured together: from the inputs of the first to the outputs of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.measure import spread
from onnx_coreset.core.network import Network
from onnx_coreset.core.polish import Schedule, polish
from onnx_coreset.edge.runtime import Provider, RuntimeRefused
from onnx_coreset.edge.threads import one_thread
from onnx_coreset.edge.validation import local_errors
from onnx_coreset.graph.extract import extract_stack, shrunk_stack
from onnx_coreset.graph.skip import Skip
from onnx_coreset.options import Options
from onnx_coreset.stages.narrowing import Narrowed, Polished
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import Sources, stream
from onnx_coreset.stages.stacks import Stack, stacks

_STAGE = 5
_BRIEF, _LONG, _THOROUGH = 1e11, 2.5e11, 1e12
_OVERHEAD = 5e7
_LEAST, _MOST = 200, 8000
_SEVERAL = 3
_WORSE = 1.05


def schedule(size: int, thorough: bool, invented: bool) -> Schedule | None:
    """Return how long a network is polished, or None where what is affordable would not help.

    Work is counted in multiplications and additions, a step's overhead included: about two seconds of one core where
    nobody asked, and ten times as much where somebody did and the inputs are not invented: a net that is fitted to
    synthetic inputs for long does worse on real ones. Half of a long polish is spent on what is worst nearby.

    Args:
        size: Number of parameters.
        thorough: Whether somebody asked; then there are always enough steps, however long they take.
        invented: Whether the inputs are synthetic.
    """
    long = Schedule(rate=0.01 if invented else 0.02, uphill=0.3) if thorough else Schedule(rate=0.007)
    work = (_LONG if invented else _THOROUGH) if thorough else _BRIEF
    steps = int(work / (long.cost(size) / long.steps + _OVERHEAD))
    if steps < _LEAST and not thorough:
        return None
    return replace(long, steps=min(max(steps, _LEAST), _MOST))


def polished(
    chains: Sequence[Narrowed | Skip],
    opened: Opened,
    found: Sources,
    options: Options,
    provider: Provider,
    tell: Callable[[str, int, int, str], None],
) -> list[Narrowed | Skip]:
    """Return the chains with the weights of their neurons refined, where that is asked for and helps.

    Where nothing is said of it, chains are polished if the inputs are real and no bound on an error was asked for, as
    long as it is cheap. On invented inputs it mostly helps, but not always.

    Args:
        chains: What became of each place.
        opened: The model.
        found: Where inputs come from.
        options: What was asked.
        provider: Where layers are run.
        tell: Called with (stage, done, total, detail).
    """
    result = list(chains)
    invented = not found.real
    unasked = invented or options.target in ("eps", "output_eps")
    if not options.refit or not options.validate or (not options.polish if unasked else options.polish is False):
        return result
    present = [chain for chain in chains if isinstance(chain, Narrowed)]
    place = {id(chain): index for index, chain in enumerate(chains)}
    spent = 0.0
    for stack in stacks(present, opened, alone=options.target == "eps"):
        plan = schedule(stack.student.size, options.polish is True, invented)
        if plan is None or (options.polish is None and spent > _SEVERAL * _BRIEF):
            continue
        spent += plan.cost(stack.student.size)
        name = stack.chains[0].space.name

        def told(done: int, total: int, name: str = name) -> None:
            tell("polish", done, total, name)

        for before, after in zip(stack.chains, _polished(stack, plan, opened, options, provider, told), strict=True):
            result[place[id(before)]] = after
    return result


def _polished(
    stack: Stack,
    plan: Schedule,
    opened: Opened,
    options: Options,
    provider: Provider,
    tell: Callable[[int, int], None],
) -> tuple[Narrowed, ...]:
    """Return the chains of a stack, polished if that is better."""
    head = stack.chains[0]
    rng = stream(options.seed, head.space.name, _STAGE)
    wanted = stack.teacher(head.inputs.hold)
    units = _units(stack, wanted)
    try:
        with one_thread():
            network = polish(stack.student, stack.teacher, head.inputs.fit, units, stack.fixed, plan, rng, tell)
    except FloatingPointError:
        return stack.chains
    if not _better(stack, network, head.inputs.hold, wanted, units):
        return stack.chains
    coresets = stack.coresets(network)
    alone = extract_stack(opened.document, [chain.space for chain in stack.chains], head.inputs.fresh.rank)
    names = tuple(chain.space.name for chain in stack.chains)
    try:
        old, new = (
            local_errors(alone, shrunk_stack(alone, found), provider, head.inputs.fresh)
            for found in ([chain.coreset for chain in stack.chains], coresets)
        )
    except RuntimeRefused:
        return stack.chains
    # What eps bounds, in whatever norm, was met before and may not grow.
    bounded, now = (errors.norm(options.norm, options.absolute) for errors in (old, new))
    if not (new.rms < old.rms and now <= bounded):
        return stack.chains
    return tuple(
        replace(
            chain,
            coreset=coreset,
            errors=new,
            ran=True,
            polish=Polished(chain, names, stack.chains[-1], old.rms / old.unit),
        )
        for chain, coreset in zip(stack.chains, coresets, strict=True)
    )


def _units(stack: Stack, wanted: Array) -> Array:
    """Return the spread of each readout for each of its outputs, shape (k,), given all of them (N, k)."""
    counts = [readout.outputs for readout in stack.chains[-1].layer.readouts]
    parts = np.split(wanted, np.cumsum(counts)[:-1], axis=1)
    return np.repeat([spread(part) or 1.0 for part in parts], counts)


def _better(stack: Stack, network: Network, x: Array, wanted: Array, units: Array) -> bool:
    """Return whether the network errs less than the student on all of x (N, d), and hardly more on any third of it."""
    before, after = (np.mean(((student(x) - wanted) / units) ** 2, axis=1) for student in (stack.student, network))
    if not np.mean(after) < np.mean(before):
        return False
    thirds = np.array_split(np.argsort(np.linalg.norm(x, axis=1), kind="stable"), 3)
    return all(np.sqrt(np.mean(after[t])) <= _WORSE * np.sqrt(np.mean(before[t])) for t in thirds if t.size)
