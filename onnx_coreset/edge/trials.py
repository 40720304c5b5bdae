"""Both models on the same inputs, for what is said of their outputs: errors sample by sample, and at other inputs.

Inputs of floating point are scaled by .5, .8, 1.25 and 2, moved by half of their spread either way, and get normal
noise of .05, .1 and .2 of it; their spread is the standard deviation of all their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.edge.differences import Differences
from onnx_coreset.edge.independence import separate
from onnx_coreset.edge.inputs import Feed, Feeder, batch_of
from onnx_coreset.edge.runtime import RuntimeRefused, Session

Kind = Literal["none", "scaled", "noise", "shifted"]
CHANGES: tuple[tuple[Kind, float], ...] = (
    ("none", 0.0),
    ("scaled", 0.5),
    ("scaled", 0.8),
    ("scaled", 1.25),
    ("scaled", 2.0),
    ("noise", 0.05),
    ("noise", 0.1),
    ("noise", 0.2),
    ("shifted", -0.5),
    ("shifted", 0.5),
)


@dataclass(frozen=True)
class Pair:
    """Two models, ready to run.

    Attributes:
        original: The model as it was.
        result: The narrower model.
        units: What errors of an output are divided by, by name of the outputs that are compared.
    """

    original: Session
    result: Session
    units: Mapping[str, float]

    def run(self, feed: Feed) -> Iterator[tuple[str, NDArray[np.generic], NDArray[np.generic]]]:
        """Yield the name and both values of each output.

        Raises:
            RuntimeRefused: A model does not run, or they give values of different shapes.
        """
        names = list(self.units)
        before, after = self.original.run(feed, names), self.result.run(feed, names)
        for name in names:
            if before[name].shape != after[name].shape:
                raise RuntimeRefused(f"{name} has another shape in the narrower model")
            yield name, before[name], after[name]


def largest_errors(pair: Pair, feeder: Feeder, runs: int, first: int, rng: np.random.Generator) -> tuple[Array, bool]:
    """Return the largest error over all outputs for each independent draw of a model's inputs.

    Args:
        pair: The models.
        feeder: Source of inputs.
        runs: Number of runs.
        first: Number of the first one.
        rng: Source of randomness.

    Returns:
        An error a sample, or a run where its samples depend on each other, shape (N,), in units of each output's
        spread, and whether they are of samples. An entry that is not finite in the original counts for nothing, one
        that is not finite any more is an infinite error.

    Raises:
        RuntimeRefused: A model does not run, or they give values of different shapes.
    """
    found: list[Array] = []
    apart = True
    for run in range(first, first + runs):
        feed = feeder.feed(run, rng)
        if run == first:
            apart = separate(pair.original, list(pair.units), feed, rng) >= set(pair.units)
        batch = batch_of(feed) if apart else 1
        worst = np.zeros(batch)
        for name, before, after in pair.run(feed):
            worst = np.maximum(worst, _largest(before, after, batch) / pair.units[name])
        found.append(worst)
    return np.concatenate(found), apart


def _largest(before: NDArray[np.generic], after: NDArray[np.generic], batch: int) -> Array:
    """Return the largest absolute difference of each sample, shape (batch,)."""
    if before.size % batch:
        raise RuntimeRefused("an output does not have the same number of values for every sample")
    old, new = (value.astype(np.float64).reshape(batch, -1) for value in (before, after))
    apart = np.where(np.isfinite(new), np.abs(new - old), np.inf)
    return np.asarray(np.where(np.isfinite(old), apart, 0.0).max(axis=1, initial=0.0))


def changed_errors(pair: Pair, feeds: Sequence[Feed], rng: np.random.Generator) -> list[float] | None:
    """Return the largest error of an output, in rms over its spread, for each of `CHANGES` of the inputs.

    Args:
        pair: The models.
        feeds: Inputs, a run each.
        rng: Source of noise.

    Returns:
        The errors, in the order of `CHANGES`, NaN where outputs are not finite; None where no input is of floating
        point, or none of those varies. Spreads are those of the original's outputs on the same changed inputs.

    Raises:
        RuntimeRefused: A model does not run, or they give values of different shapes.
    """
    units = {name: _deviation([feed[name] for feed in feeds]) for name in feeds[0]} if feeds else {}
    units = {name: unit for name, unit in units.items() if np.isfinite(unit) and unit > 0}
    if not units:
        return None
    return [_error(pair, [_changed(feed, units, kind, amount, rng) for feed in feeds]) for kind, amount in CHANGES]


def _deviation(values: Sequence[NDArray[np.generic]]) -> float:
    if values[0].dtype.kind not in "fV":
        return 0.0
    return float(np.std(np.concatenate([value.astype(np.float64).ravel() for value in values])))


def _changed(feed: Feed, units: Mapping[str, float], kind: Kind, amount: float, rng: np.random.Generator) -> Feed:
    """Return a run's inputs, those of `units` changed."""
    found = dict(feed)
    for name, unit in units.items():
        value = feed[name].astype(np.float64)
        if kind == "scaled":
            value = amount * value
        elif kind == "shifted":
            value = value + amount * unit
        elif kind == "noise":
            value = value + amount * unit * rng.standard_normal(value.shape)
        found[name] = value.astype(feed[name].dtype)
    return found


def _error(pair: Pair, feeds: Sequence[Feed]) -> float:
    """Return the largest error of an output in rms over its spread; NaN where one is nowhere finite."""
    tables = {name: Differences() for name in pair.units}
    for feed in feeds:
        for name, before, after in pair.run(feed):
            tables[name].add(before, after)
    found = [table.error(name) for name, table in tables.items()]
    return float(np.max([e.rms / e.spread if e.spread > 0 else e.rms for e in found]))
