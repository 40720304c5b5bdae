"""Polynomials over elementwise atoms: the normal form in which spellings of one function become equal.

A polynomial is a sum of monomials with constant coefficients; a monomial is a product of powers of atoms; an atom is
the pre-activation x or an elementary function of a polynomial, for instance Erf(0.707 x) or the Ramp max(x - 6, 0).
Sums and products are expanded, so association, commutation and distribution leave no trace. Constants are numbers or
have one entry for each neuron; their sizes before cancellation are remembered ("mass"), because a spelling whose
constants were rounded to float32 cancels only up to that rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_coreset.core.arrays import Array, frozen

__all__ = ["ONE", "Atom", "Poly", "Term", "Unnamed", "add", "atom", "constant", "match", "multiply", "scale", "sign"]

MOST_TERMS = 64
MOST_NODES = 512
"""A normal form with more terms, or more atoms at all depths, is no spelling of anything that has a name."""
TOLERANCE = 2e-6
"""Relative difference of two constants that counts as rounding: a few float32 constants multiplied."""

Factors = tuple[tuple["Atom", int], ...]


class Unnamed(Exception):
    """The program has no normal form here; it stays a composite."""


def _key(value: Array) -> tuple[object, ...]:
    return (value.shape, (value + 0.0).tobytes())


def tidy(value: Array | float) -> Array:
    """Return a constant as a number where all its entries are equal.

    Raises:
        Unnamed: It is not finite.
    """
    array = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(array)):
        raise Unnamed("a constant is not finite")
    if array.ndim and array.size and np.all(array == array.flat[0]):
        array = np.asarray(array.flat[0])
    return frozen(array)


def sign(value: Array) -> int:
    """Return the common sign of a constant's entries.

    Raises:
        Unnamed: Entries differ in sign.
    """
    signs = np.sign(value)
    if signs.size == 0 or np.any(signs != signs.flat[0]):
        raise Unnamed("a constant changes sign between neurons")
    return int(signs.flat[0])


@dataclass(frozen=True, eq=False)
class Atom:
    """The pre-activation, or an elementary function of a polynomial.

    Attributes:
        kind: "x", or the function's name.
        argument: Its argument; None for "x".
        knot: Where a Ramp, Above or AtLeast begins, in units of its argument; 0 otherwise.
        key: Equal for equal atoms.
    """

    kind: str
    argument: Poly | None = None
    knot: Array = field(default_factory=lambda: frozen(0.0))
    key: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        inner = () if self.argument is None else self.argument.key
        object.__setattr__(self, "key", (self.kind, inner, _key(self.knot)))

    @property
    def nodes(self) -> int:
        """Number of atoms at all depths."""
        return 1 if self.argument is None else 1 + self.argument.nodes

    @property
    def order(self) -> tuple[object, ...]:
        """A sorting key that rounding of constants does not change, knots aside."""
        inner = () if self.argument is None else tuple(term.order for term in self.argument.terms)
        return (self.kind, inner, tuple(np.atleast_1d(self.knot)[:1]))


@dataclass(frozen=True, eq=False)
class Term:
    """A monomial with its coefficient.

    Attributes:
        factors: Atoms and powers, sorted, each atom once; empty for the constant term.
        coefficient: Shape () or (n,).
        mass: Sum of the magnitudes that were added up to the coefficient.
    """

    factors: Factors
    coefficient: Array
    mass: Array

    @property
    def order(self) -> tuple[object, ...]:
        """A sorting key: degree first."""
        return (sum(abs(p) for _, p in self.factors), tuple((a.order, p) for a, p in self.factors))


@dataclass(frozen=True, eq=False)
class Poly:
    """A polynomial in normal form: sorted terms of distinct monomials, none with coefficient 0.

    Attributes:
        terms: The terms; empty for 0.
        key: Equal for equal polynomials.
        nodes: Number of atoms at all depths.

    Raises:
        Unnamed: More than `MOST_NODES` atoms.
    """

    terms: tuple[Term, ...]
    key: tuple[object, ...] = field(init=False)
    nodes: int = field(init=False)

    def __post_init__(self) -> None:
        # Before the key is made: nesting can double the size with every step of a program.
        object.__setattr__(self, "nodes", sum(a.nodes for t in self.terms for a, _ in t.factors))
        if self.nodes > MOST_NODES:
            raise Unnamed("too deep")
        key = tuple((tuple((a.key, p) for a, p in t.factors), _key(t.coefficient)) for t in self.terms)
        object.__setattr__(self, "key", key)

    @property
    def constant(self) -> Array:
        """The constant term."""
        return self.terms[0].coefficient if self.terms and not self.terms[0].factors else frozen(0.0)

    @property
    def varying(self) -> Poly:
        """The polynomial without its constant term."""
        return Poly(self.terms[1:]) if self.terms and not self.terms[0].factors else self

    @property
    def is_constant(self) -> bool:
        """Whether no atom is left."""
        return not self.varying.terms

    @property
    def lead(self) -> Array:
        """The coefficient of the first term that varies.

        Raises:
            Unnamed: Nothing varies, or the coefficient is 0 for some neuron.
        """
        if self.is_constant:
            raise Unnamed("a constant")
        coefficient = self.varying.terms[0].coefficient
        if np.any(coefficient == 0):
            raise Unnamed("a coefficient is 0 for some neurons")
        return coefficient

    def coefficient(self, *factors: tuple[str, int]) -> Array:
        """Return the coefficient of the first monomial with these kinds of atoms and powers, 0 where there is none."""
        wanted = sorted(factors)
        found = (t.coefficient for t in self.terms if sorted((a.kind, p) for a, p in t.factors) == wanted)
        return next(found, frozen(0.0))

    def find(self, kind: str) -> Atom | None:
        """Return the first atom of a kind, at any depth, or None."""
        for term in self.terms:
            for factor, _ in term.factors:
                inner = factor if factor.kind == kind else factor.argument and factor.argument.find(kind)
                if inner:
                    return inner
        return None

    def sole(self) -> tuple[Factors, Array] | None:
        """Return factors and coefficient where there is one term only."""
        return (self.terms[0].factors, self.terms[0].coefficient) if len(self.terms) == 1 else None


def collect(terms: Iterable[tuple[Factors, Array, Array]]) -> Poly:
    """Return the polynomial of terms (factors, coefficient, mass), equal monomials added up.

    Raises:
        Unnamed: More than `MOST_TERMS` terms, or constants of different lengths.
    """
    merged: dict[object, tuple[Factors, Array, Array]] = {}
    for factors, coefficient, mass in terms:
        key = tuple((a.key, p) for a, p in factors)
        if key in merged:
            _, old, weight = merged[key]
            coefficient, mass = old + coefficient, weight + mass
        merged[key] = (factors, np.asarray(coefficient), np.asarray(mass))
        if len(merged) > MOST_TERMS:
            raise Unnamed("too many terms")
    # What is left of a cancellation in float64 is rounding: 16 units in the last place of what was added.
    kept = [Term(f, tidy(c), tidy(m)) for f, c, m in merged.values() if np.any(np.abs(c) > 4e-15 * m)]
    return Poly(tuple(sorted(kept, key=lambda term: term.order)))


def constant(value: Array | float) -> Poly:
    """Return a constant polynomial."""
    return collect([((), tidy(value), np.abs(tidy(value)))])


def atom(kind: str, argument: Poly | None = None, knot: Array | float = 0.0) -> Poly:
    """Return an atom as a polynomial."""
    return collect([(((Atom(kind, argument, tidy(knot)), 1),), frozen(1.0), frozen(1.0))])


ONE = constant(1.0)


def add(*parts: Poly) -> Poly:
    """Return the sum."""
    return collect((t.factors, t.coefficient, t.mass) for part in parts for t in part.terms)


def scale(poly: Poly, by: Array | float) -> Poly:
    """Return a constant multiple."""
    return collect((t.factors, t.coefficient * by, t.mass * np.abs(by)) for t in poly.terms)


def multiply(a: Poly, b: Poly) -> Poly:
    """Return the expanded product; identities between atoms are left to the caller."""
    return collect(
        (_join(s.factors, t.factors), s.coefficient * t.coefficient, s.mass * t.mass) for s in a.terms for t in b.terms
    )


def _join(a: Factors, b: Factors) -> Factors:
    powers: dict[object, tuple[Atom, int]] = {}
    for factor, power in (*a, *b):
        have = powers[factor.key][1] if factor.key in powers else 0
        powers[factor.key] = (factor, have + power)
    return tuple(sorted((pair for pair in powers.values() if pair[1] != 0), key=lambda pair: (pair[0].order, pair[1])))


def match(a: Poly, b: Poly, tolerance: float = TOLERANCE) -> bool:
    """Return whether two normal forms have the same structure and constants that differ by rounding alone.

    Args:
        a: A normal form.
        b: Another.
        tolerance: Largest relative difference of constants, in units of what was added up to them.

    Returns:
        Whether every term of either has its partner; a term without one must be the rest of a cancellation.
    """
    left = list(b.terms)
    for term in a.terms:
        partner = next((t for t in left if _same_factors(term.factors, t.factors, tolerance)), None)
        if partner is None:
            if np.any(np.abs(term.coefficient) > tolerance * term.mass):
                return False
            continue
        left.remove(partner)
        bound = tolerance * np.maximum(term.mass, partner.mass)
        if not _fits(term.coefficient, partner.coefficient) or np.any(
            np.abs(term.coefficient - partner.coefficient) > bound
        ):
            return False
    return all(np.all(np.abs(t.coefficient) <= tolerance * t.mass) for t in left)


def _fits(a: Array, b: Array) -> bool:
    return a.ndim == 0 or b.ndim == 0 or a.shape == b.shape


def _same_factors(a: Sequence[tuple[Atom, int]], b: Sequence[tuple[Atom, int]], tolerance: float) -> bool:
    if len(a) != len(b):
        return False
    left = list(b)
    for factor, power in a:
        partner = next((pair for pair in left if pair[1] == power and _same(factor, pair[0], tolerance)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _same(a: Atom, b: Atom, tolerance: float) -> bool:
    if a.key == b.key:
        return True
    if a.kind != b.kind or not _fits(a.knot, b.knot):
        return False
    if np.any(np.abs(a.knot - b.knot) > np.maximum(tolerance * np.abs(b.knot), 1e-12)):
        return False
    return a.argument is not None and b.argument is not None and match(a.argument, b.argument, tolerance)
