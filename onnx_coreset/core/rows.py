"""What a normalisation computes of a row, as one form whatever the order of its operators.

For a row x of d entries with mean m, let its size be p = sqrt(mean of w^2 + eps), where w is x - m (centred) or x. Then

    a x + b m + c        and        (a x + b m + e) / p + c

with vectors a, b, c, e keep that form under sums, and under products with constants. The second is a normalisation
a u + c exactly where e = 0 and either p is centred and b = -a, so that u = (x - m) / p and sum u = 0, or p is not and
b = 0, so that u = x / p. Either way ||u||^2 = d v / (v + eps) <= d, with v the mean of w^2 and eps >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnx_coreset.core.arrays import Array, frozen

__all__ = ["Form", "Size", "Squares"]

_NONE = frozen(np.zeros(()))


@dataclass(frozen=True)
class Squares:
    """The squares of the entries of w.

    Attributes:
        centred: Whether w is x - m; otherwise it is x.
    """

    centred: bool

    def mean(self) -> Size:
        """Return their mean over a row."""
        return Size(self.centred, 0.0, False)


@dataclass(frozen=True)
class Size:
    """The mean of w^2 plus eps, or the root of that: one number a row.

    Attributes:
        centred: Whether w is x - m; otherwise it is x.
        eps: What is added to the mean, at least 0.
        root: Whether the root was taken.
    """

    centred: bool
    eps: float
    root: bool

    def plus(self, other: Form) -> Size | None:
        """Return the sum with a constant number, or None where that is none or may be negative."""
        if self.root or not other.constant or other.c.size != 1 or not float(other.c.reshape(-1)[0]) >= 0.0:
            return None
        return Size(self.centred, self.eps + float(other.c.reshape(-1)[0]), False)

    def power(self, exponent: float) -> Size | Form | None:
        """Return a power of it: the root, or one over the root; None for others."""
        if self.root:
            return Form(e=np.ones(()), size=self) if exponent == -1.0 else None
        rooted = Size(self.centred, self.eps, True)
        return rooted if exponent == 0.5 else rooted.power(-1.0) if exponent == -0.5 else None


@dataclass(frozen=True)
class Form:
    """Entries a x + b m + c, or (a x + b m + e) / p + c.

    Attributes:
        a: Factors of x, shape (d,) or () for one number, as the others.
        b: Factors of m.
        e: What is added in front of the division; 0 where there is none.
        c: What is added in the end.
        size: The size p, or None where nothing is divided by one.
    """

    a: Array = field(default_factory=lambda: _NONE)
    b: Array = field(default_factory=lambda: _NONE)
    e: Array = field(default_factory=lambda: _NONE)
    c: Array = field(default_factory=lambda: _NONE)
    size: Size | None = None

    def __post_init__(self) -> None:
        for name in ("a", "b", "e", "c"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    @property
    def constant(self) -> bool:
        """Whether it is the same for every row."""
        return not (self.a.any() or self.b.any() or self.e.any())

    def plus(self, other: Form, sign: float = 1.0) -> Form | None:
        """Return the sum with `sign` times another form, or None where that is no such form."""
        if not self.constant and not other.constant and self.size != other.size:
            return None
        size = other.size if self.constant else self.size
        return Form(
            self.a + sign * other.a,
            self.b + sign * other.b,
            self.e + sign * other.e,
            self.c + sign * other.c,
            size,
        )

    def times(self, other: Form) -> Form | None:
        """Return the product with another form, or None where that is no such form."""
        if self.constant or other.constant:
            factor, rest = (self.c, other) if self.constant else (other.c, self)
            return Form(rest.a * factor, rest.b * factor, rest.e * factor, rest.c * factor, rest.size)
        whole, share = (self, other) if self.size is None else (other, self)
        if whole.size is not None or share.size is None or share.a.any() or share.b.any() or share.c.any():
            return None
        return Form(whole.a * share.e, whole.b * share.e, whole.c * share.e, _NONE, share.size)

    def over(self, divisor: Form | Size) -> Form | None:
        """Return the quotient by a constant without zeros or by a root, or None where that is no such form."""
        if isinstance(divisor, Form):
            return self.times(Form(c=1.0 / divisor.c)) if divisor.constant and np.all(divisor.c != 0) else None
        inverse = divisor.power(-1.0) if divisor.root else None
        if not isinstance(inverse, Form):
            return None
        if self.constant:
            return Form(e=self.c, size=divisor)
        return self.times(inverse)

    def mean(self) -> Form | None:
        """Return the mean over the row where this is x itself, else None."""
        return Form(b=np.ones(())) if self._is(1.0, 0.0) else None

    def squared(self) -> Squares | None:
        """Return the squares where this is x or x - m, or minus either, else None."""
        centred = self._is(1.0, -1.0) or self._is(-1.0, 1.0)
        return Squares(centred) if centred or self._is(1.0, 0.0) or self._is(-1.0, 0.0) else None

    def normalised(self) -> tuple[Array, Array, bool] | None:
        """Return gamma, beta, each (d,) or (), and whether sum u = 0, where this is gamma u + beta; else None."""
        if self.size is None or not self.a.any() or self.e.any():
            return None
        fits = np.all(self.b == -self.a) if self.size.centred else not self.b.any()
        return (self.a, self.c, self.size.centred) if fits else None

    def _is(self, a: float, b: float) -> bool:
        """Return whether it is a x + b m."""
        return self.size is None and not self.c.any() and bool(np.all(self.a == a) and np.all(self.b == b))
