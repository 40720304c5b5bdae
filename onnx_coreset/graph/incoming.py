"""Where the incoming weights and biases of a layer's neurons stand, for those that may be replaced and not only sliced.

They may be where each factor of the neurons (the dense neurons themselves, or a gate and what it multiplies) has the
rows of its producer as they are, nothing folded into them but a bias that stands in an Add behind the producer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.layer import Gated, Neurons, Readout
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.producers import Producer
from onnx_coreset.graph.rules.values import ConstantAt
from onnx_coreset.graph.space import Space


@dataclass(frozen=True)
class Factor:
    """Where one factor of the neurons comes from.

    Attributes:
        stream: Number of its pre-activation.
        producer: The linear operator that makes it.
        copy: Which part of that operator's rows it is.
        bias: The constant of an Add that holds its bias; None where that is the operator's own, if it has any.
    """

    stream: int
    producer: Producer
    copy: int
    bias: ConstantAt | None

    @property
    def biased(self) -> bool:
        """Whether its bias may be replaced."""
        if self.bias is not None:
            return True
        own = self.producer.dense.bias_input()
        if own is None:
            return False
        shape = self.producer.dense.document.constant_shape(own) or ()
        axis = self.producer.axis
        return len(shape) >= -axis and shape[axis] == self.producer.width == int(np.prod(shape))


def factors(document: Document, space: Space, readout: Readout) -> tuple[Factor, ...] | None:
    """Return where the factors of the neurons come from, in their order, or None where they cannot be replaced.

    Args:
        document: The model.
        space: A space of it.
        readout: A readout of the space, as it was read.
    """
    if isinstance(readout.features, Neurons):
        parts: tuple[Neurons, ...] = (readout.features,)
    elif isinstance(readout.features, Gated):
        parts = (readout.features.gate, readout.features.up)
    else:
        return None
    streams = [f for producer in space.producers for f in _streams(document, space, producer)]
    if len(streams) != len(parts) or len({factor.stream for factor in streams}) != len(streams):
        return None
    found: list[Factor] = []
    for part in parts:
        fits = [factor for factor in streams if _is(factor, part, space.width)]
        if len(fits) != 1:
            # None of them, or factors with equal weights, which nothing here tells apart.
            return None
        found.append(fits[0])
    return tuple(found)


def _streams(document: Document, space: Space, producer: Producer) -> list[Factor]:
    before = 0
    for other in space.producers:
        if other is producer:
            break
        before += other.width // space.width
    return [
        Factor(before + copy, producer, copy, _added(document, space, before + copy))
        for copy in range(producer.width // space.width)
    ]


def _added(document: Document, space: Space, stream: int) -> ConstantAt | None:
    """Return the constant of an Add with an entry for each neuron that alone reads a pre-activation."""
    readers = [step for step in space.region.steps if stream in step.operands]
    if len(readers) != 1 or readers[0].op != "Add" or len(readers[0].operands) != 2:
        return None
    (constant,) = [o for o in readers[0].operands if o != stream] or (None,)
    if not isinstance(constant, ConstantAt) or constant.per_neuron is None or constant.layout is None:
        return None
    if not np.array_equal(constant.layout.neurons, np.arange(space.width)):
        return None
    return constant


def _is(factor: Factor, part: Neurons, width: int) -> bool:
    rows, _ = factor.producer.read()
    return np.array_equal(rows[factor.copy * width : (factor.copy + 1) * width], part.incoming)


def replace_incoming(found: Sequence[Factor], incoming: Sequence[tuple[Array, Array]], moved: Sequence[Array]) -> None:
    """Write new incoming weights and biases of neurons that are already narrowed; the document is edited.

    Args:
        found: Where the factors come from.
        incoming: New weights (m, d) and biases (m,) of each factor.
        moved: How far each bias moves, shape (m,); not looked at where the bias may not be replaced.
    """
    for number, (factor, (weights, _), shift) in enumerate(zip(found, incoming, moved, strict=True)):
        dense, width = factor.producer.dense, len(weights)
        if not any(factor.producer is earlier.producer for earlier in found[:number]):
            rows = np.array(dense.matrix())
            for other, (own, _) in zip(found, incoming, strict=True):
                if other.producer is factor.producer:
                    rows[other.copy * width : (other.copy + 1) * width] = own
            dense.document.assign(dense.node, dense.weight, dense.store(rows))
        if factor.biased and np.any(shift):
            _move(factor, shift)


def _move(factor: Factor, shift: Array) -> None:
    """Add `shift` (m,) to the bias of a factor."""
    dense = factor.producer.dense
    if factor.bias is not None:
        node, index, rows, scale = factor.bias.node, factor.bias.index, slice(None), 1.0
    else:
        rows = slice(factor.copy * len(shift), (factor.copy + 1) * len(shift))
        node, index, scale = dense.node, 2, dense.beta
    stored = dense.document.constant(node.inputs[index])
    assert stored is not None
    values = stored.astype(np.float64)
    values.reshape(-1)[rows] += shift / scale
    dense.document.assign(node, index, values.astype(stored.dtype))
