"""How far variants of a model err at its outputs; the original is run once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.measure import spread
from onnx_coreset.edge.inputs import Feed
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session

Outputs = dict[str, NDArray[np.generic]]


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
    before = [session.run(feed) for feed in feeds]
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
            after = [other.run(feed) for feed in feeds]
        except RuntimeRefused:
            yield np.nan
            continue
        yield max((_relative(name, before, after) for name in names), default=np.nan)


def _relative(name: str, before: Sequence[Outputs], after: Sequence[Outputs]) -> float:
    if any(b[name].shape != a[name].shape for b, a in zip(before, after, strict=True)):
        return float(np.nan)
    old, new = _table([run[name] for run in before]), _table([run[name] for run in after])
    finite = np.isfinite(old).all(axis=1)
    if not finite.any():
        return 0.0
    error = float(np.sqrt(np.mean((new[finite] - old[finite]) ** 2)))
    return error / (spread(old[finite]) or 1.0)


def _table(parts: Sequence[NDArray[np.generic]]) -> Array:
    """Return runs below each other, samples x entries; runs of different sizes entry by entry."""
    rows = [part.astype(np.float64).reshape(len(part) if part.ndim > 1 else 1, -1) for part in parts]
    same = len({row.shape[1] for row in rows}) == 1
    return np.concatenate(rows if same else [row.reshape(-1, 1) for row in rows])
