"""A small network of dense hidden layers, with gradients: what polish works on.

Block l makes h = f(x W^T + b), or the product of two of them, from the h of the block before; the outputs are
h U^T + c. With the gradient g of a loss with respect to the outputs, block by block from the last to the first,

    dU = g^T h,   dc = sum g,   dh = g U,   dt = dh f'(t),   dW = dt^T x,   db = sum dt,   dx = dt W.

Products run in float32: nothing here is trusted, whoever adopts a result measures it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.arrays import Array

Single = NDArray[np.float32]

_STEP = 1e-4


@dataclass(frozen=True)
class Block:
    """One hidden layer of m neurons: the product over its factors of f(x W^T + b).

    Attributes:
        activations: Function of each factor; one factor, or two where the layer is gated.
        weights: Incoming weights of each factor, shape (m, d).
        biases: Biases of each factor, shape (m,).
    """

    activations: tuple[Activation, ...]
    weights: tuple[Single, ...]
    biases: tuple[Single, ...]

    def factors(self, x: NDArray[np.floating]) -> list[NDArray[np.floating]]:
        """Return the values of each factor on inputs (N, d), shape (N, m), products in the inputs' precision."""
        return [
            f((x @ w.T.astype(x.dtype, copy=False) + b).astype(np.float64, copy=False)).astype(x.dtype, copy=False)
            for f, w, b in zip(self.activations, self.weights, self.biases, strict=True)
        ]

    def __call__(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the values of the neurons on inputs (N, d), shape (N, m)."""
        values = self.factors(x)
        return values[0] if len(values) == 1 else values[0] * values[1]


@dataclass(frozen=True)
class Network:
    """Blocks, one behind the other, and what reads the last one.

    Attributes:
        blocks: The hidden layers, the first one first.
        outgoing: Outgoing weights of the last block, shape (k, m).
        constant: What is added to the outputs, shape (k,).
    """

    blocks: tuple[Block, ...]
    outgoing: Single
    constant: Single

    def parameters(self) -> list[Single]:
        """Return every array in a fixed order: weights and biases block by block, then outgoing and constant."""
        arrays: list[Single] = []
        for block in self.blocks:
            arrays += [*block.weights, *block.biases]
        return [*arrays, self.outgoing, self.constant]

    def with_parameters(self, arrays: list[Single]) -> Network:
        """Return the network with other arrays, in the order of `parameters`."""
        rest = list(arrays)
        blocks = []
        for block in self.blocks:
            count = len(block.activations)
            taken, rest = rest[: 2 * count], rest[2 * count :]
            blocks.append(Block(block.activations, tuple(taken[:count]), tuple(taken[count:])))
        return Network(tuple(blocks), rest[0], rest[1])

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self.parameters())

    def __call__(self, x: Array, rows: int = 4096) -> Array:
        """Return the outputs (N, k), in float64, of inputs (N, d)."""
        parts = []
        for start in range(0, len(x), rows):
            h: NDArray[np.floating] = np.asarray(x[start : start + rows], dtype=np.float64)
            for block in self.blocks:
                h = block(h)
            parts.append(h @ self.outgoing.T.astype(np.float64) + self.constant)
        return np.concatenate(parts)


@dataclass(frozen=True)
class Tape:
    """What a forward pass leaves for the backward pass.

    Attributes:
        outputs: Outputs, shape (N, k).
        inputs: Inputs of every block, and of the outgoing weights, shape (N, m) each.
        factors: Values of every factor of every block, shape (N, m) each.
        slopes: Their derivatives by the pre-activation.
    """

    outputs: Single
    inputs: tuple[Single, ...]
    factors: tuple[tuple[Single, ...], ...]
    slopes: tuple[tuple[Single, ...], ...]


def forward(network: Network, x: Single) -> Tape:
    """Run the network on inputs (N, d) and remember what the gradient needs. O(N size)."""
    inputs: list[Single] = [x]
    factors: list[tuple[Single, ...]] = []
    slopes: list[tuple[Single, ...]] = []
    for block in network.blocks:
        values, derivatives = [], []
        for f, w, b in zip(block.activations, block.weights, block.biases, strict=True):
            t = (inputs[-1] @ w.T + b).astype(np.float64)
            values.append(f(t).astype(np.float32))
            # By central differences: right for every activation, and half-way at a kink.
            derivatives.append(((f(t + _STEP) - f(t - _STEP)) / (2 * _STEP)).astype(np.float32))
        factors.append(tuple(values))
        slopes.append(tuple(derivatives))
        inputs.append(values[0] if len(values) == 1 else values[0] * values[1])
    outputs = inputs[-1] @ network.outgoing.T + network.constant
    return Tape(outputs, tuple(inputs), tuple(factors), tuple(slopes))


def outputs(network: Network, x: Single) -> Single:
    """Run the network on inputs (N, d) and remember nothing. O(N size)."""
    h = x
    for block in network.blocks:
        h = block(h)
    return h @ network.outgoing.T + network.constant


def backward(network: Network, tape: Tape, gradient: Single) -> tuple[list[Single], Single]:
    """Return the gradients of a loss by every parameter, in the order of `parameters`, and by the inputs.

    Args:
        network: The network.
        tape: Its forward pass.
        gradient: Gradient of the loss by the outputs, shape (N, k).

    Returns:
        Gradients by the parameters, and by the inputs, shape (N, d). O(N size).
    """
    last = [gradient.T @ tape.inputs[-1], gradient.sum(axis=0)]
    behind = gradient @ network.outgoing
    blocks: list[list[Single]] = []
    for index in range(len(network.blocks) - 1, -1, -1):
        block, values, slopes = network.blocks[index], tape.factors[index], tape.slopes[index]
        x = tape.inputs[index]
        others = [behind] if len(values) == 1 else [behind * values[1], behind * values[0]]
        turned = [other * slope for other, slope in zip(others, slopes, strict=True)]
        blocks.append([np.asarray(t.T @ x) for t in turned] + [np.asarray(t.sum(axis=0)) for t in turned])
        parts = [t @ w for t, w in zip(turned, block.weights, strict=True)]
        behind = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return [array for block in reversed(blocks) for array in block] + last, behind
