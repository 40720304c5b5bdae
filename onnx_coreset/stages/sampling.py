"""Second stage: what the inputs of each layer look like.

`auto` runs the model on synthetic inputs where ONNX Runtime can; those that validate are clipped to `--input-range`,
and so is half of those that are fitted to.
Otherwise it takes the law that a normalisation in front of a layer gives, else a ball: of the given radius where the
layer reads the model's input, of the radius that the layer in front proves where it reads that one, else of sqrt(d).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.laws import Ball, Empirical, Law, Normal
from onnx_coreset.core.layer import HiddenLayer
from onnx_coreset.edge.augment import Augmented, augmented
from onnx_coreset.edge.generate import generated
from onnx_coreset.edge.inputs import Feeder, Given, Synthetic, given
from onnx_coreset.edge.npz import load_arrays
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session
from onnx_coreset.edge.statistics import Samples, as_float, collect, synthetic
from onnx_coreset.errors import UsageError
from onnx_coreset.graph.indices import valid_ranges
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.stages.domains import Stated, given_radius, reach, remember, stated
from onnx_coreset.stages.front import law_in_front
from onnx_coreset.stages.hints import hints
from onnx_coreset.stages.opening import Opened

FIT, HOLD, FRESH = 0, 1, 2
_MACS = 2 * 10**11
_FEW, _ENOUGH = 4096, 16384
_UNTOUCHED = 32
_CLIPPED = 0.5
_UNKNOWN = "no radius is known: the root of d"


@dataclass(frozen=True)
class LayerInputs:
    """Samples of one layer's inputs.

    Attributes:
        law: Where they come from.
        fit: Samples to fit to, shape (N, d).
        hold: Samples to choose widths by, shape (M, d).
        fresh: Samples to validate on.
        radius: Radius of a ball around the centre of the law's domain, or the origin, that holds the samples to fit to.
        stated: The inputs for which bounds are proven.
    """

    law: Law
    fit: Array
    hold: Array
    fresh: Samples
    radius: float
    stated: Stated


@dataclass(frozen=True)
class Sources:
    """Where inputs come from.

    Attributes:
        feeder: Inputs for whole models, or None where the model cannot be run.
        held_back: Inputs to validate whole models on, with the number of the first run.
        untouched: Inputs that decide nothing, for what is said of inputs that were not seen; None where there are none.
        rows: Samples collected: (to fit and hold, to validate), by tensor name.
        notes: Warnings.
        domains: Domains of what layers make of theirs, by tensor.
    """

    feeder: Feeder | None
    held_back: tuple[Feeder, int] | None
    rows: Mapping[str, tuple[Samples, Samples]]
    notes: tuple[str, ...] = ()
    domains: dict[str, Stated] = field(default_factory=dict)
    untouched: Feeder | None = None

    @property
    def real(self) -> bool:
        """Whether inputs are a user's, or text that the model wrote, and not invented."""
        return isinstance(self.feeder, Given | Augmented)


