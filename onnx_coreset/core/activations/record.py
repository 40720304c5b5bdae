"""What a record of a well-known activation holds, and an activation that has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_coreset.core.activations.algebra import Poly
from onnx_coreset.core.activations.evaluate import enclose, run
from onnx_coreset.core.activations.intervals import EXACT, TRANSCENDENTAL, hull
from onnx_coreset.core.activations.program import Program
from onnx_coreset.core.arrays import Array, Indices, frozen

__all__ = ["Composite", "Named", "Parameters", "Properties", "Record"]

Parameters = tuple[Array, ...]
"""Parameters in the record's order, each of shape () or (n,)."""


@dataclass(frozen=True)
class Properties:
    """What holds for an activation with given parameters, for all neurons at once.

    Attributes:
        lipschitz: Global Lipschitz constant, shape () or (n,); infinite where there is none.
        least: Infimum over all real numbers, shape () or (n,).
        greatest: Supremum, shape () or (n,).
        monotone: Whether f never decreases.
        odd: Whether f(-t) = -f(t).
        half_even: Whether f(t) - t/2 is even, as for ReLU, GELU and SiLU.
        homogeneous: Whether f(r t) = r f(t) for every r >= 0.
        critical: Where f may turn or jump, shape () or (n,) each; between two of them it is monotone.
    """

    lipschitz: Array
    least: Array
    greatest: Array
    monotone: bool = False
    odd: bool = False
    half_even: bool = False
    homogeneous: bool = False
    critical: tuple[Array, ...] = ()

    @property
    def nonnegative(self) -> bool:
        """Whether f >= 0."""
        return bool(np.all(self.least >= 0))


def properties(
    lipschitz: Array | float,
    least: Array | float = -np.inf,
    greatest: Array | float = np.inf,
    critical: Sequence[Array | float] = (),
    **flags: bool,
) -> Properties:
    """Return `Properties` of numbers."""
    return Properties(
        frozen(lipschitz), frozen(least), frozen(greatest), critical=tuple(frozen(c) for c in critical), **flags
    )


@dataclass(frozen=True)
class Record:
    """A well-known activation.

    Attributes:
        name: Its name.
        function: Closed form: pre-activations (..., n) and parameters -> values (..., n).
        properties: What holds for given parameters.
        spellings: Programs that compute it; a program is this activation when its normal form equals one of theirs.
        read: Takes a normal form and returns the parameters it would have, or None where it cannot be this one.
        parameters: Names of the parameters; empty also where their number varies.
        examples: Parameters to test with.
        noise: Error of the closed form at t beyond a few units in the last place of its value.
        exact: Whether the closed form only compares and selects, without any rounding.
    """

    name: str
    function: Callable[[Array, Parameters], Array]
    properties: Callable[[Parameters], Properties]
    spellings: Callable[[Parameters], tuple[Program, ...]]
    read: Callable[[Poly], Parameters | None] = lambda form: ()
    parameters: tuple[str, ...] = ()
    examples: tuple[Parameters, ...] = ((),)
    noise: Callable[[Array, Parameters], Array | float] = lambda t, parameters: 0.0
    exact: bool = False

    def __reduce__(self) -> tuple[Callable[[str], Record], tuple[str]]:
        """Return how to find it in the table again: other processes have the same one."""
        return _in_the_table, (self.name,)


def _in_the_table(name: str) -> Record:
    from onnx_coreset.core.activations.records import ACTIVATIONS

    return next(record for record in ACTIVATIONS if record.name == name)


@dataclass(frozen=True, eq=False)
class Named:
    """An activation that was recognised; computed by its closed form.

    Attributes:
        record: Which one it is.
        parameters: Its parameters, shape () or (n,) each.
        selects: Whether what runs only compares and selects, without any rounding. Equal functions may be written so
            that they do not: Relu(x) - Relu(x - 6) is a Clip, too.
        cancels: Where several operators compute it, the largest constant among them: sums as large as that and t may
            cancel on the way. None where one does, or nothing is rounded.
    """

    record: Record
    parameters: Parameters = ()
    selects: bool = False
    cancels: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(frozen(p) for p in self.parameters))

    @property
    def name(self) -> str:
        """The record's name."""
        return self.record.name

    @property
    def properties(self) -> Properties:
        """What holds for these parameters."""
        return self.record.properties(self.parameters)

    def __call__(self, t: Array) -> Array:
        """Return f(t), shape (..., n), of pre-activations (..., n)."""
        with np.errstate(all="ignore"):
            return np.asarray(self.record.function(np.asarray(t, dtype=np.float64), self.parameters))

    def take(self, kept: Indices) -> Named:
        """Return the function of the neurons `kept` (m,) alone."""
        return replace(self, parameters=tuple(p if p.ndim == 0 else p[kept] for p in self.parameters))

    def interval(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the range of f on [low, high], exact up to outward rounding.

        Args:
            low: Lower ends, shape (n,); -inf is allowed.
            high: Upper ends, shape (n,); inf is allowed.

        Returns:
            Lower and upper bounds, shape (n,), never NaN.
        """
        known = self.properties
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        places = [low, high, *(np.clip(point, low, high) for point in known.critical)]
        values = [self(place) for place in places]
        with np.errstate(all="ignore"):
            noises = [np.where(np.isinf(p), 0.0, self.record.noise(p, self.parameters)) for p in places]
            ends = [v + side * e for v, e in zip(values, noises, strict=True) for side in (-1.0, 1.0)]
        lower, upper = hull(ends, EXACT if self.record.exact else TRANSCENDENTAL)
        return np.clip(lower, known.least, known.greatest), np.clip(upper, known.least, known.greatest)

    def supremum(self, low: Array, high: Array) -> Array:
        """Return the supremum (n,) of |f| on [low, high], rounded up."""
        lower, upper = self.interval(low, high)
        return np.maximum(np.abs(lower), np.abs(upper))


@dataclass(frozen=True, eq=False)
class Composite:
    """An activation that no record names: its program, evaluated step by step.

    Attributes:
        program: A program of arity 1.
    """

    program: Program

    @property
    def name(self) -> str:
        """Always "composite"."""
        return "composite"

    def __call__(self, t: Array) -> Array:
        """Return f(t), shape (..., n), of pre-activations (..., n)."""
        return run(self.program, (t,))

    def take(self, kept: Indices) -> Composite:
        """Return the function of the neurons `kept` (m,) alone."""
        return Composite(self.program.take(kept))

    def interval(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return bounds (n,) of f on [low, high], (n,) each, by interval arithmetic: sound, seldom tight."""
        return enclose(self.program, ((low, high),))

    def supremum(self, low: Array, high: Array) -> Array:
        """Return an upper bound (n,) of |f| on [low, high]."""
        lower, upper = self.interval(low, high)
        return np.maximum(np.abs(lower), np.abs(upper))
