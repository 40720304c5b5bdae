"""Bounds of a form by a single linear function of the input: the largest value of a linear function is a norm.

On [l, u] with l < 0 < u, |t| is at most its chord from (l, |l|) to (u, |u|), and -|t| at most -a t for any slope a in
[-1, 1]. Both slopes tried are those of CROWN: the chord's own, and the sign of the longer side.

Source: Zhang et al., NeurIPS 2018, for the difference of two networks instead of one; Paulsen et al., ICSE 2020.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.forms import Form
from onnx_coreset.core.certificates.rounding import TINY, gamma, norms

__all__ = ["linear"]


def linear(form: Form, rows: Array, reach: Array, ball: bool) -> Array:
    """Return upper bounds of a form over the unit ball or box, shape (K,).

    Args:
        form: The form.
        rows: Rows of the pre-activations, shape (n, d).
        reach: Their norms over the domain, rounded up, shape (n,).
        ball: Whether the domain is the unit ball.

    Returns:
        The better of both slopes for every function, slack included. O(K n d).
    """
    low, high = form.offset - reach, form.offset + reach
    straddles = (low < 0) & (high > 0)
    width = np.where(straddles, high - low, 1.0)
    chord = np.where(straddles, (high + low) / width, np.where(low >= 0, 1.0, -1.0))
    chord = np.clip(chord, -1.0, 1.0)
    # chord t + gap is at least |t| at both ends, whatever rounding did to the chord.
    gap = np.maximum(np.abs(high) - chord * high, np.abs(low) - chord * low)
    gap = np.maximum(gap, 0.0) + 8.0 * gamma(4) * (np.abs(low) + np.abs(high))
    positive, negative = np.maximum(form.weights, 0.0), np.minimum(form.weights, 0.0)
    found = np.full(form.constant.shape, np.inf)
    size = reach + np.abs(form.offset)
    with np.errstate(invalid="ignore", over="ignore"):
        magnitude = (np.abs(form.lin) + 2.0 * np.abs(form.weights)) @ size + np.abs(form.constant)
        for slope in (chord, np.where(form.offset >= 0, 1.0, -1.0)):
            slopes = form.lin + positive * chord + negative * slope
            constant = form.constant + positive @ (gap + chord * form.offset) + negative @ (slope * form.offset)
            found = np.fmin(found, constant + norms(slopes @ rows, ball))
        rounding = gamma(2 * rows.shape[0] + 40) * magnitude + TINY
    return np.asarray(found + rounding + form.slack)
