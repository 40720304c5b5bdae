"""Two models on equal inputs, row by row: what a reader reads in one of them, and what it gives in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.edge.inputs import Feeder
from onnx_coreset.edge.runtime import RuntimeRefused, Session

_LEAST_RUNS = 8


@dataclass(frozen=True)
class Reader:
    """Where a linear operator reads and writes.

    Attributes:
        hidden: The tensor it reads.
        data_axis: Axis of that tensor that it sums over, counted from the end.
        output: The tensor that holds its sums.
        axis: Axis of that tensor that its outputs run along, counted from the end.
    """

    hidden: str
    data_axis: int
    output: str
    axis: int


Pair = tuple[Array, Array, Array]
"""Features (N, p) and outputs (N, k) in the narrower model, and outputs (N, k) in the original."""


def pairs(
    original: Session,
    narrow: Session,
    readers: Sequence[Reader],
    feeder: Feeder,
    rows: int,
    runs: int,
    rng: np.random.Generator,
    first: int = 0,
) -> Iterator[tuple[Pair, ...]]:
    """Yield, for one run after the other, what each reader of a layer reads and gives.

    Args:
        original: The model as it was, with the outputs of all readers among its own.
        narrow: The narrower model, with what they read besides.
        readers: The readers.
        feeder: Source of inputs.
        rows: Samples wanted; at most an eighth of them is taken from one run, where there are as many runs.
        runs: Most runs.
        rng: Source of the inputs and of the choice among the rows of a run.
        first: Number of the first run.

    Yields:
        One pair a reader; samples that are not finite in both models are left out.

    Raises:
        RuntimeRefused: A model does not run, or gives tables of different shapes.
    """
    runs = runs if feeder.runs is None else min(runs, feeder.runs)
    share, have = -(-rows // max(min(runs, _LEAST_RUNS), 1)), 0
    outputs = list(dict.fromkeys(reader.output for reader in readers))
    names = list(dict.fromkeys([*outputs, *(reader.hidden for reader in readers)]))
    for run in range(first, first + runs):
        feed = feeder.feed(run, rng)
        before, after = original.run(feed, outputs), narrow.run(feed, names)
        found = tuple(_pair(reader, before, after, share, rng) for reader in readers)
        yield found
        have += len(found[0][0])
        if have >= rows:
            return


def _pair(
    reader: Reader,
    before: Mapping[str, NDArray[np.generic]],
    after: Mapping[str, NDArray[np.generic]],
    share: int,
    rng: np.random.Generator,
) -> Pair:
    """Return at most `share` rows of what one reader reads and gives, where they are finite."""
    hidden = _rows(after[reader.hidden], reader.data_axis)
    narrow, wide = (_rows(values[reader.output], reader.axis) for values in (after, before))
    if len(hidden) != len(narrow) or narrow.shape != wide.shape:
        raise RuntimeRefused(f"{reader.output} has another shape in the narrower model")
    picked = np.arange(len(hidden))
    if len(picked) > share:
        picked = np.sort(rng.choice(len(hidden), size=share, replace=False))
    one, two, three = (part[picked].astype(np.float64) for part in (hidden, narrow, wide))
    good = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1) & np.isfinite(three).all(axis=1)
    return one[good], two[good], three[good]


def _rows(values: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
    turned = np.moveaxis(values, axis, -1)
    return turned.reshape(-1, turned.shape[-1])
