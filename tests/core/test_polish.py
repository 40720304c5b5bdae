"""Polish on random networks: what may not move, what may not grow, and that neither units nor chance matter."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.activations.records import ACTIVATIONS
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.network import Block, Network
from onnx_coreset.core.polish import Schedule, _Loss, polish

FLOAT32 = float(np.finfo(np.float32).eps)
SHORT = Schedule(steps=120, batch=64, rate=0.01)
UPHILL = Schedule(steps=120, batch=64, rate=0.01, uphill=0.3)
schedules = pytest.mark.parametrize("schedule", [SHORT, UPHILL], ids=["plain", "uphill"])
gates = pytest.mark.parametrize("functions", [("Relu",), ("Silu", "Identity")], ids=["plain", "gated"])
INPUTS, OUTPUTS, ROWS = 5, 3, 400
NOTHING = frozenset[int]()


def named(name: str) -> Named:
    return Named(next(record for record in ACTIVATIONS if record.name == name), ())


def network(functions: tuple[str, ...], widths: tuple[int, ...] = (16, 12), seed: int = 0) -> Network:
    """Return a random network whose first block has these functions, and the others ReLU."""
    rng = np.random.default_rng(seed)
    blocks, size = [], INPUTS
    for number, width in enumerate(widths):
        own = functions if number == 0 else ("Relu",)
        weights = tuple((rng.standard_normal((width, size)) * np.sqrt(2 / size)).astype("f4") for _ in own)
        biases = tuple((0.3 * rng.standard_normal(width)).astype("f4") for _ in own)
        blocks.append(Block(tuple(named(name) for name in own), weights, biases))
        size = width
    outgoing = (rng.standard_normal((OUTPUTS, size)) / np.sqrt(size)).astype("f4")
    return Network(tuple(blocks), outgoing, rng.standard_normal(OUTPUTS).astype("f4"))


def halved(teacher: Network) -> Network:
    """Return the first half of every block's neurons, with their weights doubled where they go out."""
    arrays, blocks, before = teacher.parameters(), [], None
    for block in teacher.blocks:
        half = len(block.biases[0]) // 2
        weights = tuple(w[:half] if before is None else 2 * w[:half, :before] for w in block.weights)
        blocks.append(Block(block.activations, weights, tuple(b[:half] for b in block.biases)))
        before = half
    assert before is not None
    return Network(tuple(blocks), 2 * arrays[-2][:, :before], arrays[-1])


