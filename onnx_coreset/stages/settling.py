"""The work on one layer: what it may become, how wide it stays, and what that costs, measured.

A `Task` holds all that this needs and nothing of the model around it, so that anybody can do it. A layer is measured
alone: the extracted layer and the same with only this hidden layer narrowed, run on equal fresh inputs. Where the error
is above eps by more than sampling explains, the layer is widened and measured again, at last kept whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_coreset.core.layer import Coreset, HiddenLayer, shrink, whole
from onnx_coreset.core.measure import Errors
from onnx_coreset.core.methods.base import Method
from onnx_coreset.edge.runtime import Provider, RuntimeRefused
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.edge.validation import computed_errors, local_errors
from onnx_coreset.graph.extract import shrunk, the_space
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.skip import Skip
from onnx_coreset.options import Options
from onnx_coreset.plan import Candidates, candidates, least_width, measured_on, rounded
from onnx_coreset.stages.blind import blind
from onnx_coreset.stages.bounding import least_proven
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import stored
from onnx_coreset.stages.sampling import LayerInputs, stream
from onnx_coreset.stages.unsampled import by_weights

_ATTEMPTS = 6


@dataclass(frozen=True)
class Settled:
    """What a layer becomes.

    Attributes:
        coreset: All neurons where it is kept whole.
        errors: Its local error, or None where it was not measured.
        code: Why it is kept whole, or None where it is narrower.
        reason: The same for a person.
        ran: Whether ONNX Runtime measured the error; otherwise it was computed in float64.
        curve: (width, relative rms) as predicted, or None.
        lossless: How many neurons could be dropped without any error, or None where that was not looked at.
        proof: What is proven about its error, or None where nothing is yet.
    """

    coreset: Coreset
    errors: Errors | None = None
    code: str | None = None
    reason: str | None = None
    ran: bool = True
    curve: tuple[tuple[int, float], ...] | None = None
    lossless: int | None = None
    proof: Proof | None = None


@dataclass(frozen=True)
class Streams:
    """Sources of randomness of a layer, one a width.

    Attributes:
        seed: Seed of the run.
        name: Name of the layer.
    """

    seed: int
    name: str

    def __call__(self, width: int) -> np.random.Generator:
        """Return the source for a width; 0 is for the order."""
        return stream(self.seed, self.name, width + 8)


@dataclass(frozen=True)
class Task:
    """A layer that waits for its width.

    Attributes:
        name: Its name.
        layer: What it reads as.
        inputs: Samples of its inputs.
        method: What chooses neurons.
        options: What was asked.
        provider: Where it is run.
        alone: The layer extracted; None where nobody will run it.
        unit: Largest relative error of one operation of the layer as it runs.
        asked: The width that is asked for by its name, or None.
        wanted: Its width, or None where eps decides.
        made: What is known of its coresets, or None.
        threads: How many threads may work on it besides BLAS's.
    """

    name: str
    layer: HiddenLayer
    inputs: LayerInputs
    method: Method
    options: Options
    provider: Provider
    alone: onnx.ModelProto | None
    unit: float
    asked: int | None = None
    wanted: int | None = None
    made: Candidates | None = None
    threads: int | None = None

    def whole(self, code: str, reason: str, curve: tuple[tuple[int, float], ...] | None = None) -> Settled:
        """Return the layer kept as it is, with the reason."""
        kept = whole(self.layer, self.method.name, self.options.seed)
        free = self.made.lossless if self.made is not None and code != "requested" else None
        return Settled(kept, None, code, reason, curve=curve, lossless=free)


def choice(task: Task) -> Candidates | Skip:
    """Return the coresets of a layer, or why it has none: its features are not finite on some sample."""
    layer, inputs, method = task.layer, task.inputs, task.method
    generator = Streams(task.options.seed, task.name)
    if blind(task.options):
        return by_weights(layer, inputs, method, generator)
    # What holds for every input of the shrunk model too; what a layer in front makes of its inputs may be polished.
    domain = inputs.stated.domain if inputs.stated.sure else None
    try:
        made = candidates(layer, inputs.fit, method, inputs.law, inputs.radius, task.options, generator, domain)
        _ = made.path
        return made
    except FloatingPointError as error:
        return Skip(task.name, str(error), "non-finite", layer.width)


def settle(task: Task) -> Settled | Skip:
    """Choose and measure the coreset of one layer.

    Args:
        task: The layer.

    Returns:
        What becomes of it, or why it is skipped.
    """
    full, options, wanted = task.layer.width, task.options, task.wanted
    budget = options.target in ("params", "output_eps") and task.asked is None
    if wanted is not None and wanted >= full and not budget:
        return task.whole("requested", "the width asked for is the width it has")
    made = choice(task) if task.made is None else task.made
    if isinstance(made, Skip):
        return made
    task = replace(task, made=made)
    if wanted is not None and wanted >= full:
        return task.whole("budget", "the target of the whole model is met without cutting it", made.curve(full))
    try:
        proof = None
        if wanted is not None:
            width = wanted
        elif options.proven:
            width, proof = least_proven(made, _extracted(task), task.name, task.unit, task.inputs, options)
        else:
            width = least_width(made, measured_on(made, task.inputs.hold, options), options)
        curve = made.curve(width)
    except FloatingPointError as error:
        return Skip(task.name, str(error), "non-finite", full)
    if width >= full:
        return task.whole("eps", f"no narrower width meets eps {options.eps:g}", curve)
    done = _measured(task, made, width)
    return replace(done, proof=proof) if done.coreset.width == width else done


def _extracted(task: Task) -> onnx.ModelProto:
    assert task.alone is not None, task.name
    return task.alone


def _measured(task: Task, made: Candidates, width: int) -> Settled:
    """Measure a width, and wider ones until the error is at most eps, or above it by no more than sampling explains."""
    options, full = task.options, task.layer.width
    if blind(options):
        return Settled(made.at(width))
    eps = options.eps if task.asked is None and not options.proven else None
    best: Settled | None = None
    worst = 0.0
    for attempt in range(_ATTEMPTS):
        coreset = made.at(width)
        found, ran = measure(
            _extracted(task), task.name, coreset, task.inputs, task.provider, options.validate, task.threads
        )
        worst = found.norm(options.norm, options.absolute)
        finite = np.isfinite(found.max) and all(np.isfinite(w).all() for w in coreset.outgoing)
        tried = Settled(coreset, found, ran=ran, curve=made.curve(width), lossless=made.lossless)
        if finite and (eps is None or worst <= eps):
            return tried
        if finite and eps is not None and best is None and found.explained(options.norm, options.absolute, eps):
            best = tried
        width = rounded(width + _step(width, full, worst, eps, attempt), full, options)
        if width >= full:
            break
    if best is not None:
        return best
    reason = f"every narrower width tried failed validation (error {worst:.3g})"
    return task.whole("validation", reason, made.curve(full))


def _step(width: int, full: int, error: float, eps: float | None, attempt: int) -> int:
    """Return by how much to widen: by the excess of the error at first, by a share of what is left in the end."""
    share = max(1, (full - width) // (_ATTEMPTS - attempt))
    if eps is None or not np.isfinite(error) or attempt >= _ATTEMPTS // 2:
        return share
    return max(1, min(share, int(np.ceil(1.5 * width * (error / eps - 1.0)))))


def measure(
    alone: onnx.ModelProto,
    name: str,
    coreset: Coreset,
    inputs: LayerInputs,
    provider: Provider,
    run: bool = True,
    threads: int | None = None,
) -> tuple[Errors, bool]:
    """Return the local error of a coreset as it is stored, and whether ONNX Runtime ran it.

    Args:
        alone: The extracted layer.
        name: Name of its space.
        coreset: A coreset of it.
        inputs: Samples of its inputs.
        provider: Where it is run.
        run: Whether to try; otherwise, and where the runtime has no kernels, the error is computed in float64 from
            the weights as they are stored.
        threads: How many threads may run it; None for all.
    """
    if run:
        try:
            return local_errors(alone, shrunk(alone, name, coreset), provider, inputs.fresh, threads), True
        except RuntimeRefused:
            pass
    document = decode(alone)
    space = the_space(document, name)
    layer = read(document, space)
    return computed_errors(layer, shrink(layer, stored(space, coreset)), as_float(inputs.fresh)), False
