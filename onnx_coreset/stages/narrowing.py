"""Third stage: one layer at a time, from its place in the graph to a coreset whose error was measured.

A layer is measured alone: the extracted layer and the same with only this hidden layer narrowed, run on equal fresh
inputs. Where the error is above eps by more than sampling explains, the layer is widened and measured again, at last
kept whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons, shrink, whole
from onnx_coreset.core.measure import Errors
from onnx_coreset.core.methods.base import Method
from onnx_coreset.edge.runtime import Provider, RuntimeRefused
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.edge.validation import computed_errors, local_errors
from onnx_coreset.graph.extract import extract, shrunk, the_space
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.plan import Candidates, asked, candidates, least_width, rounded
from onnx_coreset.stages.opening import Opened, named_width
from onnx_coreset.stages.sampling import LayerInputs, Sources, layer_inputs, stream

_ATTEMPTS = 6


@dataclass(frozen=True)
class Narrowed:
    """What became of one chain.

    Attributes:
        space: Its place.
        layer: What it read as.
        inputs: Samples of its inputs.
        coreset: What it becomes; all neurons where it is kept whole.
        errors: Its local error, or None where it was not measured.
        code: Why it is kept whole, or None where it is narrower.
        reason: The same for a person.
        ran: Whether ONNX Runtime measured the error; otherwise it was computed in float64.
    """

    space: Space
    layer: HiddenLayer
    inputs: LayerInputs
    coreset: Coreset
    errors: Errors | None
    code: str | None = None
    reason: str | None = None
    ran: bool = True

    @property
    def narrower(self) -> bool:
        """Whether neurons were dropped."""
        return self.coreset.width < self.space.width


def narrow(
    space: Space, opened: Opened, found: Sources, method: Method, options: Options, provider: Provider
) -> Narrowed | Skip:
    """Choose and measure the coreset of one chain.

    Args:
        space: Its place.
        opened: The model.
        found: Where inputs come from.
        method: What chooses neurons.
        options: What was asked.
        provider: Where layers are run.

    Returns:
        What became of it, or why it is skipped.

    Raises:
        UsageError: A width asked for does not fit.
    """
    layer = read(opened.document, space)
    unfit = _unfit(space, layer, method)
    if unfit is not None:
        return unfit
    inputs = layer_inputs(space, layer, found, opened, options)
    wanted = asked(space.name, space.width, options, named_width(space.name, options))
    if wanted is not None and wanted >= space.width:
        kept = whole(layer, method.name, options.seed)
        return Narrowed(space, layer, inputs, kept, None, "requested", "the width asked for is the width it has")
    try:
        choice = candidates(
            layer,
            inputs.fit,
            method,
            inputs.law,
            inputs.radius,
            options,
            lambda width: stream(options.seed, space.name, width + 8),
        )
        width = least_width(choice, inputs.hold, options) if wanted is None else wanted
    except FloatingPointError as error:
        return Skip(space.name, str(error), "non-finite", space.width)
    if width >= space.width:
        kept = whole(layer, method.name, options.seed)
        return Narrowed(space, layer, inputs, kept, None, "eps", f"no narrower width meets eps {options.eps:g}")
    return _measured(space, layer, inputs, choice, width, opened, options, provider)


def _unfit(space: Space, layer: HiddenLayer, method: Method) -> Skip | None:
    values = [w for readout in layer.readouts for w in (readout.outgoing, readout.constant)]
    values += [w for producer in space.producers for w in producer.read()]
    if not all(np.isfinite(value).all() for value in values):
        return Skip(space.name, "a weight is NaN or infinite", "non-finite", space.width)
    plain = all(isinstance(readout.features, Neurons) for readout in layer.readouts)
    have = {"moments", "neurons"} if plain else {"moments"}
    lacking = sorted(method.requires - have)
    if lacking:
        return Skip(space.name, f"the method {method.name} needs {', '.join(lacking)}", "requires", space.width)
    return None


def _measured(
    space: Space,
    layer: HiddenLayer,
    inputs: LayerInputs,
    choice: Candidates,
    width: int,
    opened: Opened,
    options: Options,
    provider: Provider,
) -> Narrowed:
    """Measure a width, and wider ones until the error is at most eps, or above it by no more than sampling explains."""
    alone = extract(opened.document, space, inputs.fresh.rank)
    eps = options.eps if named_width(space.name, options) is None else None
    best: Narrowed | None = None
    worst = 0.0
    for attempt in range(_ATTEMPTS):
        coreset = choice.at(width)
        found, ran = measure(alone, space.name, coreset, inputs, provider, run=options.validate)
        worst = found.norm(options.error, options.absolute)
        finite = np.isfinite(found.max) and all(np.isfinite(w).all() for w in coreset.outgoing)
        tried = Narrowed(space, layer, inputs, coreset, found, ran=ran)
        if finite and (eps is None or worst <= eps):
            return tried
        if finite and eps is not None and best is None and found.explained(options.error, options.absolute, eps):
            best = tried
        width = rounded(width + _step(width, space.width, worst, eps, attempt), space.width, options)
        if width >= space.width:
            break
    if best is not None:
        return best
    kept = whole(layer, choice.method.name, options.seed)
    reason = f"every narrower width tried failed validation (error {worst:.3g})"
    return Narrowed(space, layer, inputs, kept, None, "validation", reason)


def _step(width: int, full: int, error: float, eps: float | None, attempt: int) -> int:
    """Return by how much to widen: by the excess of the error at first, by a share of what is left in the end."""
    share = max(1, (full - width) // (_ATTEMPTS - attempt))
    if eps is None or not np.isfinite(error) or attempt >= _ATTEMPTS // 2:
        return share
    return max(1, min(share, int(np.ceil(1.5 * width * (error / eps - 1.0)))))


def measure(
    alone: onnx.ModelProto, name: str, coreset: Coreset, inputs: LayerInputs, provider: Provider, run: bool = True
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
    """
    if run:
        try:
            return local_errors(alone, shrunk(alone, name, coreset), provider, inputs.fresh), True
        except RuntimeRefused:
            pass
    document = decode(alone)
    space = the_space(document, name)
    layer = read(document, space)
    return computed_errors(layer, shrink(layer, _stored(space, coreset)), as_float(inputs.fresh)), False


def _stored(space: Space, coreset: Coreset) -> Coreset:
    """Return a coreset whose numbers are rounded as they will be stored."""
    kinds = [consumer.dense.stored.dtype for consumer, _ in space.consumers]
    outgoing = tuple(w.astype(kind).astype(np.float64) for w, kind in zip(coreset.outgoing, kinds, strict=True))
    constant = tuple(c.astype(kind).astype(np.float64) for c, kind in zip(coreset.constant, kinds, strict=True))
    return replace(coreset, outgoing=outgoing, constant=constant)
