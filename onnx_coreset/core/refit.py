"""New outgoing weights and constant for the neurons kept: ridge least squares centred on the old weights.

With features a (mean m, covariance G, standardised so that diag G = 1), outgoing weights W and kept columns C,

    U = W (G + r I)_{:C} ((G + r I)_CC)^{-1},      c' = c + W m - U m_C.

U minimises E |W (a - m) - U (a_C - m_C)|^2 plus r |U - W|^2 over all columns, dropped ones counted as zero. It shrinks
towards W, not towards zero, and it is W exactly when nothing is dropped. The Cholesky factor of (G + r I)_CC is used,
never an inverse; r grows until the factor is well conditioned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.gram import Moments
from onnx_coreset.core.layer import Coreset, HiddenLayer, Readout

RIDGE = 1e-7
"""Ridge in units of a feature's variance: far below sampling noise, far above rounding."""


def standardise(moments: Moments) -> tuple[Array, Array]:
    """Return the correlation matrix (p, p) of the features and their standard deviations (p,).

    Features that do not vary, to rounding of the largest, get standard deviation 0 and a unit row of their own.

    Args:
        moments: Moments of p features.

    Raises:
        FloatingPointError: A moment is not finite: some sample made a feature overflow, or not a number.
    """
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.gram).all()):
        raise FloatingPointError("the features are not finite on every sample")
    variance = np.diag(moments.gram).copy()
    floor = np.finfo(np.float64).eps * max(float(variance.max(initial=0.0)), np.finfo(np.float64).tiny)
    deviation = np.sqrt(np.where(variance > floor, variance, 0.0))
    inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    correlation = moments.gram * inverse[:, None]
    correlation *= inverse
    np.fill_diagonal(correlation, 1.0)
    return correlation, deviation


def seen(moments: Moments, constant_allowed: bool) -> Moments:
    """Return the moments that the error depends on: where the constant may not change, means are not free.

    Args:
        moments: Moments of p features.
        constant_allowed: Whether the constant makes up for the means.

    Returns:
        The moments themselves, or mean 0 and E a a^T.
    """
    if constant_allowed:
        return moments
    return Moments(np.zeros_like(moments.mean), moments.gram + np.outer(moments.mean, moments.mean))


def refit(
    layer: HiddenLayer,
    kept: Indices,
    moments: tuple[Moments, ...],
    ridge: float = RIDGE,
    method: str = "",
    seed: int = 0,
) -> Coreset:
    """Return the coreset of the neurons `kept` with refitted outgoing weights and constants.

    Args:
        layer: The hidden layer, n neurons.
        kept: Strictly increasing indices, shape (m,).
        moments: Moments of each readout's features.
        ridge: Ridge in units of a feature's variance.
        method: Name to record.
        seed: Seed to record.

    Returns:
        The coreset. O((m s)^3 + k n m s^2) a readout.

    Source: the normal equations of least squares; Tikhonov regularisation centred on the given weights.
    """
    kept = np.asarray(kept)
    if kept.size == layer.width:
        outgoing = tuple(readout.outgoing for readout in layer.readouts)
        return Coreset(kept, outgoing, tuple(r.constant for r in layer.readouts), method, seed)
    parts = [_readout(r, kept, m, ridge) for r, m in zip(layer.readouts, moments, strict=True)]
    return Coreset(kept, tuple(p[0] for p in parts), tuple(p[1] for p in parts), method, seed)


def _readout(readout: Readout, kept: Indices, moments: Moments, ridge: float) -> tuple[Array, Array]:
    columns = readout.features.columns
    chosen = (kept[:, None] * columns + np.arange(columns)).reshape(-1)
    flat = readout.outgoing.reshape(readout.outputs, -1)
    moments = seen(moments, readout.constant_allowed)
    mean = moments.mean
    correlation, deviation = standardise(moments)
    factor, ridge = _factor(correlation[np.ix_(chosen, chosen)], ridge)
    target = (flat * deviation) @ correlation[:, chosen] + ridge * (flat * deviation)[:, chosen]
    solved = cho_solve(factor, target.T).T
    live = deviation[chosen] > 0
    # Features that do not vary keep their weights.
    outgoing = np.divide(solved, deviation[chosen], out=flat[:, chosen], where=live)
    constant = readout.constant + flat @ mean - outgoing @ mean[chosen]
    if not readout.constant_allowed:
        constant = readout.constant
    return outgoing.reshape(readout.outputs, kept.size, columns), constant


def _factor(matrix: Array, ridge: float) -> tuple[tuple[Array, bool], float]:
    """Return a Cholesky factor of matrix + r I and r, the smallest of ridge, 10 ridge, ... that is well conditioned."""
    identity = np.eye(matrix.shape[0])
    ridge = max(ridge, float(np.finfo(np.float64).eps))
    while True:
        try:
            factor = cho_factor(matrix + ridge * identity, lower=True, overwrite_a=True, check_finite=False)
            pivots = np.diag(factor[0])
            if pivots.size == 0 or float(pivots.min()) ** 2 > 0.1 * ridge:
                return factor, ridge
        except np.linalg.LinAlgError:
            pass
        ridge *= 10.0


