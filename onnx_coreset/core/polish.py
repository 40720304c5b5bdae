"""Polish: all weights of the kept neurons refined, so that the narrow layers do what the wide ones did.

Selection and refit leave the incoming weights as they were. Polish moves them too, and the outgoing ones with them, by
Adam on samples of the inputs, towards what the original computes there. The loss is relative to the sample,

    mean over samples of  |e|^2 / (s E|y|^2 + |y|^2),      e the error and y the original's centred output,

so that inputs of every scale count, with s a small share. Steps are relative to the size of each array, which makes
the result independent of the units of inputs and hidden neurons. Half of a batch may be adversarial: moved one step
uphill, which also widens the law that is fitted to.

A polished network is a proposal. The least-squares error under the law that it was fitted to falls, but the law is not
the data: whoever adopts it measures it on samples that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.network import Network, Single, backward, forward, outputs

_DECAY = (0.9, 0.999)
_TINY = 1e-12


@dataclass(frozen=True)
class Schedule:
    """How long and how far.

    Attributes:
        steps: Number of steps.
        batch: Samples a step.
        rate: First step of Adam in units of an array's root mean square; it falls to zero along a cosine.
        share: Share s of the mean power that is added to a sample's own power.
        uphill: How far half of each batch is moved uphill, in units of the sample's norm; 0 for not at all.
    """

    steps: int = 600
    batch: int = 256
    rate: float = 0.02
    share: float = 0.05
    uphill: float = 0.0

    def cost(self, size: int) -> float:
        """Return the multiplications and additions of all steps for a network of `size` parameters."""
        return float(self.steps) * self.batch * size * (10.0 if self.uphill else 6.0)


def polish(
    student: Network,
    teacher: Network,
    x: Array,
    units: Array,
    fixed: frozenset[int],
    schedule: Schedule,
    rng: np.random.Generator,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Network:
    """Return the student with refined parameters.

    Args:
        student: The narrow network.
        teacher: The original, with the same inputs and outputs.
        x: Samples of the inputs, shape (N, d).
        units: What an error of each output is measured in, shape (k,).
        fixed: Numbers of the parameters, in the order of `Network.parameters`, that may not change.
        schedule: How long and how far.
        rng: Source of the batches.
        tell: Called with the steps done and their number, now and then.

    Returns:
        The refined network. O(steps batch size).

    Raises:
        FloatingPointError: The loss is not finite.
    """
    with np.errstate(all="ignore"):
        return _descended(student, teacher, x, units, fixed, schedule, rng, tell)


def _descended(
    student: Network,
    teacher: Network,
    x: Array,
    units: Array,
    fixed: frozenset[int],
    schedule: Schedule,
    rng: np.random.Generator,
    tell: Callable[[int, int], None],
) -> Network:
    """Return what `polish` does."""
    pool = np.ascontiguousarray(x, dtype=np.float32)
    inverse = (1.0 / units).astype(np.float32)
    wanted = (teacher(x) * inverse).astype(np.float32)
    mean = wanted.mean(axis=0)
    power = float(np.mean(np.sum((wanted - mean) ** 2, axis=1)))
    if not np.isfinite(power) or not np.ptp(wanted, axis=0).any():
        raise FloatingPointError("the outputs that polish aims at are not finite, or do not vary")
    judge = _Loss(inverse, mean, schedule.share * power)
    adam = _Adam(student, pool, fixed, schedule)
    network = student
    for step in range(schedule.steps):
        rows = rng.integers(len(pool), size=schedule.batch)
        batch, target = pool[rows], wanted[rows]
        if schedule.uphill:
            half = schedule.batch // 2
            batch[:half] = _uphill(network, judge, batch[:half], target[:half], schedule.uphill)
            target[:half] = outputs(teacher, batch[:half]) * inverse
        tape = forward(network, batch)
        gradients, _ = backward(network, tape, judge.gradient(tape.outputs, target))
        network = network.with_parameters(adam.step(network.parameters(), gradients, step))
        if step % 50 == 0:
            tell(step, schedule.steps)
    if not all(np.isfinite(array).all() for array in network.parameters()):
        raise FloatingPointError("polish went astray: a weight is not finite")
    return network


@dataclass(frozen=True)
class _Loss:
    """The relative loss: inverse units (k,), the mean of the wanted outputs (k,) and what is added to a power."""

    inverse: Single
    mean: Single
    floor: float

    def gradient(self, outputs: Single, wanted: Single) -> Single:
        """Return the gradient of the loss by the outputs, shape (N, k)."""
        power = self.floor + np.sum((wanted - self.mean) ** 2, axis=1)
        error = outputs * self.inverse - wanted
        scale = (2.0 / len(outputs) / power).astype(np.float32)
        return np.asarray(error * scale[:, None] * self.inverse)


def _uphill(network: Network, judge: _Loss, x: Single, wanted: Single, length: float) -> Single:
    """Return inputs moved along the gradient of the loss, by a share of their norm."""
    tape = forward(network, x)
    _, slope = backward(network, tape, judge.gradient(tape.outputs, wanted))
    norm = np.linalg.norm(slope, axis=1, keepdims=True)
    size = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x + length * size * slope / np.maximum(norm, np.float32(_TINY)), dtype=np.float32)


class _Adam:
    """Adam with a step relative to each array's size.

    Source: Kingma and Ba 2015; steps scaled by the array's root mean square as in Adafactor (Shazeer and Stern 2018).
    """

    def __init__(self, network: Network, x: Single, fixed: frozenset[int], schedule: Schedule) -> None:
        self._schedule = schedule
        self._lengths = _lengths(network, x)
        self._moving = [index not in fixed for index in range(len(self._lengths))]
        self._first = [np.zeros_like(array) for array in network.parameters()]
        self._second = [np.zeros_like(array) for array in network.parameters()]

    def step(self, arrays: list[Single], gradients: list[Single], number: int) -> list[Single]:
        """Return the arrays after step `number`, from 0."""
        a, b = _DECAY
        rate = self._schedule.rate * 0.5 * (1.0 + np.cos(np.pi * number / self._schedule.steps))
        found = []
        for index, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            if not self._moving[index]:
                found.append(array)
                continue
            first, second = self._first[index], self._second[index]
            first += (1 - a) * (gradient - first)
            second += (1 - b) * (gradient * gradient - second)
            length = float(rate * self._lengths[index] * np.sqrt(1 - b ** (number + 1)) / (1 - a ** (number + 1)))
            found.append((array - length * first / (np.sqrt(second) + _TINY)).astype(np.float32))
        return found


def _lengths(network: Network, x: Single) -> list[float]:
    """Return the unit of a step for every parameter: an array's root mean square, a bias as the weight of a constant.

    A bias acts like the weight of an input that is the root mean square of the inputs at all times.
    """

    def size(array: Single) -> float:
        return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))

    lengths: list[float] = []
    tape = forward(network, x[:1024])
    for block, inputs in zip(network.blocks, tape.inputs, strict=False):
        sizes = [size(w) for w in block.weights]
        lengths += [*sizes, *(s * size(inputs) for s in sizes)]
    outgoing = size(network.outgoing)
    return [*lengths, outgoing, outgoing * size(tape.inputs[-1])]
