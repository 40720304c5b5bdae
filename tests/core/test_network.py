"""Gradients of a network against finite differences, for every activation; and that its two ways to run it agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.activations.records import ACTIVATIONS
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.network import _STEP, Block, Network, Single, backward, forward

FLOAT32 = float(np.finfo(np.float32).eps)
ROWS, INPUTS, OUTPUTS = 7, 4, 3
WIDTHS = (6, 5, 4)
CASES = [(record.name, i) for record in ACTIVATIONS for i in range(len(record.examples))]


def activation(name: str, example: int = 0) -> Activation:
    record = next(r for r in ACTIVATIONS if r.name == name)
    # Parameters of an example may be one for each of three neurons: here all neurons have the first.
    return Named(record, tuple(np.asarray(p).reshape(-1)[0] for p in record.examples[example]))


def network(
    depth: int, functions: tuple[Activation, ...], seed: int, scale: float = 1.0, gated: int | None = None
) -> Network:
    """Return a random network; `functions` are those of block `gated` (the first) or of all, the others are SiLU."""
    rng = np.random.default_rng(seed)

    def single(*shape: int) -> Single:
        return rng.standard_normal(shape).astype(np.float32)

    blocks, size = [], INPUTS
    for number, width in enumerate(WIDTHS[:depth]):
        own = functions if gated is None or number == gated else (activation("Silu"),)
        weights = tuple(np.float32(scale / np.sqrt(size)) * single(width, size) for _ in own)
        blocks.append(Block(own, weights, tuple(single(width) for _ in own)))
        size = width
    return Network(tuple(blocks), single(OUTPUTS, size), single(OUTPUTS))


def reference(net: Network, arrays: list[Array], x: Array) -> Array:
    """Return the outputs (N, k) in float64, from other arrays in the order of `parameters`."""
    h, rest = x, list(arrays)
    for block in net.blocks:
        count = len(block.activations)
        pieces = [f(h @ rest[i].T + rest[count + i]) for i, f in enumerate(block.activations)]
        h, rest = np.prod(pieces, axis=0), rest[2 * count :]
    return h @ rest[0].T + rest[1]


def differences(loss: Callable[[list[Array]], float], arrays: list[Array], length: float) -> list[Array]:
    """Return the gradient by every number of every array, by central differences."""
    found = []
    for array in arrays:
        slope = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            kept = array[place]
            ends = []
            for sign in (1, -1):
                array[place] = kept + sign * length
                ends.append(loss(arrays))
            array[place] = kept
            slope[place] = (ends[0] - ends[1]) / (2 * length)
        found.append(slope)
    return found


def kinks(net: Network, x: Array, reach: float) -> bool:
    """Return whether a pre-activation stands within `reach` of a point where its activation turns or jumps."""
    h = x
    for block in net.blocks:
        values = []
        for f, w, b in zip(block.activations, block.weights, block.biases, strict=True):
            t = h @ w.T.astype(np.float64) + b
            if isinstance(f, Named):
                points = [float(p) for p in f.record.properties(f.parameters).critical if np.isfinite(p)]
                if any(np.abs(t - p).min() < reach for p in points):
                    return True
            values.append(f(t))
        h = np.prod(values, axis=0)
    return False


def assert_gradients(depth: int, functions: tuple[Activation, ...], gated: int | None = None) -> None:
    for seed in range(400):
        net = network(depth, functions, seed, gated=gated)
        x = np.random.default_rng(seed + 1000).standard_normal((ROWS, INPUTS)).astype(np.float32)
        if not kinks(net, x.astype(np.float64), 8 * _STEP):
            break
    else:
        pytest.fail("every draw stands at a kink")
    weights = np.random.default_rng(7).standard_normal((ROWS, OUTPUTS)).astype(np.float32)
    gradients, behind = backward(net, forward(net, x), weights)
    given = [a.astype(np.float64) for a in (*net.parameters(), x)]

    def loss(arrays: list[Array]) -> float:
        return float(np.sum(weights * reference(net, arrays[:-1], arrays[-1])))

    wanted = differences(loss, given, 1e-5)
    for got, aim in zip((*gradients, behind), wanted, strict=True):
        assert got.shape == aim.shape
        # Rounding: the sums of ROWS terms, each through at most three blocks of at most 6 neurons, in float32; the
        # central difference of the activations errs by the square of its step.
        terms = ROWS * 6 * (depth + 1)
        size = 1 + np.abs(aim).max()
        assert np.abs(got - aim).max() <= size * (terms * FLOAT32 + 100 * _STEP**2 + 1e-6)


@pytest.mark.parametrize(("name", "example"), CASES)
def test_gradients_of_every_activation(name: str, example: int) -> None:
    assert_gradients(1, (activation(name, example),))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", ["Relu", "Gelu", "Tanh"])
def test_gradients_of_every_depth(name: str, depth: int) -> None:
    assert_gradients(depth, (activation(name),))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("first", [True, False])
def test_gradients_of_gated_blocks(depth: int, first: bool) -> None:
    assert_gradients(depth, (activation("Silu"), activation("Identity")), gated=0 if first else depth - 1)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("functions", [("Relu",), ("Silu", "Identity")], ids=str)
def test_the_pass_with_a_tape_gives_the_same_outputs(depth: int, functions: tuple[str, ...]) -> None:
    net = network(depth, tuple(activation(name) for name in functions), depth)
    x = np.random.default_rng(1).standard_normal((ROWS, INPUTS)).astype(np.float32)
    exact, tape = net(x.astype(np.float64)), forward(net, x)
    assert exact.dtype == np.float64 and tape.outputs.dtype == np.float32
    # Each block rounds sums of at most 7 terms; the factors' own sizes bound what that makes of the outputs.
    sizes = [np.abs(block_input).max() for block_input in tape.inputs]
    size = np.prod([8 * (1 + max(np.abs(w).max() for w in b.weights)) for b in net.blocks]) * (1 + max(sizes))
    assert np.abs(tape.outputs - exact).max() <= 8 * FLOAT32 * size
    assert np.abs(exact - reference(net, [a.astype(np.float64) for a in net.parameters()], x)).max() <= 1e-12 * size


def test_rows_are_run_in_portions() -> None:
    net = network(2, (activation("Relu"),), 0)
    x = np.random.default_rng(0).standard_normal((9, INPUTS))
    # A product of fewer rows may be summed in another order: 6 terms, in float64.
    assert np.abs(net(x, rows=4) - net(x)).max() <= 64 * np.finfo(np.float64).eps * (1 + np.abs(net(x)).max())


@pytest.mark.parametrize("functions", [("Relu",), ("Silu", "Identity")], ids=str)
def test_parameters_are_put_back_in_their_order(functions: tuple[str, ...]) -> None:
    net = network(3, tuple(activation(name) for name in functions), 0)
    arrays = net.parameters()
    assert net.size == sum(array.size for array in arrays)
    numbered = [np.full_like(array, index) for index, array in enumerate(arrays)]
    again = net.with_parameters(numbered)
    assert all(a is b for a, b in zip(again.parameters(), numbered, strict=True))
    assert [a.shape for a in again.parameters()] == [a.shape for a in arrays]
    head = again.blocks[0]
    assert [int(a.flat[0]) for a in (*head.weights, *head.biases)] == list(range(2 * len(functions)))
    assert all(b.activations == a.activations for a, b in zip(net.blocks, again.blocks, strict=True))
