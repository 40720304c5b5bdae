"""What a language model itself writes: inputs for models whose own output is the law of their inputs.

A model with one integer input, tokens (N, T), and an output (N, T, V) over as many tokens as its table has rows, in
which no position sees a later one, is a model of the next token. Its own samples, drawn token by token at temperature
1, are as good a law of its inputs as real text; random tokens are far from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.edge.inputs import Given, Synthetic
from onnx_coreset.edge.patience import timed
from onnx_coreset.edge.runtime import RuntimeRefused, Session

_BATCH = 64
_LEAST = 32
_MOST = 512
_PARTS = 4
_CHANGE = 1e-3
_SECONDS = 20.0


@dataclass(frozen=True)
class _Writer:
    """A model of the next token.

    Attributes:
        session: The model.
        tokens: Name of its input.
        output: Name of its output over tokens.
        size: Number of tokens V.
        batch: Sequences a run, fixed or chosen.
        length: Tokens of a sequence T.
        fixed: Whether the number of sequences a run is the model's own.
        grows: Whether shorter sequences run too.
        normal: Whether the output holds probabilities, and not their logarithms up to a constant.
    """

    session: Session
    tokens: str
    output: str
    size: int
    batch: int
    length: int
    fixed: bool
    grows: bool
    normal: bool

    def write(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return sequences that the model writes, shape (batch, T)."""
        found = np.asarray(rng.integers(self.size, size=(self.batch, self.length)))
        for place in range(1, self.length):
            shown = found[:, :place] if self.grows else found
            odds = _odds(self._run(shown)[:, place - 1], self.normal)
            found[:, place] = np.minimum((odds.cumsum(axis=1) < rng.random((self.batch, 1))).sum(axis=1), self.size - 1)
        return found

    def quick(self, texts: int) -> bool:
        """Return whether so many calls of `write` take about 20 seconds at most."""
        each = timed(lambda: self._run(np.zeros((self.batch, self.length), dtype=np.int64)))[1]
        return texts * self.length * each <= _SECONDS

    def _run(self, found: NDArray[np.int64]) -> Array:
        kind = next(spec.dtype for spec in self.session.inputs if spec.name == self.tokens)
        assert kind is not None
        values = self.session.run({self.tokens: found.astype(kind)}, [self.output])
        return np.asarray(values[self.output], dtype=np.float64)


def generated(
    session: Session, feeder: Synthetic, wanted: int, affordable: float, rng: np.random.Generator
) -> Given | None:
    """Return sequences that the model writes, or None where it is no model of the next token.

    Args:
        session: The model.
        feeder: Synthetic inputs of a shape that the model runs on.
        wanted: Tokens wanted.
        affordable: How many tokens the model may read, all runs together.
        rng: Source of the first tokens and of what follows them.
    """
    try:
        writer = _writer(session, feeder, rng)
        if writer is None:
            return None
        steps = writer.length**2 // (2 if writer.grows else 1)
        count = min(_MOST, -(-wanted // writer.length), int(affordable / steps))
        if count < _LEAST or (session.loops and not writer.quick(-(-count // writer.batch))):
            return None
        kind = next(spec.dtype for spec in session.inputs)
        texts = [writer.write(rng).astype(kind) for _ in range(-(-count // writer.batch))]
    except RuntimeRefused:
        return None
    if not writer.fixed:
        # In parts, since a fifth of them is held back.
        texts = [part for text in texts for part in np.array_split(text, _PARTS)]
    return Given(tuple({writer.tokens: text} for text in texts), "the model's own text", drawn=True)


def _writer(session: Session, feeder: Synthetic, rng: np.random.Generator) -> _Writer | None:
    """Return the model as one of the next token, or None where its outputs show that it is none."""
    if len(session.inputs) != 1:
        return None
    (spec,) = session.inputs
    shape, span = feeder.shapes[spec.name], feeder.ranges.get(spec.name)
    if span is None or len(shape) != 2 or shape[1] < 3 or spec.dtype is None or spec.dtype.kind not in "iu":
        return None
    fixed = [isinstance(size, int) and size > 0 for size in spec.shape]
    batch, size = shape[0] if fixed[0] else _BATCH, span[1]
    text = rng.integers(size, size=(batch, shape[1]))
    other = text.copy()
    middle = shape[1] // 2
    other[:, middle] = (text[:, middle] + 1 + rng.integers(size - 1, size=batch)) % size if size > 1 else 0
    before, after = (session.run({spec.name: t.astype(spec.dtype)}) for t in (text, other))
    for name, value in before.items():
        if value.dtype.kind != "f" or value.shape != (*text.shape, size):
            continue
        one, two = value.astype(np.float64), after[name].astype(np.float64)
        if not (np.isfinite(one).all() and np.isfinite(two).all()):
            continue
        moved = np.abs(one - two).max(axis=(0, 2))
        if moved[:middle].max() <= _CHANGE * max(moved[middle:].max(), np.finfo(np.float64).tiny):
            normal = bool(one.min() >= 0 and np.allclose(one.sum(axis=2), 1.0, atol=1e-3))
            return _Writer(session, spec.name, name, size, batch, shape[1], fixed[0], not fixed[1], normal)
    return None


def _odds(values: Array, normal: bool) -> Array:
    """Return the probabilities (N, V) that a model gives the next token."""
    if normal:
        return np.asarray(values / values.sum(axis=1, keepdims=True))
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
