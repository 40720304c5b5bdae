"""Which of the values that a model computes for one sample depend on the other samples of the run.

The first axis of a model's inputs mostly holds samples, and what a model computes for one of them mostly has nothing to
do with the others. That cannot be read off shapes: it is tried. Half of the samples are replaced, all of them by one
that stays, and what belongs to the samples that stay must not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.edge.inputs import Feed, batch_of
from onnx_coreset.edge.runtime import Session
from onnx_coreset.edge.statistics import Origin

_ROUNDING = 1e-4
"""Other kernels for other numbers: what differs by less, relative to the largest value, is the same."""


def separate(
    session: Session,
    names: Sequence[str],
    feed: Feed,
    rng: np.random.Generator,
    axes: Mapping[str, int] | None = None,
) -> frozenset[str]:
    """Return the tensors of which equal parts, one after the other, belong to one sample each and to no other.

    Args:
        session: The model; the tensors are among its outputs or its inputs.
        names: The tensors.
        feed: Inputs of one run.
        rng: Chooses the samples that are replaced.
        axes: Axis that the inputs of a layer run along, counted from the end, by tensor; the last where it has none.

    Returns:
        Their names; none where the run has a single sample, or where its numbers on one axis share a scale.

    Raises:
        RuntimeRefused: The model does not run.
    """
    batch = batch_of(feed)
    if batch < 2 or any(value.ndim == 1 and value.dtype.kind in "fV" for value in feed.values()):
        return frozenset()
    order = rng.permutation(batch)
    replaced, stay = order[: batch // 2], order[batch // 2 :]
    other = {name: _replaced(value, replaced, int(stay[0])) for name, value in feed.items()}
    wanted = [name for name in names if name not in feed]
    values = [{**fed, **(session.run(fed, wanted) if wanted else {})} for fed in (feed, other)]
    places = {name: (axes or {}).get(name, -1) for name in names}
    return frozenset(n for n in names if _same(values[0][n], values[1][n], places[n], batch, stay))


def _replaced(values: NDArray[np.generic], replaced: Indices, by: int) -> NDArray[np.generic]:
    """Return values (batch, ...) of which those at some places are those at another."""
    found = values.copy()
    found[replaced] = values[by]
    return found


def _same(one: NDArray[np.generic], two: NDArray[np.generic], axis: int, batch: int, stay: Indices) -> bool:
    """Return whether the samples that stay have the same values twice."""
    if one.shape != two.shape or one.ndim < -axis or not one.size or one.size // one.shape[axis] % batch:
        return False
    before, after = (_parts(value, axis, batch)[stay] for value in (one, two))
    largest = float(np.max(np.abs(before), initial=0.0, where=np.isfinite(before)))
    return np.allclose(before, after, rtol=0.0, atol=_ROUNDING * largest, equal_nan=True)


def _parts(values: NDArray[np.generic], axis: int, batch: int) -> Array:
    """Return the values of each sample, shape (batch, values of one), where they stand one after the other."""
    return np.moveaxis(values, axis, -1).reshape(batch, -1).astype(np.float64)


def per_draw(errors: Array, origin: Origin, apart: bool, rng: np.random.Generator) -> tuple[Array, str]:
    """Return one error for each independent draw, of errors of rows.

    Where every row of every draw is there, it is the largest of the draw's errors. Otherwise rows were drawn among a
    draw's, and so is one of them: it is an error at random of a draw at random.

    Args:
        errors: An error of each row, shape (N,).
        origin: Where each row came from.
        apart: Whether the samples of a run are independent of each other; otherwise its rows are one draw.
        rng: Chooses among the rows of a draw.

    Returns:
        Errors of draws, shape (M,), and what such an error is: "row", "worst" or "random". O(N log N).
    """
    samples = origin.sample if apart else np.zeros_like(origin.sample)
    keys = np.stack([origin.run, samples], axis=1)
    _, first, group, sizes = np.unique(keys, axis=0, return_index=True, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    each = (origin.rows // origin.samples if apart else origin.rows)[first]
    if len(sizes) and np.all(sizes == each):
        worst = np.full(len(sizes), -np.inf)
        np.maximum.at(worst, group, errors)
        return worst, "row" if np.all(each == 1) else "worst"
    # What was collected may end in the middle of a draw: its first rows are none at random.
    shuffled = rng.permutation(np.flatnonzero(group < len(sizes) - 1))
    _, chosen = np.unique(group[shuffled], return_index=True)
    return errors[shuffled[chosen]], "random"
