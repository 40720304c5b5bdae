"""Measuring what was done, by running it: each layer alone on equal inputs, and the whole models side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.layer import HiddenLayer
from onnx_coreset.core.measure import Errors, errors
from onnx_coreset.edge.differences import Differences, TensorError, stays_finite
from onnx_coreset.edge.inputs import Feeder
from onnx_coreset.edge.patience import runs_within
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session, with_outputs
from onnx_coreset.edge.statistics import Samples

_BLOCK = 4096
# What comparing whole models may take, about, however long a run is.
_SECONDS = 30.0


def layer_outputs(
    model: onnx.ModelProto, provider: Provider, samples: Samples, threads: int | None = None
) -> tuple[Array, ...]:
    """Run an extracted layer on samples of its input.

    Args:
        model: A model with one input, whose outputs are the readouts'.
        provider: Where it is run.
        samples: Inputs of the layer.
        threads: How many threads may run it; None for all.

    Returns:
        Outputs of each readout, (N, k).

    Raises:
        RuntimeRefused: The runtime does not take it.
    """
    session = Session(model, provider, threads=threads)
    name = model.graph.input[0].name
    rows = samples.rows
    parts: list[list[Array]] = [[] for _ in model.graph.output]
    # A layer on plain rows says so; any other takes inputs of the rank they had.
    shape = model.graph.input[0].type.tensor_type.shape
    for part in _blocks(rows, len(shape.dim)):
        values = session.run({name: part})
        for index, output in enumerate(model.graph.output):
            value = values[output.name]
            parts[index].append(value.reshape(-1, value.shape[-1]).astype(np.float64))
    return tuple(np.concatenate(part) for part in parts)


def _blocks(rows: NDArray[np.generic], rank: int) -> Iterator[NDArray[np.generic]]:
    if rank == 1:
        yield from rows
        return
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        yield block.reshape(*(1 for _ in range(rank - 2)), *block.shape)


def local_errors(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    provider: Provider,
    samples: Samples,
    threads: int | None = None,
) -> Errors:
    """Return the error of a narrowed layer on the same inputs as the original one.

    Args:
        before: The extracted layer.
        after: The same, narrowed.
        provider: Where they are run.
        samples: Inputs of the layer.
        threads: How many threads may run them; None for all.

    Raises:
        RuntimeRefused: The runtime does not take one of them.
    """
    outputs = (layer_outputs(model, provider, samples, threads) for model in (before, after))
    return errors(*outputs)


def computed_errors(before: HiddenLayer, after: HiddenLayer, x: Array) -> Errors:
    """Return the same, computed in float64 where the runtime has no kernels."""
    return errors(before.evaluate(x), after.evaluate(x))


@dataclass(frozen=True)
class Comparison:
    """Two models, run on the same inputs.

    Attributes:
        samples: Number of runs times samples a run.
        outputs: Errors at the model's outputs.
        carried: Errors at inner tensors, by name.
        random: Outputs that differ between two equal runs of the original.
        faults: What makes the new model unacceptable, a line each.
    """

    samples: int
    outputs: tuple[TensorError, ...]
    carried: Mapping[str, TensorError]
    random: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def worst(self) -> float | None:
        """Largest error of an output in rms over its spread; None where no output can be compared."""
        known = [output for output in self.outputs if not np.isnan(output.rms)]
        return max((o.rms / o.spread if o.spread > 0 else o.rms for o in known), default=None)


def compare(
    original: onnx.ModelProto,
    result: onnx.ModelProto,
    provider: Provider,
    feeder: Feeder,
    runs: int,
    rng: np.random.Generator,
    inner: Mapping[str, Indices | None],
    first: int = 0,
) -> Comparison:
    """Run both models on the same inputs and compare outputs and inner tensors, for about half a minute at most.

    Args:
        original: The model as it was.
        result: The narrower model.
        provider: Where they are run.
        feeder: Source of inputs.
        runs: Number of runs, at most; two where there are any, however long they take.
        rng: Source of randomness.
        inner: Inner tensors to compare, each with the columns of the original's last axis that the result still has.
        first: Number of the first run.

    Raises:
        RuntimeRefused: The original does not run on such inputs.
    """
    sessions = [Session(with_outputs(model, list(inner)), provider) for model in (original, result)]
    own = {output.name for output in original.graph.output}
    outputs = [spec.name for spec in sessions[0].outputs if spec.dtype is not None and spec.name in own]
    names = [*outputs, *(name for name in inner if name not in outputs)]
    tables = {name: Differences() for name in names}
    random: set[str] = set()
    faults: dict[str, str] = {}
    samples = 0
    run, end = first, first + runs
    while run < end:
        started = time.perf_counter()
        feed = feeder.feed(run, rng)
        samples += max((value.shape[0] for value in feed.values() if value.ndim), default=1)
        before = sessions[0].run(feed, names)
        if run == first:
            again = sessions[0].run(feed, names)
            random |= {
                name for name in names if not np.array_equal(before[name], again[name], equal_nan=_inexact(again[name]))
            }
        try:
            after = sessions[1].run(feed, names)
        except RuntimeRefused as refused:
            faults[""] = f"the narrower model does not run: {refused}"
            break
        for name in names:
            _gather(tables[name], before[name], after[name], inner.get(name), name, faults, name in random)
        run += 1
        if run == first + 2:
            # Not the first one, in which sessions get their memory.
            end = min(end, max(first + runs_within(_SECONDS, time.perf_counter() - started), run))
    found = {n: table.error(n) for n, table in tables.items() if n not in random and not table.empty}
    errors_at_outputs = tuple(found[name] for name in outputs if name in found)
    carried = {name: found[name] for name in inner if name in found}
    shown = tuple(sorted(random.intersection(outputs)))
    return Comparison(samples, errors_at_outputs, carried, shown, tuple(faults.values()))


def _inexact(value: NDArray[np.generic]) -> bool:
    return value.dtype.kind in "fc"


def _gather(
    table: Differences,
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    columns: Indices | None,
    name: str,
    faults: dict[str, str],
    random: bool,
) -> None:
    if columns is not None:
        before = before[..., columns]
    if before.shape != after.shape:
        faults[name] = f"{name} changed its shape from {list(before.shape)} to {list(after.shape)}"
        return
    if before.dtype.kind not in "fV" or random:
        return
    if not stays_finite(before, after):
        faults[name] = f"{name} has new values that are not finite"
    table.add(before, after)


def runs_for(feeder: Feeder, samples: int, batch: int, least: int = 2) -> int:
    """Return how many runs give `samples` samples, as far as the feeder has them.

    Args:
        feeder: Source of inputs.
        samples: Samples wanted.
        batch: Samples a run.
        least: Fewest runs.
    """
    wanted = max(least, -(-samples // max(batch, 1)))
    return wanted if feeder.runs is None else min(wanted, feeder.runs)
