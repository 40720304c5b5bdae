"""Forms of a row: whatever is said of a form is true of the numbers, for any row."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_coreset.core.rows import Form, Size, Squares

D = 5
EPS = 0.25
Value = Form | Size | Squares


def numbers(value: Value, x: np.ndarray) -> np.ndarray:
    """What a value is for rows x, shape (N, d) or (N, 1)."""
    m = x.mean(axis=1, keepdims=True)
    if isinstance(value, Form):
        inner = value.a * x + value.b * m
        return (inner + value.e) / numbers(value.size, x) + value.c if value.size is not None else inner + value.c
    w = x - m if value.centred else x
    if isinstance(value, Squares):
        return w**2
    square = np.mean(w**2, axis=1, keepdims=True) + value.eps
    return np.sqrt(square) if value.root else square


def pool(rng: np.random.Generator) -> list[Value]:
    """Values to begin with: the row, constants, and the sizes of either kind."""
    constants: list[Value] = [Form(c=rng.standard_normal(D)), Form(c=np.asarray(2.0)), Form(c=np.asarray(EPS))]
    row = Form(a=np.ones(()))
    mean = row.mean()
    assert mean is not None
    moved = row.plus(mean, -1.0)
    assert moved is not None
    sizes = [Size(centred, eps, root) for centred in (True, False) for eps, root in ((0.0, True), (EPS, False))]
    return [*constants, row, mean, moved, *sizes]


def derived(one: Value, two: Value, rng: np.random.Generator) -> tuple[Value | None, np.ndarray]:
    """A result of a random operation, and the numbers that it should be."""
    x = np.random.default_rng(0).standard_normal((4, D)) + 1.0
    a, b = numbers(one, x), numbers(two, x)
    choice = rng.integers(6)
    with np.errstate(all="ignore"):
        if isinstance(one, Squares):
            return one.mean(), a.mean(axis=1, keepdims=True)
        if isinstance(one, Size):
            power = float(rng.choice([0.5, -0.5, -1.0]))
            if choice < 3 and isinstance(two, Form):
                return one.plus(two), a + b
            return one.power(power), a**power
        if choice == 0:
            return one.squared(), a**2
        if choice == 1:
            return one.mean(), np.broadcast_to(a, (4, D)).mean(axis=1, keepdims=True)
        if isinstance(two, Squares):
            return None, a
        if choice == 2 or isinstance(two, Size):
            return one.over(two), a / b
        if choice == 3:
            return one.times(two), a * b
        sign = 1.0 if choice == 4 else -1.0
        return one.plus(two, sign), a + sign * b


@given(st.integers(0, 2**32))
def test_every_operation_computes_what_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = pool(rng)
    for _ in range(40):
        one, two = (values[rng.integers(len(values))] for _ in range(2))
        result, wanted = derived(one, two, rng)
        if result is None:
            continue
        x = np.random.default_rng(0).standard_normal((4, D)) + 1.0
        got = numbers(result, x)
        scale = 1e-9 * (1.0 + np.abs(wanted).max())
        if scale > 1e-3:
            continue
        np.testing.assert_allclose(np.broadcast_to(got, (4, D)), np.broadcast_to(wanted, (4, D)), atol=scale)
        values.append(result)


@given(st.integers(0, 2**32))
def test_what_is_normalised_has_a_norm_of_at_most_the_root_of_d(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = pool(rng)
    x = 10.0 ** rng.uniform(-3, 3, (20, 1)) * (rng.standard_normal((20, D)) + rng.uniform(-2, 2, (20, 1)))
    for _ in range(60):
        one, two = (values[rng.integers(len(values))] for _ in range(2))
        result, _ = derived(one, two, rng)
        found = result.normalised() if isinstance(result, Form) else None
        if result is not None:
            values.append(result)
        if found is None:
            continue
        gamma, beta, centred = found
        y = numbers(result, x) - beta
        lived = np.broadcast_to(gamma, (D,)) != 0
        u = np.broadcast_to(y, (20, D))[:, lived] / np.broadcast_to(gamma, (D,))[lived]
        # A dozen float64 roundings, the shift by beta among them.
        slack = 1e-9 * (1.0 + np.abs(beta / np.where(gamma == 0, 1.0, gamma)).max())
        assert np.all(np.linalg.norm(u, axis=1) <= np.sqrt(D) + slack)
        if centred and lived.all():
            assert np.all(np.abs(u.sum(axis=1)) <= 1e3 * slack)
