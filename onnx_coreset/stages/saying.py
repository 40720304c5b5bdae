"""From errors of draws that decided nothing to a statement about one that was not seen.

Of independent draws of a law it is an order statement; of a user's inputs, of which nothing is known but that a fresh
one is like them, a conformal one.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.statistics import clopper_pearson, conformal_claim, draws_for, order_claim
from onnx_coreset.edge.inputs import Feeder, Given
from onnx_coreset.statements import Level, Share, Statement

UNSEEN = 8
"""Stage of the random streams that statements draw from; those of widths come after it."""

FEW_HELD_BACK = "too few inputs were held back to keep any from what was decided"

_LEVELS = (0.001, 0.01, 0.1)
_WEAKEST = 0.5


def independent(feeder: Feeder) -> bool:
    """Return whether samples of a feeder are independent draws of a law, and not a user's."""
    return not isinstance(feeder, Given) or feeder.drawn


def enough(delta: float) -> int:
    """Return how many independent draws let the largest be exceeded once in a thousand times."""
    return draws_for(_LEVELS[0], delta)


def said(errors: Array, about: str, law: str, drawn: bool, delta: float, eps: float | None = None) -> Statement:
    """Return what errors say of a fresh one.

    Args:
        errors: Errors of draws, shape (N,).
        about: In words, what a draw is.
        law: In words, what it was drawn from.
        drawn: Whether draws are independent; otherwise a fresh one is exchangeable with them.
        delta: How improbable it is that an order statement is wrong, in (0, 1).
        eps: Error of which the share of draws above it is told, in the errors' own numbers, or None.
    """
    if not np.isfinite(errors).all():
        return Statement(reason="an error is not finite")

    def claimed(probability: float | None = None) -> Level | None:
        found = order_claim(errors, delta, probability) if drawn else conformal_claim(errors, probability)
        return None if found is None else Level(found.probability, found.exceeds)

    most = claimed()
    if most is None or most.probability > _WEAKEST:
        return Statement(reason=f"{errors.size} independent draws are too few to say anything")
    levels = tuple(level for p in _LEVELS if p > most.probability and (level := claimed(p)) is not None)
    share = None
    if eps is not None and drawn:
        above = int(np.count_nonzero(errors > eps))
        share = Share(eps, above, *clopper_pearson(above, errors.size, delta))
    return Statement(
        kind="order" if drawn else "conformal",
        about=about,
        law=law,
        samples=errors.size,
        delta=delta if drawn else None,
        probability=most.probability,
        exceeds=most.exceeds,
        levels=levels,
        share=share,
    )
