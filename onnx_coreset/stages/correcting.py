"""Between narrowing and polishing: later layers make up for what was cut in front of them.

A coreset was fitted to the inputs that its layer has in the original. Behind other cuts it reads something else. Chain
after chain, in the order of the graph, the original and the model with this and all earlier chains cut are run on the
same inputs, and the chain's outgoing weights and constants are refitted by `core.refit.correction`: features as they
are in the narrower model, and what its readers lack there of the original's outputs. Features are what the readers
read, so whatever stands between a narrowed tensor and a layer, and whatever the features are, needs no rule.

A correction d is added as t d, with t the best at most 1 on inputs that were not fitted to; where eps bounds the local
error, t is halved until that bound is met as well. It is adopted where the error carried to the chain's outputs falls,
and all corrections are taken back where the model's outputs get worse by them.

It needs a user's inputs, or text that the model wrote. On invented ones the carried error falls as well, but by what
matters for the largest of them, and classifiers of images lost by it (half a point at a fifth of the neurons).

Cost: for every later chain, writing the model, running it and the original on as many inputs as layers are fitted to,
O(N p (p + k)) for the moments of p features and k outputs, and O(p^3) for the fit. Where all the runs would cost more
than about 2e11 multiplications, be more than 8,192 or, with loops, take more than about 20 seconds, there are fewer;
where those would be too few, none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.layer import Coreset
from onnx_coreset.core.measure import spread
from onnx_coreset.core.refit import Paired, Step, correction
from onnx_coreset.edge.inputs import Feeder
from onnx_coreset.edge.pairs import Reader, pairs
from onnx_coreset.edge.patience import runs_within, timed
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session, with_outputs
from onnx_coreset.graph.cut import cut, written
from onnx_coreset.graph.extract import extract
from onnx_coreset.graph.skip import Skip
from onnx_coreset.options import Options
from onnx_coreset.report import CorrectionFacts
from onnx_coreset.stages.judging import side_by_side
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import Sources, rows_wanted, stream
from onnx_coreset.stages.settling import measure

_FIT, _HOLD = 6, 7
_LEAST_RUNS, _LEAST_ROWS = 6, 32
_A_FEATURE = 4
_HALVINGS = 4
_MACS, _RUNS, _SECONDS = 2 * 10**11, 8192, 20.0

Moved = tuple[Array, Array]
"""What is added to the weights (k, p) and to the constant (k,) of a reader."""


@dataclass(frozen=True)
class _Later:
    """A chain behind another narrowed one.

    Attributes:
        chain: The chain as it is.
        readers: Its readers.
        places: For each reader, the neuron and the copy that each of its p features is, both (p,).
        left: For each reader, which of its outputs the next layer's cut leaves, shape (k,).
    """

    chain: Narrowed
    readers: tuple[Reader, ...]
    places: tuple[tuple[Indices, Indices], ...]
    left: tuple[Array, ...]


@dataclass(frozen=True)
class _Run:
    """Everything a correction needs that is the same for all chains.

    Attributes:
        opened: The model.
        session: The original, with the outputs of all readers.
        feeders: Inputs to fit to and to judge by, each with the number of the first run.
        rows: Samples to fit to.
        runs: Most runs a chain.
        options: What was asked.
        provider: Where models are run.
    """

    opened: Opened
    session: Session
    feeders: tuple[tuple[Feeder, int], tuple[Feeder, int]]
    rows: int
    runs: int
    options: Options
    provider: Provider


def corrected(
    chains: Sequence[Narrowed | Skip],
    opened: Opened,
    found: Sources,
    options: Options,
    provider: Provider,
    tell: Callable[[str, int, int, str], None],
) -> list[Narrowed | Skip]:
    """Return the chains, those behind others refitted to what reaches them, where that is better.

    Args:
        chains: What became of each place, in the order of the graph.
        opened: The model.
        found: Where inputs come from.
        options: What was asked.
        provider: Where models are run.
        tell: Called with (stage, done, total, detail).
    """
    result = list(chains)
    present = [chain for chain in chains if isinstance(chain, Narrowed) and chain.narrower]
    known = found.real
    if not options.refit or not options.validate or not known or len(present) < 2 or options.proven:
        return result
    present = _paying(present, opened, options)
    waiting = _later(present, opened)
    try:
        run = _run(waiting, opened, found, options, provider)
        if run is None:
            return result
        now = {chain.space.name: chain for chain in present}
        for done, later in enumerate(waiting):
            name = later.chain.space.name
            tell("correct", done, len(waiting), name)
            upto = list(now)[: list(now).index(name) + 1]
            now[name] = _corrected(later, {n: now[n].coreset for n in upto}, run)
        after = list(now.values())
        if all(one is two for one, two in zip(present, after, strict=True)) or not _no_worse(
            present, after, found, run
        ):
            return result
    except RuntimeRefused:
        return result
    return [now.get(c.space.name, c) if isinstance(c, Narrowed) else c for c in result]


def _paying(chains: list[Narrowed], opened: Opened, options: Options) -> list[Narrowed]:
    """Return the chains that will be cut: others would not leave fewer parameters."""
    coresets = {chain.space.name: chain.coreset for chain in chains}
    useless = cut(opened.model, coresets, options.constant_inputs)[1]
    return [chain for chain in chains if chain.space.name not in useless]


def _later(chains: Sequence[Narrowed], opened: Opened) -> list[_Later]:
    """Return the chains that others stand in front of, as far as their readers' inputs and outputs can be seen."""
    main = opened.document.scopes[0]
    kept = {k: left for c in chains for k, left in c.space.region.columns(c.coreset.kept).items()}
    behind = {id(consumer.dense.node) for chain in chains for consumer, _ in chain.space.consumers}
    for node in main.graph.nodes:
        if any(id(maker) in behind for tensor in node.inputs for maker in tensor.inputs):
            behind.add(id(node))
    found = []
    for chain in chains:
        seen = all(opened.document.scope_of(consumer.dense.node) is main for consumer, _ in chain.space.consumers)
        if seen and any(id(maker.dense.node) in behind for maker in chain.space.producers):
            found += _seen(chain, kept)
    return found


