"""Both models on inputs that were not seen, and on others than they were made for: what is said of the outputs."""

from __future__ import annotations

import numpy as np

from onnx_coreset.edge.inputs import Feed, Feeder, batch_of
from onnx_coreset.edge.patience import runs_within, timed
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session
from onnx_coreset.edge.trials import CHANGES, Pair, changed_errors, largest_errors
from onnx_coreset.edge.validation import runs_for
from onnx_coreset.options import Options
from onnx_coreset.stages.judging import Judged
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import Sources, stream
from onnx_coreset.stages.saying import FEW_HELD_BACK, UNSEEN, enough, independent, said
from onnx_coreset.statements import Shift, Statement

_MACS = 10**11
_LEAST, _FEWEST, _CHANGED = 64, 8, 256
_SECONDS = 4.0
_NUMBERS = 1 << 26


def tried(
    judged: Judged, opened: Opened, found: Sources, options: Options, provider: Provider
) -> tuple[Statement, tuple[Shift, ...] | None]:
    """Return what is said of the outputs, and their errors at other inputs, None where those were not measured.

    Args:
        judged: The narrower model.
        opened: The original.
        found: Where inputs come from.
        options: What was asked.
        provider: Where models are run.
    """
    compared = judged.comparison
    if compared is None:
        return Statement(reason="the outputs were not compared"), None
    known = [o for o in compared.outputs if o.name not in compared.random and np.isfinite(o.rms)]
    if not known:
        return Statement(reason="no output can be compared"), None
    try:
        before, after = (Session(model, provider) for model in (opened.original, judged.model))
        pair = Pair(before, after, {o.name: o.spread if o.spread > 0 else 1.0 for o in known})
        return _outputs(pair, opened, found, options), _shifts(pair, opened, found, options)
    except RuntimeRefused as refused:
        return Statement(reason=f"a model does not run: {refused}"), None


def _outputs(pair: Pair, opened: Opened, found: Sources, options: Options) -> Statement:
    """Return what is said of the largest error over all outputs."""
    feeder = found.untouched
    if feeder is None:
        return Statement(reason=FEW_HELD_BACK)
    affordable = _MACS // (2 * max(opened.facts.macs or 1, 1))
    wanted = min(enough(options.delta), max(affordable, _LEAST))
    rng = stream(options.seed, "outputs", UNSEEN)
    runs = min(_runs(feeder, wanted, options), _in_time(pair, feeder, options))
    errors, apart = largest_errors(pair, feeder, runs, 0, rng)
    about = "a sample of the model's inputs" if apart else "a run of the model"
    return said(errors, about, feeder.name, independent(feeder), options.delta, options.output_eps)


def _shifts(pair: Pair, opened: Opened, found: Sources, options: Options) -> tuple[Shift, ...] | None:
    """Return the errors for inputs that are scaled, noisy or shifted, or None where running them is dear or vain."""
    affordable = _MACS // (2 * len(CHANGES) * max(opened.facts.macs or 1, 1))
    if found.held_back is None or affordable < _FEWEST:
        return None
    feeder, first = found.held_back
    rng = stream(options.seed, "shifts", UNSEEN)
    runs = _runs(feeder, min(_CHANGED, affordable), options)
    runs = min(runs, _in_time(pair, feeder, options) // len(CHANGES))
    if runs == 0:
        return None
    numbers = sum(value.size for value in feeder.feed(first, stream(options.seed, "shifts", 1)).values())
    # The inputs of all runs are held at once.
    runs = min(runs, max(_NUMBERS // max(numbers, 1), 1))
    feeds: list[Feed] = [feeder.feed(run, rng) for run in range(first, first + runs)]
    errors = changed_errors(pair, feeds, rng)
    if errors is None:
        return None
    ratios = [error / errors[0] if errors[0] > 0 else None for error in errors]
    return tuple(
        Shift(kind, amount, error, ratio) for (kind, amount), error, ratio in zip(CHANGES, errors, ratios, strict=True)
    )


def _in_time(pair: Pair, feeder: Feeder, options: Options) -> int:
    """Return how many runs of both models take about four seconds."""
    pair.original.run(feeder.feed(0, stream(options.seed, "outputs", 1)), list(pair.units))
    return runs_within(_SECONDS, timed(lambda: list(pair.run(feeder.feed(0, stream(options.seed, "outputs", 1)))))[1])


def _runs(feeder: Feeder, samples: int, options: Options) -> int:
    """Return how many runs give so many samples, as far as there are any."""
    batch = batch_of(feeder.feed(0, stream(options.seed, "outputs", 1)))
    return runs_for(feeder, samples, batch, 1)
