"""Uniform sampling without replacement: the baseline that knows nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.layer import Coreset, HiddenLayer
from onnx_coreset.core.methods.base import Context, check_width

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform:
    """m of n neurons, every subset equally likely, outgoing weights times n / m: unbiased for every input.

    Source: Mussay et al., "Data-independent neural pruning via coresets", ICLR 2020, baseline "uniform". Theirs is not
    reweighted in code; here it is, and it samples without replacement, which only lowers the variance.
    """

    name: str = "uniform"
    requires: frozenset[str] = frozenset()

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return a random coreset.

        Args:
            layer: The hidden layer, n neurons.
            width: Number of neurons to keep, m.
            context: Not used.
            rng: Source of the choice.

        Returns:
            Coreset of m neurons; constants unchanged.

        Raises:
            ValueError: `width` is not between 1 and n.
        """
        check_width(layer, width)
        kept = np.sort(rng.choice(layer.width, size=width, replace=False))
        outgoing = tuple(r.outgoing[:, kept] * (layer.width / width) for r in layer.readouts)
        return Coreset(kept, outgoing, tuple(r.constant for r in layer.readouts), self.name)