def _seen(chain: Narrowed, kept: Mapping[int, Indices]) -> list[_Later]:
    """Return one chain with its readers; nothing where they read more than neurons, or do more than sum."""
    readers, places, left = [], [], []
    for (consumer, _), layout in zip(chain.space.consumers, chain.space.layouts, strict=True):
        entries, ranks = layout.placed(chain.coreset.kept)
        if np.any(ranks < 0) or consumer.dense.fused is not None:
            return []
        axes = consumer.dense.axes
        readers.append(Reader(consumer.hidden.name, axes.data_axis, consumer.output.name, axes.axis))
        places.append((ranks, layout.copies[entries]))
        outputs = np.arange(consumer.outputs)
        left.append(np.isin(outputs, kept.get(id(consumer.output), outputs)).astype(np.float64))
    return [_Later(chain, tuple(readers), tuple(places), tuple(left))]


def _run(
    waiting: Sequence[_Later], opened: Opened, found: Sources, options: Options, provider: Provider
) -> _Run | None:
    """Return how corrections are made, or None where there is nothing to correct or it would cost too much."""
    if not waiting or found.feeder is None or found.held_back is None:
        return None
    outputs = list(dict.fromkeys(reader.output for later in waiting for reader in later.readers))
    session = Session(with_outputs(opened.model, outputs), provider)
    feed = found.feeder.feed(0, stream(options.seed, "inputs", _FIT))
    # Sizes that are not known count as one in what a run is said to cost.
    repeats = [
        int(np.prod([n for n, known in zip(feed[s.name].shape, s.shape, strict=False) if not isinstance(known, int)]))
        for s in session.inputs
    ]
    cost = max(opened.facts.macs or 1, 1) * max(repeats, default=1)
    runs = int(min(_MACS // (2 * cost), _RUNS) // len(waiting))
    if session.loops:
        runs = min(runs, runs_within(_SECONDS, 2 * len(waiting) * timed(lambda: session.run(feed))[1]))
    if runs < _LEAST_RUNS:
        return None
    feeders = ((found.feeder, 0), found.held_back)
    return _Run(opened, session, feeders, rows_wanted(options, opened), runs, options, provider)


def _corrected(later: _Later, coresets: Mapping[str, Coreset], run: _Run) -> Narrowed:
    """Return one chain, refitted inside the model that `coresets` narrow where that is better there."""
    chain, options = later.chain, run.options
    model = written(run.opened.model, coresets, options.constant_inputs)
    names = list(dict.fromkeys(name for reader in later.readers for name in (reader.hidden, reader.output)))
    narrow = Session(with_outputs(model, names), run.provider)
    steps = _steps(later, narrow, run)
    step = None if steps is None else _step(later, steps, narrow, run)
    share = 0.0 if step is None else step.share
    if steps is None or step is None or share <= 0.0:
        return chain
    bounded = options.target == "eps" and run.opened.asked(chain.space.name, options) is None
    alone = extract(run.opened.document, chain.space, chain.inputs.fresh.rank)
    for _ in range(_HALVINGS):
        tried = _moved(later, steps, share)
        errors, ran = measure(alone, chain.space.name, tried, chain.inputs, run.provider)
        met = not bounded or errors.norm(options.norm, options.absolute) <= (options.eps or 0.0)
        if np.isfinite(errors.max) and met:
            told = CorrectionFacts(step.rms(0.0), step.rms(share))
            return replace(chain, coreset=tried, errors=errors, ran=ran, correction=told)
        share /= 2.0
    return chain


def _steps(later: _Later, narrow: Session, run: _Run) -> list[Moved] | None:
    """Return what is best added to each reader on the samples to fit to, or None where there are too few."""
    found = _moments(later, narrow, run, _FIT)
    if found is None:
        return None
    try:
        steps = [correction(p, r.constant_allowed) for p, r in zip(found, later.chain.layer.readouts, strict=True)]
    except FloatingPointError:
        return None
    # Outputs that the next layer's cut drops are left alone: there is nothing to gain.
    return [(step * left[:, None], shift * left) for (step, shift), left in zip(steps, later.left, strict=True)]


def _step(later: _Later, steps: Sequence[Moved], narrow: Session, run: _Run) -> Step | None:
    """Return what shares of the steps leave of the carried error on samples not fitted to; None: there are too few."""
    found = _moments(later, narrow, run, _HOLD)
    if found is None:
        return None
    units = [1.0] * len(steps)
    if len(steps) > 1:
        # Several heads: each is divided by its own spread, as in the report.
        units = [spread(outputs) or 1.0 for outputs in later.chain.layer.evaluate(later.chain.inputs.hold)]
    total = np.zeros(3)
    for paired, moved, unit, left in zip(found, steps, units, later.left, strict=True):
        total += [float(part @ left) / unit**2 for part in (paired.power, *paired.explained(*moved))]
    return Step(*(total / max(sum(left.sum() for left in later.left), 1.0)))


def _moments(later: _Later, narrow: Session, run: _Run, stage: int) -> list[Paired] | None:
    """Return the moments of each reader's features and of what it lacks.

    Returns:
        One a reader; None where there are too few samples, or the reader reads more than the chain's neurons.
    """
    fitting = stage == _FIT
    (feeder, first), rows = run.feeders[not fitting], run.rows if fitting else max(_LEAST_ROWS, run.rows // 4)
    runs = run.runs * 4 // 5 if fitting else run.runs - run.runs * 4 // 5
    rng = stream(run.options.seed, later.chain.space.name, stage)
    total: list[Paired] = []
    for found in pairs(run.session, narrow, later.readers, feeder, rows, runs, rng, first):
        sizes = [features.shape[1] for features, _, _ in found]
        if sizes != [ranks.size for ranks, _ in later.places]:
            return None
        if all(len(features) for features, _, _ in found):
            part = [Paired.of(features, before - after) for features, after, before in found]
            total = [one.plus(two) for one, two in zip(total, part, strict=True)] if total else part
    least = [_A_FEATURE * ranks.size if fitting else _LEAST_ROWS for ranks, _ in later.places]
    enough = total and all(paired.count >= count for paired, count in zip(total, least, strict=True))
    return total if enough else None


def _moved(later: _Later, steps: Sequence[Moved], share: float) -> Coreset:
    """Return the coreset with a share of the steps added to its outgoing weights and constants."""
    coreset = later.chain.coreset
    outgoing = [np.array(weights) for weights in coreset.outgoing]
    for weights, (step, _), (ranks, copies) in zip(outgoing, steps, later.places, strict=True):
        weights[:, ranks, copies] += share * step
    constant = tuple(c + share * shift for c, (_, shift) in zip(coreset.constant, steps, strict=True))
    return replace(coreset, outgoing=tuple(outgoing), constant=constant)


def _no_worse(before: Sequence[Narrowed], after: Sequence[Narrowed], found: Sources, run: _Run) -> bool:
    """Return whether the model's outputs err no more with the corrections than without."""
    worst = []
    for chains in (before, after):
        coresets = {chain.space.name: chain.coreset for chain in chains}
        model = cut(run.opened.model, coresets, run.options.constant_inputs)[0]
        compared = side_by_side(run.opened, model, found, run.options, run.provider, {})
        if compared.faults and chains is after:
            return False
        worst.append(compared.worst)
    return worst[0] is None or worst[1] is None or worst[1] <= worst[0]
