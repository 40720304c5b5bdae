"""What the neurons of a hidden layer compute: dense neurons, products and other functions of them, several at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.activations.evaluate import run
from onnx_coreset.core.activations.program import Activation, Program
from onnx_coreset.core.arrays import Array, Indices, frozen
from onnx_coreset.core.laws import Law

Seen = NDArray[np.bool_]


class Features(Protocol):
    """What the neurons of a layer compute: x of shape (d,) -> h of shape (n, s)."""

    @property
    def width(self) -> int:
        """Number of neurons n."""

    @property
    def columns(self) -> int:
        """Number of columns s a neuron has (1 for dense layers)."""

    @property
    def inputs(self) -> int:
        """Number of inputs d."""

    @property
    def name(self) -> str:
        """The kind of features and activation, for a report."""

    def evaluate(self, x: Array) -> Array:
        """Return the features (N, n, s) of inputs (N, d)."""

    def sample(self, law: Law, count: int, rng: np.random.Generator) -> Array:
        """Return the features (count, n, s) of `count` inputs drawn from `law`."""

    def take(self, kept: Indices) -> Features:
        """Return the features of the neurons `kept` (m,) alone, in that order."""


@dataclass(frozen=True)
class Neurons:
    """Dense neurons h_j = f(incoming_j . x + bias_j).

    Attributes:
        incoming: Incoming weights, shape (n, d).
        bias: Biases, shape (n,).
        activation: The elementwise function f; it may have parameters of its own for each neuron.
    """

    incoming: Array
    bias: Array
    activation: Activation

    def __post_init__(self) -> None:
        object.__setattr__(self, "incoming", frozen(self.incoming))
        object.__setattr__(self, "bias", frozen(self.bias))
        if self.incoming.ndim != 2 or self.bias.shape != self.incoming.shape[:1]:
            raise ValueError(f"incoming {self.incoming.shape} and bias {self.bias.shape} do not fit")

    @property
    def width(self) -> int:
        """Number of neurons n."""
        return int(self.incoming.shape[0])

    @property
    def columns(self) -> int:
        """Number of columns a neuron has: 1."""
        return 1

    @property
    def inputs(self) -> int:
        """Number of inputs d."""
        return int(self.incoming.shape[1])

    @property
    def name(self) -> str:
        """The kind of features, for a report."""
        return "neurons"

    def preactivations(self, x: Array) -> Array:
        """Return incoming . x + bias, shape (N, n), of inputs (N, d)."""
        return np.asarray(x, dtype=np.float64) @ self.incoming.T + self.bias

    def evaluate(self, x: Array) -> Array:
        """Return the features (N, n, 1) of inputs (N, d)."""
        return self.activation(self.preactivations(x))[:, :, None]

    def sample(self, law: Law, count: int, rng: np.random.Generator) -> Array:
        """Return the features (count, n, 1) of `count` inputs drawn from `law`."""
        return self.evaluate(law.sample(count, rng))

    def take(self, kept: Indices) -> Neurons:
        """Return the neurons `kept` (m,) alone, in that order."""
        return Neurons(self.incoming[kept], self.bias[kept], self.activation.take(kept))


@dataclass(frozen=True)
class Gated:
    """Products of two dense neurons each, h_j = gate_j(x) * up_j(x), as SwiGLU and its like have.

    Attributes:
        gate: The factors with the activation.
        up: The other factors.
    """

    gate: Neurons
    up: Neurons

    def __post_init__(self) -> None:
        if self.gate.incoming.shape != self.up.incoming.shape:
            raise ValueError(f"gate {self.gate.incoming.shape} and up {self.up.incoming.shape} do not fit")

    @property
    def width(self) -> int:
        """Number of neurons n."""
        return self.gate.width

    @property
    def columns(self) -> int:
        """Number of columns a neuron has: 1."""
        return 1

    @property
    def inputs(self) -> int:
        """Number of inputs d."""
        return self.gate.inputs

    @property
    def name(self) -> str:
        """The kind of features, for a report."""
        return "gated"

    def evaluate(self, x: Array) -> Array:
        """Return the features (N, n, 1) of inputs (N, d)."""
        return self.gate.evaluate(x) * self.up.evaluate(x)

    def sample(self, law: Law, count: int, rng: np.random.Generator) -> Array:
        """Return the features (count, n, 1) of `count` inputs drawn from `law`."""
        return self.evaluate(law.sample(count, rng))

    def take(self, kept: Indices) -> Gated:
        """Return the neurons `kept` (m,) alone, in that order."""
        return Gated(self.gate.take(kept), self.up.take(kept))


@dataclass(frozen=True)
class Joint:
    """Neurons that are a function of several pre-activations each, h_j = f(a_j(x), b_j(x), ...).

    Attributes:
        parts: The pre-activations: dense neurons without an activation.
        program: The function f of as many pre-activations; it may have parameters of its own for each neuron.
    """

    parts: tuple[Neurons, ...]
    program: Program

    def __post_init__(self) -> None:
        if len(self.parts) != self.program.arity or len({part.incoming.shape for part in self.parts}) != 1:
            raise ValueError(f"{len(self.parts)} pre-activations do not fit a program of {self.program.arity}")

    @property
    def width(self) -> int:
        """Number of neurons n."""
        return self.parts[0].width

    @property
    def columns(self) -> int:
        """Number of columns a neuron has: 1."""
        return 1

    @property
    def inputs(self) -> int:
        """Number of inputs d."""
        return self.parts[0].inputs

    @property
    def name(self) -> str:
        """The kind of features, for a report."""
        return "joint"

    def evaluate(self, x: Array) -> Array:
        """Return the features (N, n, 1) of inputs (N, d)."""
        return run(self.program, [part.preactivations(x) for part in self.parts])[:, :, None]

    def sample(self, law: Law, count: int, rng: np.random.Generator) -> Array:
        """Return the features (count, n, 1) of `count` inputs drawn from `law`."""
        return self.evaluate(law.sample(count, rng))

    def take(self, kept: Indices) -> Joint:
        """Return the neurons `kept` (m,) alone, in that order."""
        return Joint(tuple(part.take(kept) for part in self.parts), self.program.take(kept))


Part = Neurons | Gated | Joint
"""Features with one column."""


@dataclass(frozen=True)
class Columns:
    """Several features of each neuron, side by side: h_js = part_s(x)_j where readers see it, else 0.

    Attributes:
        parts: Features with one column, one for each of the s columns.
        seen: Which features of which neurons readers see, shape (n, s).
    """

    parts: tuple[Part, ...]
    seen: Seen

    def __post_init__(self) -> None:
        view = np.asarray(self.seen, dtype=np.bool_).view()
        view.flags.writeable = False
        object.__setattr__(self, "seen", view)
        if any(part.width != view.shape[0] for part in self.parts) or view.shape[1:] != (len(self.parts),):
            raise ValueError(f"seen {view.shape} does not fit {len(self.parts)} features")

    @property
    def width(self) -> int:
        """Number of neurons n."""
        return self.parts[0].width

    @property
    def columns(self) -> int:
        """Number of columns s a neuron has."""
        return len(self.parts)

    @property
    def inputs(self) -> int:
        """Number of inputs d."""
        return self.parts[0].inputs

    @property
    def name(self) -> str:
        """The kind of features, for a report."""
        return "columns"

    def evaluate(self, x: Array) -> Array:
        """Return the features (N, n, s) of inputs (N, d)."""
        known = {id(part): part.evaluate(x)[:, :, 0] for part in self.parts}
        values = np.stack([known[id(part)] for part in self.parts], axis=-1)
        return np.where(self.seen, values, 0.0)

    def sample(self, law: Law, count: int, rng: np.random.Generator) -> Array:
        """Return the features (count, n, s) of `count` inputs drawn from `law`."""
        return self.evaluate(law.sample(count, rng))

    def take(self, kept: Indices) -> Columns:
        """Return the neurons `kept` (m,) alone, in that order."""
        taken = {id(part): part.take(kept) for part in self.parts}
        return Columns(tuple(taken[id(part)] for part in self.parts), self.seen[kept])
