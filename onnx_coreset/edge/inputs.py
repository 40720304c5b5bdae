"""Inputs to run a whole model on: synthetic ones, or a user's.

Synthetic inputs are broad: each sample is s g with g normal and s drawn from a few scales. Where the first layer's
weights suggest a centre, correlations and a unit of scale, those are taken. Integers come from the range of the table
they index, else from {0, 1}; truth values are fair coins. An unknown first axis holds samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.laws import SCALES, Gaussian
from onnx_coreset.core.suggested import Suggested
from onnx_coreset.edge.runtime import InputSpec
from onnx_coreset.errors import UsageError

Feed = dict[str, NDArray[np.generic]]


class Feeder(Protocol):
    """A source of inputs for a whole model."""

    @property
    def name(self) -> str:
        """Name of the law, for a report."""

    def feed(self, run: int, rng: np.random.Generator) -> Feed:
        """Return the inputs of run number `run`."""

    @property
    def runs(self) -> int | None:
        """How many different runs there are, or None where there is no end."""


@dataclass(frozen=True)
class Synthetic:
    """Inputs from a broad mixture.

    Attributes:
        specs: The model's inputs.
        shapes: Full shape of each input, by name.
        ranges: Half-open range of the integers that index a table, by name.
        hints: What the first layer suggests of an input, by name.
        scales: Scales of the mixture.
        ends: Where numbers that are no integers lie, or None where that is not known: scales are then in units of the
            larger of the two, instead of what a hint says.
        clipped: Share of the samples that are clipped to lie there.
    """

    specs: tuple[InputSpec, ...]
    shapes: Mapping[str, tuple[int, ...]]
    ranges: Mapping[str, tuple[int, int]]
    hints: Mapping[str, Suggested] = field(default_factory=dict)
    scales: tuple[float, ...] = SCALES
    ends: tuple[float, float] | None = None
    clipped: float = 1.0

    @property
    def name(self) -> str:
        """Name of the law, for a report."""
        return "synthetic"

    @property
    def runs(self) -> None:
        """None: there is no end."""
        return None

    def feed(self, run: int, rng: np.random.Generator) -> Feed:
        """Return one run's inputs."""
        return {spec.name: self._draw(spec, rng) for spec in self.specs}

    def components(self, name: str) -> tuple[Gaussian, ...] | None:
        """Return the law of one sample of an input, or None where a sample is no row of normal numbers."""
        spec = next((spec for spec in self.specs if spec.name == name), None)
        if spec is None or spec.dtype is None or spec.dtype.kind not in "fV" or len(self.shapes[name]) != 2:
            return None
        if self.ends is not None:
            return None
        hint, weight = self.hints.get(name), 1.0 / len(self.scales)
        if hint is None:
            return tuple(Gaussian(weight, scale=scale) for scale in self.scales)
        if hint.size != self.shapes[name][1]:
            return None
        return tuple(Gaussian(weight, hint.centre, hint.root, scale * hint.scale) for scale in self.scales)

    def _draw(self, spec: InputSpec, rng: np.random.Generator) -> NDArray[np.generic]:
        shape = self.shapes[spec.name]
        assert spec.dtype is not None
        if spec.dtype == np.bool_:
            return np.asarray(rng.random(shape) < 0.5)
        if np.issubdtype(spec.dtype, np.integer):
            low, high = self.ranges.get(spec.name, (0, 2))
            return np.asarray(rng.integers(low, high, shape)).astype(spec.dtype)
        # One scale a sample: rows of the first axis, or the whole array where there is no such axis.
        leading = shape[:1] if len(shape) > 1 else ()
        scale = np.asarray(self.scales)[rng.integers(len(self.scales), size=leading)]
        scale = scale.reshape(leading + (1,) * (len(shape) - len(leading)))
        hint = self.hints.get(spec.name)
        unit = 1.0 if hint is None else hint.scale
        if self.ends is not None:
            unit = max(map(abs, self.ends)) or 1.0
        size = int(np.prod(shape))
        if hint is not None and size % hint.size == 0:
            # Whole samples where the hint is as large as one, otherwise each row of the last axis.
            normal = rng.standard_normal((size // hint.size, hint.root.shape[1]))
            values = (normal @ hint.root.T).reshape(shape) * (scale * unit)
            values = (values.reshape(-1, hint.size) + hint.centre).reshape(shape)
        else:
            values = rng.standard_normal(shape)
            values *= scale * unit
        if self.ends is not None:
            chosen = rng.random(scale.shape) < self.clipped
            values = np.where(chosen, np.clip(values, *self.ends), values)
        return np.asarray(values).astype(spec.dtype)


def batch_of(feed: Mapping[str, NDArray[np.generic]]) -> int:
    """Return how many samples the first axis of a run's inputs holds; 1 where they do not agree."""
    sizes = {value.shape[0] for value in feed.values() if value.ndim}
    return max(sizes) if len(sizes) == 1 and all(value.ndim for value in feed.values()) and sizes != {0} else 1


@dataclass(frozen=True)
class Given:
    """A user's inputs, cut into runs.

    Attributes:
        feeds: One feed a run.
        name: Name of the law, for a report.
        drawn: Whether samples are independent draws of a law; otherwise that is for a user to know.
    """

    feeds: tuple[Feed, ...]
    name: str = "inputs"
    drawn: bool = False

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self.feeds)

    def feed(self, run: int, rng: np.random.Generator) -> Feed:
        """Return run number `run`."""
        return self.feeds[run % len(self.feeds)]

    def halved(self, least: int, fixed: bool) -> tuple[Given, Given] | None:
        """Return the first and the second half of the runs, or None where a half would have too few samples.

        Args:
            least: Samples that each half must have.
            fixed: Whether a run's first axis has a size of its own; otherwise a single run is cut along it.
        """
        feeds = self.feeds
        if len(feeds) == 1 and not fixed and (batch := batch_of(feeds[0])) > 1:
            cut = -(-batch // 2)
            feeds = tuple({k: v[part] for k, v in feeds[0].items()} for part in (slice(cut), slice(cut, None)))
        middle = -(-len(feeds) // 2)
        halves = (feeds[:middle], feeds[middle:])
        if any(sum(map(batch_of, half)) < least for half in halves):
            return None
        return replace(self, feeds=halves[0]), replace(self, feeds=halves[1])


def given(specs: tuple[InputSpec, ...], arrays: Mapping[str, NDArray[np.generic]], batch: int = 256) -> Given:
    """Cut a user's arrays into runs.

    Args:
        specs: The model's inputs.
        arrays: Arrays by input name. One of the input's rank is a stack along axis 0, cut by the model's fixed first
            dimension (into multiples of five runs of at most `batch` where that is free); one of rank + 1 holds one
            run an entry.
        batch: Samples a run where the first axis is free.

    Returns:
        The runs.

    Raises:
        UsageError: A name that the model does not have, a missing input, a shape that does not fit.
    """
    unknown = sorted(set(arrays) - {spec.name for spec in specs})
    missing = [spec.name for spec in specs if spec.name not in arrays]
    if unknown or missing:
        wrong = f"has no input {unknown[0]!r}" if unknown else f"also needs the input {missing[0]!r}"
        raise UsageError(f"--inputs: the model {wrong}; its inputs are {', '.join(s.name for s in specs)}")
    cut = {spec.name: _cut(spec, arrays[spec.name], batch) for spec in specs}
    count = min(len(parts) for parts in cut.values())
    if count == 0:
        raise UsageError("--inputs: the arrays hold no sample")
    return Given(tuple({name: parts[i] for name, parts in cut.items()} for i in range(count)))


def _cut(spec: InputSpec, array: NDArray[np.generic], batch: int) -> list[NDArray[np.generic]]:
    rank = len(spec.shape)
    if array.ndim == rank + 1:
        parts = list(array)
    elif array.ndim == rank and rank > 0:
        first = spec.shape[0]
        # In fives, since a fifth of the runs is held back.
        free = max(1, len(array) // max(1, 5 * -(-len(array) // (5 * batch))))
        step = first if isinstance(first, int) and first > 0 else free
        parts = [array[i : i + step] for i in range(0, len(array) - step + 1, step)]
    elif array.ndim == rank:
        parts = [array]
    else:
        raise UsageError(f"--inputs: {spec.name} has rank {array.ndim}, the model wants {rank} or {rank + 1}")
    for part in parts[:1]:
        for size, wanted in zip(part.shape, spec.shape, strict=True):
            if isinstance(wanted, int) and wanted > 0 and size != wanted:
                raise UsageError(
                    f"--inputs: {spec.name} has shape {list(array.shape)}, the model wants {list(spec.shape)}"
                )
    return [_typed(spec, part) for part in parts]


def _typed(spec: InputSpec, part: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an array in the input's element type, which must hold its numbers up to rounding."""
    wrong = f"--inputs: {spec.name} holds {part.dtype}, the model wants {spec.type}"
    if spec.dtype is None or part.dtype.kind not in "biuf":
        raise UsageError(wrong)
    if spec.shape and spec.shape[0] != 0 and part.ndim and len(part) == 0:
        raise UsageError(f"--inputs: {spec.name} holds no sample")
    with np.errstate(all="ignore"):
        typed = part.astype(spec.dtype)
    if spec.dtype.kind in "biu" and part.dtype.kind != "b" and not np.array_equal(typed, part):
        raise UsageError(f"{wrong} and cannot hold all of its numbers")
    if spec.dtype.kind not in "biu" and not np.array_equal(np.isfinite(typed.astype(np.float64)), np.isfinite(part)):
        raise UsageError(f"{wrong}, for which some of its numbers are too large")
    return typed