def stream(seed: int, name: str, stage: int = 0) -> np.random.Generator:
    """Return the source of randomness of one chain, which no other chain moves."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), stage])


def rows_wanted(options: Options, opened: Opened) -> int:
    """Return how many samples to fit to: as asked, or 16,384 or four a neuron of the widest layer, whichever is more.

    Where running the model that often would cost more than about 2e10 multiplications, 4,096; where that would cost
    ten times as much, fewer: down to eight a neuron.
    """
    if options.samples is not None:
        return options.samples
    widest = _widest(opened)
    affordable = _MACS // max(opened.facts.macs or 1, 1)
    cheap = max(affordable // 10, min(_FEW, affordable))
    return max(4 * widest, min(_ENOUGH, max(cheap, 8 * widest, 512)))


def _widest(opened: Opened) -> int:
    """Return the neurons of the widest layer; those left out count too: leaving one out moves no other."""
    taken = [place.width for place in opened.places if isinstance(place, Space) or place.code == "excluded"]
    return max((width for width in taken if width is not None), default=0)


def sources(opened: Opened, options: Options, provider: Provider) -> Sources:
    """Return where the inputs of the layers come from.

    Args:
        opened: The model.
        options: What was asked.
        provider: Where it is run.

    Raises:
        UsageError: The inputs asked for do not fit the model, or it cannot be run on them.
    """
    feeder, notes = _feeder(opened, options, provider)
    if feeder is None:
        return Sources(None, None, {}, notes)
    held_back: tuple[Feeder, int] = (feeder, 0)
    untouched: Feeder | None = feeder
    if isinstance(feeder, Synthetic) and options.input_range is not None:
        untouched = replace(feeder, ends=options.input_range)
        held_back = (untouched, 0)
        # Fitted to a broader law: on numbers that are clipped, half of them to one end, neurons look linear.
        feeder = replace(untouched, clipped=_CLIPPED)
    if isinstance(feeder, Given):
        held_back, untouched, feeder, few = _held_back(feeder, opened)
        notes += few
    if options.inputs == "ball":
        return Sources(feeder, held_back, {}, notes, untouched=untouched)
    axes = {s.producer.input.name: s.input_axis for s in reversed(opened.spaces)}  # of several, the first one's
    names = [n for s in opened.spaces if axes[n := s.producer.input.name] == s.input_axis and _reachable(opened, s)]
    count = rows_wanted(options, opened)
    held = max(64, count // 4)
    # A model that takes one sample a run is run fewer times: each run has a price of its own.
    runs = options.samples or max(_FEW, 4 * _widest(opened))
    keep = None if opened.scratch is None else opened.scratch.shelved

    def collected(source: Feeder, stage: int, rows: int, runs: int) -> dict[str, Samples]:
        def again() -> np.random.Generator:
            return stream(options.seed, "inputs", stage)

        return collect(opened.model, provider, names, source, rows, again, axes, runs, keep)

    try:
        fit = collected(feeder, FIT, count + held, runs + runs // 4)
        fresh = collected(held_back[0], FRESH, held, max(64, runs // 4))
    except RuntimeRefused as refused:
        if options.inputs != "auto":
            raise UsageError(f"--inputs {options.inputs}: the model does not run on them: {refused}") from refused
        return Sources(None, None, {}, (*notes, f"the model does not run on synthetic inputs: {refused}"))
    rows = {
        n: (fit[n], fresh[n]) for n in names if n in fit and n in fresh and len(fit[n].rows) > 1 and len(fresh[n].rows)
    }
    return Sources(feeder, held_back, rows, notes, untouched=untouched)


def _held_back(given: Given, opened: Opened) -> tuple[tuple[Feeder, int], Given | None, Feeder, tuple[str, ...]]:
    """Hold a fifth of the runs back, where they are many the second half of it untouched.

    Returns:
        What decides, what decides nothing, what is left with mixtures of it, and warnings.
    """
    back = max(1, len(given.feeds) // 5)
    if len(given.feeds) == 1:
        few = "one run of inputs is too little to hold any back: validation uses what was fitted to"
        return (given, 0), None, given, (few,)
    rest, last = replace(given, feeds=given.feeds[:-back]), replace(given, feeds=given.feeds[-back:])
    firsts = [tensor.shape[0] for tensor in opened.document.graph.inputs if tensor.shape]
    fixed = any(isinstance(first, int) and first > 0 for first in firsts)
    deciding, untouched = last.halved(_UNTOUCHED, fixed) or (last, None)
    return (deciding, 0), untouched, augmented(rest, fixed) or rest, ()


def _feeder(opened: Opened, options: Options, provider: Provider) -> tuple[Feeder | None, tuple[str, ...]]:
    """Return inputs for the whole model, or None and why not."""
    if opened.refusal is not None:
        if options.inputs not in ("auto", "ball"):
            raise UsageError(f"--inputs {options.inputs}: the model is not run: {opened.refusal}")
        return None, (f"the model is not run ({opened.refusal}): its outputs were not compared",)
    try:
        session = Session(opened.model, provider)
        if options.inputs.endswith(".npz"):
            return given(session.inputs, load_arrays(options.inputs)), ()
        shapes = dict(options.input_shape)
        unknown = sorted(shapes.keys() - {spec.name for spec in session.inputs})
        if unknown:
            raise UsageError(f"--input-shape {unknown[0]}: the inputs are {', '.join(s.name for s in session.inputs)}")
        ranges, rng = valid_ranges(opened.document), stream(options.seed, "inputs", HOLD)
        feeder = synthetic(session, ranges, shapes, rng, hints(opened))
        own = None
        if options.inputs == "auto" and opened.spaces:
            wanted = 2 * rows_wanted(options, opened)
            own = generated(session, feeder, wanted, _MACS / max(opened.facts.macs or 1, 1), rng)
        return own or feeder, ()
    except RuntimeRefused as refused:
        if options.inputs == "synthetic" or options.input_shape:
            flag = "--input-shape" if options.input_shape else "--inputs synthetic"
            raise UsageError(f"{flag}: the model does not run on such inputs: {refused}") from refused
        return None, (f"the model does not run on synthetic inputs ({refused}): its outputs were not compared",)


def _reachable(opened: Opened, space: Space) -> bool:
    """Return whether what a space reads is a tensor of the main graph."""
    scope = opened.document.scope_of(space.producer.dense.node)
    if scope is None:
        return False
    name = space.producer.input.name
    return scope is opened.document.scopes[0] or name in opened.document.scopes[0].tensors


def layer_inputs(space: Space, layer: HiddenLayer, found: Sources, opened: Opened, options: Options) -> LayerInputs:
    """Return samples of the inputs of one layer.

    Args:
        space: The space.
        layer: What it reads as.
        found: Where inputs come from; the domain of what this layer makes is added to it.
        opened: The model.
        options: What was asked.
    """
    made = _sampled(space, layer, found, opened, options) or _drawn(space, layer, found, opened, options)
    if made.stated.source != _UNKNOWN:
        remember(space, layer, made.stated, found.domains)
    return made


def _sampled(space: Space, layer: HiddenLayer, found: Sources, opened: Opened, options: Options) -> LayerInputs | None:
    """Return what was collected by running the model, or None where nothing was, or an axis of one was broadcast."""
    name = space.producer.input.name
    if name not in found.rows or (s := found.rows[name][0]).axis != space.input_axis or s.rows.shape[1] != layer.inputs:
        return None
    count = rows_wanted(options, opened)
    held = max(64, count // 4)
    every, fresh = found.rows[name]
    rows = every.rows.astype(np.float64)
    rows = stream(options.seed, space.name, HOLD).permutation(rows)
    split = max(1, len(rows) - max(1, len(rows) * held // (count + held)))
    law = _law(rows[:split], name, found.feeder)
    domain = stated(space, found.domains, (rows, as_float(fresh)), opened, options)
    return LayerInputs(law, rows[:split], rows[split:], fresh, _norm(rows), domain)


def _drawn(space: Space, layer: HiddenLayer, found: Sources, opened: Opened, options: Options) -> LayerInputs:
    """Return samples of a law: that of the normalisation in front, or a ball."""
    count = rows_wanted(options, opened)
    held = max(64, count // 4)
    behind = None if options.inputs == "ball" else law_in_front(opened.document, space)
    unseen: Law = behind or _ball(space, layer, found, opened, options)
    parts = [
        unseen.sample(n, stream(options.seed, space.name, stage))
        for n, stage in ((count, FIT), (held, HOLD), (held, FRESH))
    ]
    dtype = space.producer.dense.stored.dtype
    rank = space.input_rank or space.producer.rank or 2
    fresh = Samples(parts[2].astype(dtype), rank)
    if isinstance(unseen, Ball):
        domain = Stated(unseen.domain, unseen.origin)
    else:
        domain = stated(space, found.domains, (*parts[:2], as_float(fresh)), opened, options)
    radius = _norm(parts[0]) if unseen.domain is None else reach(unseen.domain)
    return LayerInputs(unseen, parts[0], parts[1], fresh, radius, domain)


def _norm(rows: Array) -> float:
    """Return the largest norm of rows (N, d)."""
    return float(np.sqrt(np.max(np.einsum("nd,nd->n", rows, rows))))


def _law(rows: Array, name: str, feeder: Feeder | None) -> Law:
    """Return what rows of a tensor were drawn from: normal laws where that is known, else the rows themselves."""
    parts = feeder.components(name) if isinstance(feeder, Synthetic) else None
    if parts is not None:
        return Normal(rows.shape[1], parts, "synthetic")
    return Empirical(rows, feeder.name if feeder is not None else "synthetic")


def _ball(space: Space, layer: HiddenLayer, found: Sources, opened: Opened, options: Options) -> Ball:
    """Return the ball law of a layer."""
    given = given_radius(space, opened, options)
    before = found.domains.get(space.producer.input.name)
    if given is not None:
        return Ball(given, layer.inputs, origin="given")
    if before is not None:
        return Ball(reach(before.domain), layer.inputs, origin="propagated")
    return Ball(float(np.sqrt(layer.inputs)), layer.inputs, origin=_UNKNOWN)