def pool(seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((ROWS, INPUTS))


def error(student: Network, teacher: Network, x: Array) -> float:
    return float(np.sqrt(np.mean((student(x) - teacher(x)) ** 2)))


def refined(
    student: Network, teacher: Network, schedule: Schedule, fixed: frozenset[int] = NOTHING, seed: int = 0
) -> Network:
    units = np.full(OUTPUTS, np.std(teacher(pool())))
    return polish(student, teacher, pool(), units, fixed, schedule, np.random.default_rng(seed))


@gates
@schedules
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_falls(functions: tuple[str, ...], schedule: Schedule, seed: int) -> None:
    teacher = network(functions, seed=seed)
    student = halved(teacher)
    found = refined(student, teacher, schedule)
    before, after = (np.mean(relative(net, teacher, schedule)) for net in (student, found))
    assert after < 0.7 * before


def relative(student: Network, teacher: Network, schedule: Schedule) -> Array:
    """Return |e|^2 / (s E|y|^2 + |y|^2) of every sample of the pool."""
    wanted = teacher(pool())
    power = np.sum((wanted - wanted.mean(axis=0)) ** 2, axis=1)
    return np.sum((student(pool()) - wanted) ** 2, axis=1) / (schedule.share * power.mean() + power)


@gates
@schedules
def test_what_is_fixed_does_not_move_and_all_the_rest_does(functions: tuple[str, ...], schedule: Schedule) -> None:
    teacher = network(functions)
    student = halved(teacher)
    count = len(student.parameters())
    for fixed in (frozenset(range(count)), frozenset({0, count - 1}), frozenset(range(1, count, 2)), NOTHING):
        found = refined(student, teacher, schedule, fixed)
        for index, (old, new) in enumerate(zip(student.parameters(), found.parameters(), strict=True)):
            assert np.array_equal(old, new) == (index in fixed)


@gates
@schedules
def test_a_student_that_is_its_teacher_stays_it(functions: tuple[str, ...], schedule: Schedule) -> None:
    teacher = network(functions)
    found = refined(teacher, teacher, schedule)
    # Adam makes steps of full length of gradients that are rounding alone, there and back: they shrink with the steps,
    # and what is left of them is small beside one step, which is `rate` of every weight.
    assert error(found, teacher, pool()) < schedule.rate * error(halved(teacher), teacher, pool())


@gates
@schedules
def test_a_seed_decides_every_bit(functions: tuple[str, ...], schedule: Schedule) -> None:
    teacher = network(functions)
    one, two, other = (refined(halved(teacher), teacher, schedule, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@gates
@schedules
@pytest.mark.parametrize("factor", [2.0**6, 2.0**-6])
def test_units_of_inputs_do_not_matter(functions: tuple[str, ...], schedule: Schedule, factor: float) -> None:
    """A power of two changes no rounding, but for what is added to keep divisions from zero."""
    teacher = network(functions)
    units = np.full(OUTPUTS, 2.0)
    plain = polish(halved(teacher), teacher, pool(), units, NOTHING, schedule, np.random.default_rng(0))
    scaled = [with_first(net, np.float32(1 / factor)) for net in (halved(teacher), teacher)]
    found = polish(scaled[0], scaled[1], factor * pool(), units, NOTHING, schedule, np.random.default_rng(0))
    assert same(found(factor * pool()), plain(pool()), schedule)
    assert np.allclose(found.blocks[0].weights[0] * factor, plain.blocks[0].weights[0], rtol=1e-3, atol=1e-4)


@gates
@schedules
@pytest.mark.parametrize("factor", [2.0**6, 2.0**-6])
def test_units_of_outputs_do_not_matter(functions: tuple[str, ...], schedule: Schedule, factor: float) -> None:
    teacher = network(functions)
    plain = refined(halved(teacher), teacher, schedule)
    student, large = (
        Network(n.blocks, np.float32(factor) * n.outgoing, np.float32(factor) * n.constant)
        for n in (halved(teacher), teacher)
    )
    assert same(refined(student, large, schedule)(pool()) / factor, plain(pool()), schedule)


def with_first(net: Network, factor: np.float32) -> Network:
    head, *rest = net.blocks
    return Network(
        (Block(head.activations, tuple(factor * w for w in head.weights), head.biases), *rest),
        net.outgoing,
        net.constant,
    )


def same(found: Array, wanted: Array, schedule: Schedule) -> bool:
    """Return whether outputs are equal but for what rounding of 1e-12 in every step may grow to over all steps."""
    return bool(np.abs(found - wanted).max() <= 10 * schedule.steps * FLOAT32 * (1 + np.abs(wanted).max()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, 1e300])
@schedules
def test_what_is_not_finite_is_refused(bad: float, schedule: Schedule) -> None:
    teacher = network(("Relu",))
    x = pool()
    x[:, 2] = bad
    with pytest.raises(FloatingPointError):
        polish(halved(teacher), teacher, x, np.ones(OUTPUTS), NOTHING, schedule, np.random.default_rng(0))


@schedules
def test_a_student_that_goes_astray_is_refused(schedule: Schedule) -> None:
    teacher = network(("Relu",))
    student = halved(teacher)
    lost = Network(student.blocks, np.full_like(student.outgoing, 1e38), student.constant)
    with pytest.raises(FloatingPointError, match="astray"):
        polish(lost, teacher, pool(), np.ones(OUTPUTS), NOTHING, schedule, np.random.default_rng(0))


def test_the_gradient_is_that_of_the_relative_loss() -> None:
    rng = np.random.default_rng(0)
    inverse, mean, floor = (rng.uniform(0.5, 2, n).astype("f4") for n in (OUTPUTS, OUTPUTS, 1))
    outputs, wanted = rng.standard_normal((2, 6, OUTPUTS)).astype("f4")

    def loss(values: Array) -> float:
        power = np.sum((wanted.astype("f8") - mean) ** 2, axis=1)
        return float(np.mean(np.sum((values * inverse - wanted) ** 2, axis=1) / (float(floor[0]) + power)))

    found = _Loss(inverse, mean, float(floor[0])).gradient(outputs, wanted)
    for place in np.ndindex(outputs.shape):
        step = np.zeros(outputs.shape)
        step[place] = 1e-4
        slope = (loss(outputs + step) - loss(outputs - step)) / 2e-4
        # The loss is quadratic: central differences are exact but for rounding; the rest is float32's.
        assert abs(found[place] - slope) <= 16 * FLOAT32 * (1 + np.abs(found).max()) + 1e-9


def test_outputs_that_do_not_vary_are_refused() -> None:
    teacher = network(("Relu",))
    still = Network(teacher.blocks, 0 * teacher.outgoing, teacher.constant)
    with pytest.raises(FloatingPointError, match="do not vary"):
        polish(halved(still), still, pool(), np.ones(OUTPUTS), NOTHING, SHORT, np.random.default_rng(0))


def test_progress_is_told_of_all_steps() -> None:
    teacher, told = network(("Relu",)), list[tuple[int, int]]()
    polish(
        halved(teacher), teacher, pool(), np.ones(OUTPUTS), NOTHING, SHORT, np.random.default_rng(0),
        lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(0, 120), (50, 120), (100, 120)]


def test_the_cost_grows_with_steps_batch_and_size() -> None:
    assert SHORT.cost(10) == 6 * 120 * 64 * 10 < UPHILL.cost(10)
