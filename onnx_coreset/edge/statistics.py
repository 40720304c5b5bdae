"""Samples of the inputs of hidden layers, collected by running the model.

Several tensors are collected in one run as long as their samples fit in the memory budget; the same inputs are drawn
again for the next group of tensors, so that what is collected does not depend on the grouping.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.suggested import Suggested
from onnx_coreset.edge.inputs import Feeder, Synthetic, batch_of
from onnx_coreset.edge.machine import fair_share
from onnx_coreset.edge.patience import runs_within, timed
from onnx_coreset.edge.runtime import InputSpec, NeverEnding, Provider, RuntimeRefused, Session, with_outputs

BATCH = 256
_SIZES = (64, 32, 16, 8, 4, 2, 1)
_LEAST_RUNS = 8
_BUDGET = 1 << 30
_BATCH_NUMBERS = 1 << 24
_LOOP_SECONDS = 20.0


@dataclass(frozen=True)
class Origin:
    """Which of a model's inputs each row came from, if the first axis of all of them holds samples.

    Attributes:
        run: Number of the run, shape (N,).
        sample: Number of the sample in it, shape (N,).
        rows: How many rows the run had in all, shape (N,).
        samples: How many samples, of equally many rows, shape (N,); 1 where rows cannot be told apart so.
    """

    run: Indices
    sample: Indices
    rows: Indices
    samples: Indices


@dataclass(frozen=True)
class Samples:
    """Collected inputs of one layer.

    Attributes:
        rows: One input a row, shape (N, d), in the dtype of the model.
        rank: Number of axes of the tensor they came from.
        axis: Axis of that tensor that the inputs ran along, counted from the end.
        origin: Where each row came from; None where a model was not run for them.
    """

    rows: NDArray[np.generic]
    rank: int
    axis: int = -1
    origin: Origin | None = None


Keep = Callable[[Samples], Samples]
# What a number of an input takes while it is drawn, in double precision and a few times over.
_BYTES = 32


def synthetic(
    session: Session,
    ranges: Mapping[str, tuple[int, int]],
    fixed: Mapping[str, tuple[int, ...]],
    rng: np.random.Generator,
    hints: Mapping[str, Suggested] = MappingProxyType({}),
) -> Synthetic:
    """Return synthetic inputs of shapes that the model runs on.

    An unknown first axis holds samples; other unknown axes get the largest of 64, 32, ..., 1 that runs.

    Args:
        session: The model.
        ranges: Half-open range of the integers that index a table, by input name.
        fixed: Shapes that the user gave, by input name.
        rng: Source of the inputs that are tried.
        hints: What the first layer suggests of an input, by name.

    Raises:
        RuntimeRefused: No shape runs; the message is the model's own.
    """
    strange = next((spec for spec in session.inputs if spec.dtype is None), None)
    if strange is not None:
        raise RuntimeRefused(f"the input {strange.name} is a {strange.type}")
    reason = "the model has no inputs"

    def huge(size: int) -> tuple[bool, int]:
        shapes = _shapes(session.inputs, fixed, size, 1)
        large = sum(math.prod(shape) for shape in shapes.values()) > _BATCH_NUMBERS
        return large, size if large else -size

    # Where axes that are known make inputs large, those that are not are short, if the model runs so.
    for size in sorted(_SIZES, key=huge):
        for batch in (BATCH, 1):
            shapes = _shapes(session.inputs, fixed, size, batch)
            while batch > 8 and sum(int(np.prod(shape)) for shape in shapes.values()) > _BATCH_NUMBERS // 16:
                batch //= 2
                shapes = _shapes(session.inputs, fixed, size, batch)
            feeder = Synthetic(session.inputs, shapes, ranges, hints)
            large = next((name for name, shape in shapes.items() if math.prod(shape) > fair_share() // _BYTES), None)
            if large is not None:
                reason = f"its input {large} does not fit into memory"
                continue
            try:
                session.run(feeder.feed(0, rng))
                return feeder
            except NeverEnding:
                raise
            except RuntimeRefused as refused:
                reason = str(refused)
        if all(isinstance(d, int) for spec in session.inputs for d in spec.shape[1:]):
            break
    raise RuntimeRefused(reason)


def _shapes(
    specs: tuple[InputSpec, ...], fixed: Mapping[str, tuple[int, ...]], size: int, batch: int
) -> dict[str, tuple[int, ...]]:
    """Fill in the unknown axes; axes of one name have one size."""
    firsts = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    shapes: dict[str, tuple[int, ...]] = {}
    given = [pair for spec in specs for pair in zip(spec.shape, fixed.get(spec.name, ()), strict=False)]
    named = {known: size for known, size in given if isinstance(known, str)}
    for spec in specs:
        sizes = []
        for axis, known in enumerate(spec.shape):
            if isinstance(known, int) and known > 0:
                sizes.append(known)
            elif isinstance(known, str) and known in named:
                sizes.append(named[known])
            else:
                sizes.append(batch if axis == 0 or (isinstance(known, str) and known in firsts) else size)
        shapes[spec.name] = tuple(fixed.get(spec.name, tuple(sizes)))
    return shapes


def collect(
    model: onnx.ModelProto,
    provider: Provider,
    names: Sequence[str],
    feeder: Feeder,
    count: int,
    generator: Callable[[], np.random.Generator],
    axes: Mapping[str, int] = MappingProxyType({}),
    most: int | None = None,
    keep: Keep | None = None,
) -> dict[str, Samples]:
    """Collect inputs of several layers.

    Args:
        model: The model.
        provider: Where it is run.
        names: Tensors that hold a layer's inputs along their last axis; the model's own inputs among them.
        feeder: Source of the model's inputs.
        count: Rows wanted a tensor; fewer where the feeder ends first. Rows that are not finite are left out.
        generator: Makes the source of randomness, from the start, once a group of tensors.
        axes: Axis of the inputs, counted from the end, by tensor name, where it is not the last.
        most: Largest number of runs; None for one a row. A model with loops is run for about 20 seconds at most.
        keep: Takes the samples of a tensor as soon as they are complete, and returns what is held of them; memory then
            holds fewer at a time.

    Returns:
        Samples by tensor name; names that the model cannot give are left out.

    Raises:
        RuntimeRefused: The model does not run.
    """
    found: dict[str, Samples] = {}
    waiting, most = list(dict.fromkeys(names)), count if most is None else most
    while waiting:
        rng = generator()
        session = Session(with_outputs(model, [n for n in waiting if n not in _inputs(model)]), provider)
        feed = feeder.feed(0, rng)
        made, each = timed(partial(session.run, feed, [n for n in waiting if n not in feed]))
        values = {**feed, **made}
        if session.loops:
            most = min(most, runs_within(_LOOP_SECONDS, each))
        group: list[str] = []
        total = 0
        for name in waiting:
            value = values.get(name)
            axis = axes.get(name, -1)
            if value is None or value.ndim < -axis or value.dtype.kind not in "fV" or value.shape[axis] == 0:
                continue
            total += count * value.shape[axis] * value.dtype.itemsize
            if group and total > (_BUDGET if keep is None else _BUDGET // 2):
                break
            group.append(name)
        # Rows are chosen by a source of each tensor's own: what else is collected does not move them.
        key = int(generator().integers(2**63))
        picks = {name: np.random.default_rng([key, zlib.crc32(name.encode())]) for name in group}
        found |= _fill(session, picks, values, batch_of(feed), feeder, count, rng, axes, most, keep)
        done = set(group) if group else set(waiting)
        done |= {n for n in waiting if n not in values}
        waiting = [n for n in waiting if n not in done]
    return found


def _inputs(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.input}


def _fill(
    session: Session,
    picks: Mapping[str, np.random.Generator],
    values: Mapping[str, NDArray[np.generic]],
    batch: int,
    feeder: Feeder,
    count: int,
    rng: np.random.Generator,
    axes: Mapping[str, int],
    most: int,
    keep: Keep | None,
) -> dict[str, Samples]:
    """Run until every tensor of the group, the keys of `picks`, has `count` rows."""
    names = list(picks)
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in names}
    origins: dict[str, list[Indices]] = {name: [] for name in names}
    have = dict.fromkeys(names, 0)
    ranks = {name: values[name].ndim for name in names}
    run = 0
    while names:
        for name in names:
            turned = np.moveaxis(values[name], axes.get(name, -1), -1)
            rows = turned.reshape(-1, turned.shape[-1])
            good = np.isfinite(rows.astype(np.float32) if rows.dtype.kind == "V" else rows).all(axis=1)
            places = np.flatnonzero(good)
            share = -(-count // (_LEAST_RUNS if feeder.runs is None else min(_LEAST_RUNS, feeder.runs)))
            if len(places) > share:
                places = places[np.sort(picks[name].choice(len(places), size=share, replace=False))]
            parts[name].append(rows[places])
            origins[name].append(_origin(run, places, len(rows), batch))
            have[name] += len(places)
        run += 1
        short = [name for name in names if have[name] < count]
        # A run that gave nothing usable will not give more: one row a run is the least that counts.
        enough = run >= min(count, most) or (feeder.runs is not None and run >= feeder.runs)
        if not short or enough:
            break
        feed = feeder.feed(run, rng)
        wanted = [n for n in names if n not in feed]
        values = {**feed, **session.run(feed, wanted)} if wanted else feed
        batch = batch_of(feed)
    found: dict[str, Samples] = {}
    for name in names:
        if collected := parts.pop(name):
            origin = Origin(*np.concatenate(origins[name])[:count].T)
            samples = Samples(np.concatenate(collected)[:count], ranks[name], axes.get(name, -1), origin)
            del collected
            found[name] = samples if keep is None else keep(samples)
    return found


def _origin(run: int, places: Indices, rows: int, batch: int) -> Indices:
    """Return what `Origin` holds of n rows, shape (n, 4), given their places among all rows of a run."""
    samples = batch if rows % batch == 0 else 1
    facts = (run, places // max(rows // samples, 1), rows, samples)
    return np.stack([np.broadcast_to(np.intp(fact), places.shape) for fact in facts], axis=1)


def as_float(samples: Samples) -> Array:
    """Return the rows in float64, shape (N, d)."""
    return samples.rows.astype(np.float64)
