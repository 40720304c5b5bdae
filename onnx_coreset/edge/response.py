"""How far variants of a model err at its outputs; the original is run once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_coreset.edge.differences import Differences, stays_finite
from onnx_coreset.edge.inputs import Feed
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session

Outputs = dict[str, NDArray[np.generic]]
_NUMBERS = 1 << 26


def responses(
    original: onnx.ModelProto, variants: Iterable[onnx.ModelProto], provider: Provider, feeds: Sequence[Feed]
) -> Iterator[float]:
    """Yield the error of each variant at the original's outputs.

    Args:
        original: The model.
        variants: Models with the same inputs and outputs; each is asked for when its turn comes.
        provider: Where they are run.
        feeds: Inputs, one a run.

    Yields:
        The largest over outputs of the rms error over the output's spread; NaN where the variant does not run, changes
        a shape or gives what is not finite. Outputs that are no floating-point numbers, or differ between two equal
        runs, do not count.

    Raises:
        RuntimeRefused: The original does not run.
    """
    session = Session(original, provider)
    before = [session.run(feeds[0])]
    numbers = sum(value.size for value in before[0].values())
    # The outputs of all runs are held at once; two runs there are where anybody asks for them.
    most = max(_NUMBERS // max(numbers, 1), 2)
    before += [session.run(feed) for feed in feeds[1:most]]
    again = session.run(feeds[0])
    names = [
        name
        for name, value in before[0].items()
        if value.dtype.kind in "fV" and np.array_equal(value, again[name], equal_nan=value.dtype.kind == "f")
    ]
    del session
    for variant in variants:
        try:
            other = Session(variant, provider)
            tables = {name: Differences() for name in names}
            alike = all(_added(tables, old, other.run(feed)) for old, feed in zip(before, feeds, strict=False))
        except RuntimeRefused:
            alike = False
        yield max((_relative(table) for table in tables.values()), default=np.nan) if alike else np.nan


def _added(tables: Mapping[str, Differences], before: Outputs, after: Outputs) -> bool:
    """Add a run, and return whether it has the same shapes and is finite wherever the original is."""
    for name, table in tables.items():
        if before[name].shape != after[name].shape:
            return False
        if not stays_finite(before[name], after[name]):
            return False
        table.add(before[name], after[name])
    return True


def _relative(table: Differences) -> float:
    error = table.error("")
    return 0.0 if np.isnan(error.rms) else error.rms / (error.spread or 1.0)
