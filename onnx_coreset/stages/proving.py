"""The certificate of one narrower layer, as it will be stored: what `core.certificates` makes of it.

Both layers are read from their graphs, so that every weight is the number in the file, whatever it was folded with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates import Certificate, Domain, Effort, certify
from onnx_coreset.core.certificates.domains import contains
from onnx_coreset.core.domains import EllipsoidDomain
from onnx_coreset.core.layer import Coreset, HiddenLayer, shrink
from onnx_coreset.core.measure import Errors, spread
from onnx_coreset.edge.threads import cores, one_thread
from onnx_coreset.graph.extract import shrunk, the_space
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.space import Space

_UNITS: Mapping[str, float] = MappingProxyType({"float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-53})
_SINGLE = 2.0**-24


def certificate(
    before: HiddenLayer,
    after: HiddenLayer,
    domain: Domain,
    effort: Effort,
    rng: np.random.Generator,
    unit: float,
    seconds: float = float("inf"),
    threads: int | None = None,
    enough: Array | None = None,
) -> Certificate | None:
    """Return the certificate of a layer and its narrower self on the domain of its inputs.

    Args:
        before: What the layer reads as.
        after: What it becomes.
        domain: Where its inputs lie.
        effort: "fast" or "tight".
        rng: Starts of descent and search.
        unit: Largest relative error of one operation of the layer as it runs.
        seconds: When to stop.
        threads: How many threads share the outputs; None for as many as there are cores.
        enough: What errors are to stay below, shape (k,); as small as can be unless it is given.
    """
    # The products are small: threads share the outputs, and BLAS has one each.
    with one_thread(), np.errstate(all="ignore"):
        workers = threads or cores()
        return certify(before, after, domain, effort, rng, seconds, unit, workers, enough)


def unit_of(space: Space) -> float:
    """Return the largest relative error of one operation of a layer as it runs."""
    return _UNITS.get(str(space.producer.dense.stored.dtype), _SINGLE)


def as_stored(alone: onnx.ModelProto, name: str, layer: HiddenLayer, coreset: Coreset) -> HiddenLayer:
    """Return a narrower layer with the numbers that will be in the file.

    Args:
        alone: The layer extracted.
        name: Name of its space.
        layer: What it reads as.
        coreset: A coreset of it.
    """
    space = the_space(decode(alone), name)
    document = decode(shrunk(alone, name, coreset))
    try:
        found = read(document, the_space(document, name))
    except IndexError:
        # What is read as no layer any more, such as one of a single neuron.
        return shrink(layer, stored(space, coreset))
    fits = found.width == coreset.width and [r.outputs for r in found.readouts] == [r.outputs for r in layer.readouts]
    return found if fits else shrink(layer, stored(space, coreset))


def stored(space: Space, coreset: Coreset) -> Coreset:
    """Return a coreset whose numbers are rounded as they will be stored."""
    kinds = [consumer.dense.stored.dtype for consumer, _ in space.consumers]
    outgoing = tuple(w.astype(kind).astype(np.float64) for w, kind in zip(coreset.outgoing, kinds, strict=True))
    constant = tuple(c.astype(kind).astype(np.float64) for c, kind in zip(coreset.constant, kinds, strict=True))
    return replace(coreset, outgoing=outgoing, constant=constant)


def inside(domain: Domain, x: Array) -> NDArray[np.bool_]:
    """Return which rows of x (N, d) lie in a domain, shape (N,)."""
    return domain.inside(x) if isinstance(domain, EllipsoidDomain) else contains(domain, x)


def measured_inside(errors: Errors | None, held: NDArray[np.bool_]) -> float:
    """Return the largest error that was measured on a sample inside a domain.

    Args:
        errors: The errors of a layer, or None where it was not measured.
        held: Which of its samples lie inside, shape (N,).
    """
    if errors is None or errors.exceeding.shape != held.shape or not held.any():
        return 0.0
    return float(errors.exceeding[held].max())


def scales(layer: HiddenLayer, x: Array) -> Array:
    """Return what the errors of each output are divided by, shape (k,): its readout's spread, where there are several.

    Args:
        layer: The layer as it was.
        x: Samples of its inputs, shape (N, d).
    """
    if len(layer.readouts) == 1:
        return np.ones(layer.readouts[0].outputs)
    return np.concatenate([np.full(table.shape[1], spread(table) or 1.0) for table in layer.evaluate(x)])
