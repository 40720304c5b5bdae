"""The normalisation in front of a layer, found by what its operators compute.

    LayerNormalization                               gamma (x - m) / sqrt(v + eps) + beta
    RMSNormalization, SimplifiedLayerNormalization   gamma x / sqrt(v + eps) + beta
    SkipLayerNormalization, ...                      the same of a sum
    ReduceMean, Sub, Pow, Sqrt, Div, ...             either of them, spelled out in any order
    BatchNormalization of a table                    gamma (x - mean) / sqrt(var + eps) + beta with stored mean and var

Behind it may stand what moves whole rows: Reshape and Transpose that keep the last axis, Gather along another one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.rows import Form
from onnx_coreset.graph.dense import STANDARD
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.rowforms import SAME, Reader, near, passes, roots, single, writer
from onnx_coreset.graph.space import Space

__all__ = ["Norm", "norm_in_front"]

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Norm:
    """What is known of rows gamma u + beta of a tensor.

    Attributes:
        kind: "LayerNorm", "RMSNorm" or "BatchNorm".
        gamma: Factors, shape (d,).
        beta: What is added, shape (d,).
        centred: Whether sum u = 0.
        exact: Whether nothing is computed in less than single precision.
    """

    kind: str
    gamma: Array
    beta: Array
    centred: bool
    exact: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", frozen(self.gamma))
        object.__setattr__(self, "beta", frozen(self.beta))

    @property
    def bounded(self) -> bool:
        """Whether ||u||^2 <= d for every input; otherwise u has unit deviations, on what the model learned from."""
        return self.kind != "BatchNorm"


def norm_in_front(document: Document, space: Space) -> Norm | None:
    """Return the normalisation that made what a space reads.

    Args:
        document: The model.
        space: A space of it, whose inputs run along the last axis.

    Returns:
        The normalisation with one gamma and beta an input, or None where none is found. O(d) a node, 48 at most.
    """
    if space.input_axis != -1:
        return None
    tensor, size, exact = space.producer.input, space.producer.dense.inputs, True
    while (node := _mover(document, tensor, size)) is not None:
        exact = exact and single(node)
        tensor = node.inputs[0]
    maker = writer(tensor)
    if maker is None:
        return None
    table = maker.op == "BatchNormalization"
    norm = _batch_norm(document, maker, size) if table else _row_norm(document, tensor, size)
    return norm if norm is None or exact else replace(norm, exact=False)


def _row_norm(document: Document, tensor: gs.Tensor, size: int) -> Norm | None:
    """Return the normalisation of rows that writes `tensor`, a centred one before one that is not."""
    close = near(tensor)
    best: Norm | None = None
    for root in roots(close):
        reader = Reader(document, root, size, frozenset(close))
        value = reader.value(tensor)
        found = value.normalised() if isinstance(value, Form) else None
        if found is None:
            continue
        gamma, beta = (np.broadcast_to(part, (size,)) for part in found[:2])
        if not (np.isfinite(gamma).all() and np.isfinite(beta).all()):
            continue
        if found[2] or best is None:
            best = Norm("LayerNorm" if found[2] else "RMSNorm", gamma, beta, found[2], reader.exact)
        if found[2]:
            break
    return best


def _batch_norm(document: Document, node: gs.Node, size: int) -> Norm | None:
    """Return a BatchNormalization of the columns of a table, with the deviations that it gives what it learned from."""
    if node.domain not in STANDARD or document.shapes.rank(node.inputs[0]) != 2 or len(node.inputs) != 5:
        return None
    if int(node.attrs.get("training_mode", 0)) or not int(node.attrs.get("spatial", 1)):
        return None
    stored = [document.constant(tensor) for tensor in node.inputs[1:]]
    if any(numbers is None or numbers.shape != (size,) for numbers in stored):
        return None
    scale, shift, _, variance = (np.asarray(n).astype(np.float64) for n in stored)
    total = variance + float(node.attrs.get("epsilon", 1e-5))
    if not (variance.min() >= 0.0 and total.min() > 0.0 and np.isfinite([scale, shift, total]).all()):
        return None
    return Norm("BatchNorm", scale * np.sqrt(variance / total), shift, False)


def _mover(document: Document, tensor: gs.Tensor, size: int) -> gs.Node | None:
    """Return the node that writes `tensor` where it only moves rows of `size` entries as wholes, else None."""
    node = writer(tensor)
    if node is None or node.domain not in STANDARD or not node.inputs:
        return None
    before, after = document.shapes.of(node.inputs[0]), document.shapes.of(tensor)
    if node.op in SAME:
        return node if passes(node) else None
    if not before or not after or before[-1] != size or after[-1] != size:
        return None
    rank = len(before)
    if node.op == "Transpose":
        order = [int(axis) for axis in node.attrs.get("perm", range(rank)[::-1])]
        return node if order[-1] == rank - 1 else None
    if node.op == "Gather":
        return node if int(node.attrs.get("axis", 0)) % rank != rank - 1 else None
    return node if node.op in _RESHAPES else None
