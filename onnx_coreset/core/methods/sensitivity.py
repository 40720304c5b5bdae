"""Importance sampling by sensitivity: the coreset of Mussay, Osadchy, Braverman, Zhou and Feldman.

The sensitivity of neuron j is the most it can add to any output for any input of the ball, s_j = max_i |w_ij| sup |f|.
Drawing m neurons i.i.d. with probability s_j / t, t = sum of s, and adding w_ij / (m pr_j) for each draw of j gives an
unbiased estimate of every output for every input.

Source: "Data-independent neural pruning via coresets", ICLR 2020, Algorithm 2 (Algorithm 1 is one output) and
Corollary 8. What departs from it:

- The paper has no bias. Here it is inside the supremum, over pre-activations in [b - r ||p||, b + r ||p||]. The
  published code takes f(r ||(p, b)||) instead, which is no upper bound: for ReLU, r = 2, ||p|| = b = 1 it is 2.83 < 3.
- The paper asks for f >= 0 that does not decrease, so that the supremum is f(r ||p||). Here it is the exact supremum of
  |f|, right for GELU, SiLU and tanh as well.
- The published code draws until a wanted number of distinct neurons is met and divides by the number of draws, which
  then depends on what was drawn: that estimate is biased. Here the number of draws is fixed beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons, restrict
from onnx_coreset.core.methods.base import Context, check_width, dense, unit_maxima

__all__ = ["Sensitivity", "distinct", "draws_for", "inclusion", "systematic"]

MOST_DRAWS = 2**40


@dataclass(frozen=True)
class Sensitivity:
    """Algorithm 2, as a value.

    Attributes:
        radius: Radius of the ball of inputs; None takes the context's.
        signs: Whether positive and negative outgoing weights are sampled apart, a fixed share of the draws each, as
            Corollary 8 asks. It splits by the sign of w f(p.x), which depends on x and so is no split of the neurons;
            splitting by the sign of w is what its proof needs where f >= 0. Summands of both signs that are bounded
            need no split at all: the estimate is unbiased either way, and Hoeffding's inequality holds with the same
            number of draws. With many outputs nearly every neuron falls into both parts, so it is off by default.
    """

    radius: float | None = None
    signs: bool = False
    name: str = "sensitivity"
    requires: frozenset[str] = frozenset({"neurons"})

    def sensitivities(self, layer: HiddenLayer, context: Context) -> tuple[Array, ...]:
        """Return the sensitivities of the neurons: one array, or with `signs` one for each sign of w.

        Several readouts: a neuron's sensitivity is the largest over them, each in units of its own largest, so that a
        head of small numbers counts as much as one of large numbers. A neuron without a finite bound on |f| is given
        the largest finite one; the estimate stays unbiased.

        Args:
            layer: The hidden layer, n dense neurons.
            context: Law and radius.

        Returns:
            Arrays of shape (n,), not negative.

        Raises:
            ValueError: The features are not dense neurons.
        """
        radius = context.radius if self.radius is None else self.radius
        domain = context.law.domain
        suprema = [_suprema(f, radius, None if domain is None else domain.centre) for f in dense(layer)]
        weights = [r.outgoing[:, :, 0] for r in layer.readouts]
        signs = (1.0, -1.0) if self.signs else (None,)
        parts = [[_largest(w, side) * sup for w, sup in zip(weights, suprema, strict=True)] for side in signs]
        return tuple(unit_maxima(part) for part in parts)

    def estimate(self, layer: HiddenLayer, draws: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return the i.i.d. estimator with a fixed number of draws: unbiased, width random.

        Args:
            layer: The hidden layer, n dense neurons.
            draws: Number of draws m; with `signs` they are shared in proportion to the parts' totals, at least one
                each.
            context: Law and radius.
            rng: Source of the draws.

        Returns:
            Coreset of the neurons drawn. Where all sensitivities are 0 the outputs are constant, and neuron 0 stays at
            weight 0 because a layer cannot be empty.

        Raises:
            ValueError: The features are not dense neurons, or `draws` is not positive.
        """
        if draws < 1:
            raise ValueError("at least one draw is needed")
        outgoing, hits = self._draw(layer, self.sensitivities(layer, context), draws, rng)
        kept = np.flatnonzero(hits) if hits.any() else np.zeros(1, dtype=np.intp)
        return Coreset(kept, tuple(w[:, kept] for w in outgoing), tuple(r.constant for r in layer.readouts), self.name)

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return an unbiased coreset of exactly `width` neurons.

        The number of draws is the largest for which no more than `width` distinct neurons are expected. Where more are
        drawn, `width` of them stay by systematic sampling with inclusion probabilities proportional to how often each
        was drawn (at most 1), and are divided by them: given the draws the mean is the i.i.d. estimate, so that the
        whole stays unbiased, which dropping or redrawing would not. Where fewer are drawn, the most sensitive others
        fill up at outgoing weight 0: they change nothing and are there for a refit. The draws are then no longer
        independent; sample-size statements are about `estimate`. Where no more than `width` neurons can contribute at
        all, they stay as they are and nothing is random.

        Args:
            layer: The hidden layer, n dense neurons.
            width: Number of neurons to keep.
            context: Law and radius.
            rng: Source of the draws.

        Returns:
            Coreset of `width` neurons; constants unchanged.

        Raises:
            ValueError: The features are not dense neurons, or `width` is not between 1 and n.
        """
        check_width(layer, width)
        parts = self.sensitivities(layer, context)
        score = np.sum(parts, axis=0)
        order = np.argsort(-score, kind="stable")
        if np.count_nonzero(score) <= width:
            return restrict(layer, np.sort(order[:width]), self.name)
        outgoing, hits = self._draw(layer, parts, draws_for(parts, width), rng)
        include = inclusion(hits, width)
        chosen = systematic(include, rng)
        filled = np.concatenate([chosen, order[~np.isin(order, chosen)]])[:width]
        kept = np.sort(filled)
        # Neurons that were not chosen have no part in the estimate, drawn or not.
        factor = np.zeros(layer.width)
        factor[chosen] = 1.0 / include[chosen]
        weights = tuple((w * factor[None, :, None])[:, kept] for w in outgoing)
        return Coreset(kept, weights, tuple(r.constant for r in layer.readouts), self.name)

    def _draw(
        self, layer: HiddenLayer, parts: tuple[Array, ...], draws: int, rng: np.random.Generator
    ) -> tuple[tuple[Array, ...], Indices]:
        """Return estimated outgoing weights (k, n, 1) of each readout, and how often each neuron was drawn, (n,)."""
        factors, hits = [], np.zeros(layer.width, dtype=np.intp)
        for sensitivity, share in zip(parts, _shares(parts, draws), strict=True):
            total = sensitivity.sum()
            probability = sensitivity / total if total > 0 else np.zeros_like(sensitivity)
            drawn = rng.multinomial(share, probability / probability.sum()) if total > 0 else np.zeros(layer.width)
            expected = share * probability
            factors.append(np.divide(drawn, expected, out=np.zeros_like(expected), where=expected > 0))
            hits = hits + drawn.astype(np.intp)
        outgoing = []
        for readout in layer.readouts:
            w = readout.outgoing
            sides = (np.maximum(w, 0.0), np.minimum(w, 0.0)) if self.signs else (w,)
            outgoing.append(
                sum((side * f[None, :, None] for side, f in zip(sides, factors, strict=True)), np.zeros(()))
            )
        return tuple(outgoing), hits


def _largest(weights: Array, side: float | None) -> Array:
    """Return the largest |w_ij| over outputs i, of one sign only where `side` is given."""
    magnitude = np.abs(weights) if side is None else np.maximum(side * weights, 0.0)
    return np.asarray(magnitude.max(axis=0, initial=0.0))


def _suprema(features: Neurons, radius: float, centre: Array | None) -> Array:
    """Return the supremum (n,) of |f| over the ball, every one finite."""
    middle = features.bias if centre is None else features.bias + features.incoming @ centre
    reach = radius * np.linalg.norm(features.incoming, axis=1)
    suprema = features.activation.supremum(middle - reach, middle + reach)
    finite = np.isfinite(suprema)
    return np.where(finite, suprema, suprema[finite].max(initial=0.0) or 1.0)


def _shares(parts: tuple[Array, ...], draws: int) -> tuple[int, ...]:
    """Return how many of the draws each part gets: in proportion to totals, at least one where a total is positive."""
    totals = np.array([part.sum() for part in parts])
    if len(parts) == 1 or not totals.all():
        return tuple(draws if total > 0 else 0 for total in totals)
    first = int(np.clip(round(draws * totals[0] / totals.sum()), 1, max(draws - 1, 1)))
    return first, max(draws - first, 1)


def distinct(parts: tuple[Array, ...], draws: int) -> float:
    """Return the expected number of distinct neurons among i.i.d. draws.

    Args:
        parts: Sensitivities (n,) of each part that is sampled on its own.
        draws: Number of draws in all.

    Returns:
        Sum over neurons of 1 - (1 - pr)^m, the product of the parts' powers where there are several.
    """
    missing = np.zeros_like(parts[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        for part, share in zip(parts, _shares(parts, draws), strict=True):
            if share:
                missing = missing + share * np.log1p(-part / part.sum())
    return float(-np.expm1(missing).sum())


def draws_for(parts: tuple[Array, ...], width: int) -> int:
    """Return the largest number of draws for which no more than `width` distinct neurons are expected.

    Args:
        parts: Sensitivities (n,) of each part; more than `width` neurons have a positive one.
        width: Number of distinct neurons, at least 1.

    Returns:
        Number of draws, at least one for each part.
    """
    low, high = 1, 2
    while high < MOST_DRAWS and distinct(parts, high) <= width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if distinct(parts, middle) <= width else (low, middle)
    return low


def inclusion(sizes: Array | Indices, width: int) -> Array:
    """Return inclusion probabilities proportional to sizes, at most 1; they sum to the number of neurons kept.

    Args:
        sizes: Sizes, such as sensitivities or how often each neuron was drawn, shape (n,), not negative.
        width: Number of neurons to keep, at least 1; where fewer sizes are positive, those are certain.

    Returns:
        Shape (n,). O(n log n).
    """
    if np.count_nonzero(sizes) <= width:
        return np.where(sizes > 0, 1.0, 0.0)
    ordered = np.sort(sizes)[::-1].astype(np.float64)
    # With the c largest certain, the rest shares width - c: the smallest c for which no share exceeds 1.
    rest = ordered.sum() - np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    certain = int(np.argmax((width - np.arange(width)) * ordered[:width] <= rest[:width]))
    scale = (width - certain) / rest[certain]
    include = np.minimum(1.0, scale * sizes)
    return np.where(np.isclose(include, 1.0, rtol=1e-12, atol=0.0), 1.0, include)


def systematic(include: Array, rng: np.random.Generator) -> Indices:
    """Return a sample in which neuron j has probability include_j; its size is their sum, a whole number.

    Args:
        include: Inclusion probabilities, shape (n,).
        rng: Source of the sample.

    Returns:
        Increasing indices. O(n log n).
    """
    certain = np.flatnonzero(include >= 1.0)
    shuffled = rng.permutation(np.flatnonzero((include > 0) & (include < 1.0)))
    if shuffled.size == 0:
        return certain
    ends = np.cumsum(include[shuffled])
    # The last end is a whole number up to rounding; taking it so keeps the size exact.
    size = round(float(ends[-1]))
    ticks = np.minimum(np.floor(ends * (size / ends[-1]) - (1.0 - rng.random())) + 1.0, size)
    return np.sort(np.concatenate([certain, shuffled[np.diff(ticks, prepend=0.0) > 0]]))