@dataclass(frozen=True)
class Paired:
    """Moments of paired samples: features a as a narrower model has them, and what its readout lacks there.

    Attributes:
        count: Number of samples N.
        mean: Mean of the features, shape (p,).
        gram: Covariance of the features, shape (p, p).
        lack: Mean of what is lacking, original minus narrower, shape (k,).
        cross: Covariance of what is lacking with the features, shape (k, p).
        power: Mean square of what is lacking, shape (k,).
    """

    count: int
    mean: Array
    gram: Array
    lack: Array
    cross: Array
    power: Array

    @staticmethod
    def of(features: Array, lack: Array) -> Paired:
        """Return the moments of features (N, p) and what is lacking (N, k). O(N p (p + k))."""
        count = len(features)
        mean, middle = features.mean(axis=0), lack.mean(axis=0)
        centred = features - mean
        cross = (lack - middle).T @ centred / count
        return Paired(count, mean, centred.T @ centred / count, middle, cross, np.mean(lack**2, axis=0))

    def plus(self, other: Paired) -> Paired:
        """Return the moments of both together; means are subtracted before anything is multiplied. O(p (p + k))."""
        count = self.count + other.count
        one, two = self.count / count, other.count / count
        step, moved = other.mean - self.mean, other.lack - self.lack
        return Paired(
            count,
            self.mean + two * step,
            one * self.gram + two * other.gram + one * two * np.outer(step, step),
            self.lack + two * moved,
            one * self.cross + two * other.cross + one * two * np.outer(moved, step),
            one * self.power + two * other.power,
        )

    def explained(self, step: Array, shift: Array) -> tuple[Array, Array]:
        """Return the mean of e d and of d^2 by output, both (k,), where e is lacking and d = step . a + shift is added.

        Adding t d leaves a mean square error of power - 2 t (e d) + t^2 (d^2).

        Args:
            step: Shape (k, p).
            shift: Shape (k,).
        """
        added = step @ self.mean + shift
        along = np.einsum("kp,kp->k", step, self.cross) + self.lack * added
        return along, np.einsum("kp,kp->k", step @ self.gram, step) + added**2


@dataclass(frozen=True)
class Step:
    """Mean square of what a readout lacks once a share t of a step is added: power - 2 t along + t^2 square.

    Attributes:
        power: Mean square before.
        along: Mean product of what is lacking and what the whole step adds.
        square: Mean square of what the whole step adds.
    """

    power: float
    along: float
    square: float

    @property
    def share(self) -> float:
        """The share, at most 1, that leaves least; 0 where the step helps nothing or a mean is not finite."""
        if not (np.isfinite([self.power, self.along, self.square]).all() and min(self.along, self.square) > 0.0):
            return 0.0
        return min(1.0, self.along / self.square)

    def rms(self, share: float) -> float:
        """Return the root of what a share of the step leaves."""
        return math.sqrt(max(self.power - 2 * share * self.along + share**2 * self.square, 0.0))


def correction(paired: Paired, constant_allowed: bool, ridge: float = RIDGE) -> tuple[Array, Array]:
    """Return what to add to outgoing weights and constant so that a narrower model lacks least.

    With features a of the kept neurons inside the narrower model and e, what its readout lacks of the original's,

        D = Cov(e, a) (Cov(a) + r I)^{-1},      d = E e - D E a        in units where every feature varies by 1.

    Minimising E |e - D a - d|^2 + r |D|^2 is the refit to the original's outputs centred on the present weights. The
    features need not be what they were in the original: this is where errors of layers in front are made up for.

    Args:
        paired: Moments of p features and k outputs.
        constant_allowed: Whether the constant may change; otherwise d = 0 and nothing is centred.
        ridge: Ridge in units of a feature's variance.

    Returns:
        D of shape (k, p) and d of shape (k,). O(p^3 + k p^2).

    Raises:
        FloatingPointError: A moment is not finite.

    Source: the normal equations of least squares; Frantar & Alistarh 2023 and Luo et al. 2017 fit a pruned layer to the
        original's outputs from the pruned model's inputs likewise, without the centring ridge.
    """
    moments = seen(Moments(paired.mean, paired.gram), constant_allowed)
    cross = paired.cross if constant_allowed else paired.cross + np.outer(paired.lack, paired.mean)
    if not np.isfinite(cross).all():
        raise FloatingPointError("the outputs are not finite on every sample")
    correlation, deviation = standardise(moments)
    inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    factor, _ = _factor(correlation, ridge)
    step = cho_solve(factor, (cross * inverse).T).T * inverse
    shift = paired.lack - step @ paired.mean if constant_allowed else np.zeros_like(paired.lack)
    return step, shift
