"""The law of a layer's inputs as a normalisation in front of it gives it."""

from __future__ import annotations

from onnx_coreset.core.normed import Normed
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.norms import norm_in_front
from onnx_coreset.graph.space import Space


def law_in_front(document: Document, space: Space) -> Normed | None:
    """Return the law that the normalisation in front of a layer gives its inputs, or None where there is none.

    Args:
        document: The model.
        space: A space of it.
    """
    norm = norm_in_front(document, space)
    if norm is None:
        return None
    # Below single precision, sums over a row are too coarse for a bound to hold.
    return Normed(norm.gamma, norm.beta, norm.centred, norm.bounded, norm.exact, f"{norm.kind} in front")
