"""Widths by the number that is proven: the least one whose certified error meets eps.

The certificate of a width is the cheap one, with no limit of time, so that the same run gives the same widths again.
It ends as soon as one output is known to err too much, or none can: where widths are certified anyway, what is proven
of the one that was chosen is made better there.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_coreset.core.layer import Coreset, HiddenLayer
from onnx_coreset.core.measure import spread
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.options import Options
from onnx_coreset.plan import Candidates, least_width
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import as_stored, certificate, scales
from onnx_coreset.stages.sampling import LayerInputs, stream

__all__ = ["least_proven", "proof_of"]

_BOUND = 5
_MARGIN = 1e-6


def proof_of(
    layer: HiddenLayer,
    coreset: Coreset,
    alone: onnx.ModelProto,
    name: str,
    unit: float,
    inputs: LayerInputs,
    options: Options,
    enough: float,
) -> Proof | None:
    """Return what can cheaply be proven of a coreset, as far as it decides whether that is enough; None: nothing.

    Args:
        layer: The layer.
        coreset: A coreset of it.
        alone: The layer extracted.
        name: Name of its space.
        unit: Largest relative error of one operation of the layer as it runs.
        inputs: Samples of its inputs, with their domain.
        options: What was asked.
        enough: What the bound is to stay below.
    """
    after = as_stored(alone, name, layer, coreset)
    scale = scales(layer, as_float(inputs.fresh))
    rng = stream(options.seed, name, _BOUND)
    # Less than is enough: what is left of it in the units of each output is rounded.
    goal = enough * scale * (1.0 - _MARGIN)
    found = certificate(layer, after, inputs.stated.domain, "fast", rng, unit, enough=goal)
    # Which outputs were left alone, once one was above, depends on who was first.
    if found is None or np.any(found.certified > goal - found.rounding):
        return None
    exact, attacked = found.certified / scale, found.attacked / scale
    certified = exact + found.rounding / scale
    return Proof(inputs.stated, certified, exact, attacked, float(attacked.max(initial=0.0)), 0)


def least_proven(
    found: Candidates, alone: onnx.ModelProto, name: str, unit: float, inputs: LayerInputs, options: Options
) -> tuple[int, Proof | None]:
    """Return the least width whose certified error meets eps, n where none does.

    Args:
        found: The coresets of the layer, one a width.
        alone: The layer extracted.
        name: Name of its space.
        unit: Largest relative error of one operation of the layer as it runs.
        inputs: Samples of its inputs, with their domain.
        options: What was asked; eps is given.

    Returns:
        A width, and what is proven of it; O(log n) certificates.
    """
    assert options.eps is not None
    layer, eps = found.layer, options.eps * (1.0 - _MARGIN)
    plain = options.absolute or len(layer.readouts) > 1
    scale = 1.0 if plain else spread(layer.evaluate(as_float(inputs.fresh))[0]) or 1.0

    known: dict[int, Proof | None] = {}

    def meets(width: int) -> bool:
        if width not in known:
            known[width] = proof_of(layer, found.at(width), alone, name, unit, inputs, options, eps * scale)
        proof = known[width]
        return proof is not None and proof.bound / scale <= eps

    width = least_width(found, meets, options)
    if width >= layer.width or not meets(width):
        return layer.width, None
    return width, known[width]
