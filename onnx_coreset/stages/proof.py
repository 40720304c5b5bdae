"""What is proven about a narrower layer, in the unit of its errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.stages.domains import Stated

__all__ = ["Proof"]


@dataclass(frozen=True)
class Proof:
    """How far a layer and its narrower self can be apart on a domain, output by output.

    Attributes:
        stated: The inputs it holds for.
        certified: No input of the domain makes outputs differ by more, both computed as they run, shape (k,).
        exact: The same in real arithmetic, with the weights as stored, shape (k,).
        attacked: They do differ by as much somewhere in it, shape (k,).
        largest: Largest difference found over all outputs, measured samples in the domain included.
        outside: How many samples lie outside the domain.
    """

    stated: Stated
    certified: Array
    exact: Array
    attacked: Array
    largest: float
    outside: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "certified", frozen(self.certified))
        object.__setattr__(self, "exact", frozen(self.exact))
        object.__setattr__(self, "attacked", frozen(self.attacked))

    @property
    def bound(self) -> float:
        """Largest certified error of an output; infinite where nothing is proven."""
        return float(np.max(self.certified, initial=0.0))
