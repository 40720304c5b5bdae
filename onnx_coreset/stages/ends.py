"""The whole model and its narrower self as two networks of dense layers, where they are that and nothing else.

From one model input, through changes of shape and constants that are added to or multiplied with each entry, to the
first layer; from layer to layer, each read by the next alone; from the last one, through changes of shape and at most
one Softmax or Sigmoid, to a model output. Both networks are read from their models as they are stored, so that
whatever was refitted, corrected or polished is in them.

A Sigmoid has slopes in [0, 1/4]. A Softmax p of z: d p_i = p_i (1 - p_i) (d z_i - mean of the other d z), at most a
quarter of twice the largest |d z|. So the outputs' difference is at most that of z times 1/4 or, the largest of a
row, 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates import BoxDomain
from onnx_coreset.core.certificates.depth import EndToEnd, FeedForward, Pair, Scaling, certify_ends, scaled_box
from onnx_coreset.core.certificates.depth.deployed import SINGLE
from onnx_coreset.core.certificates.depth.scaling import Kind
from onnx_coreset.core.features import Neurons
from onnx_coreset.core.layer import Readout
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space, spaces

__all__ = ["Ends", "ends"]

_SHAPES = frozenset(["Flatten", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Dropout"])
_KINDS: Mapping[str, Kind] = MappingProxyType({"Add": "sum", "Sub": "difference", "Mul": "product", "Div": "quotient"})
_SIGMOID, _SOFTMAX = 0.25, 0.5
_ROUNDED = 1.0 + 1e-9


@dataclass(frozen=True)
class Ends:
    """Two models as networks of dense layers, from an input to an output.

    Attributes:
        input: Name of the model input.
        output: Name of the model output.
        pair: The networks.
        names: Names of the original's layers.
        front: What is done to each entry of the input before.
        tail: What is done to the outputs: "", "Sigmoid" or "Softmax".
    """

    input: str
    output: str
    pair: Pair
    names: tuple[str, ...]
    front: tuple[Scaling, ...]
    tail: str

    def certify(
        self,
        box: BoxDomain,
        rng: np.random.Generator | None = None,
        seconds: float = 10.0,
        unit: float = SINGLE,
    ) -> EndToEnd:
        """Return how far the outputs, before the tail, are apart at most for every model input of a box.

        Args:
            box: Model inputs as one vector each.
            rng: For the search.
            seconds: When to stop; a last step may take longer.
            unit: Largest relative error of one operation of the models as they run.

        Raises:
            ValueError: The box does not fit the input.
        """
        domain, off = scaled_box(box, self.front, unit)
        return certify_ends(self.pair, domain, rng, seconds, unit, off=off if self.front else None)

    def at_output(self, apart: Array) -> Array:
        """Return how far the model's outputs are apart at most where they are by `apart` (k,) before the tail."""
        if self.tail == "Softmax":
            return np.full(apart.shape, _SOFTMAX * _ROUNDED * float(np.max(apart)))
        return np.asarray(_SIGMOID * _ROUNDED * apart if self.tail == "Sigmoid" else apart)


@dataclass(frozen=True)
class _Read:
    """One model: its network, where that begins and ends, and what stands before and behind it."""

    network: FeedForward
    names: tuple[str, ...]
    input: str
    output: str
    front: tuple[Scaling, ...]
    tail: str


def ends(original: Document, result: onnx.ModelProto, kept: Mapping[str, Indices]) -> Ends | str:
    """Return a model and its narrower self as two networks of dense layers, or in words why they are none.

    Args:
        original: The model, unedited.
        result: The narrower model.
        kept: For each layer of the original by name the neurons that are left, (m,); all of them where it has none.
    """
    before, after = _read(original), _read(decode(result))
    if isinstance(before, str) or isinstance(after, str):
        return before if isinstance(before, str) else str(after)
    if len(before.names) != len(after.names) or (before.input, before.output) != (after.input, after.output):
        return "the narrower model has other layers"
    same = before.tail == after.tail and len(before.front) == len(after.front)
    if not same or not all(
        a.kind == b.kind and np.array_equal(a.values, b.values) for a, b in zip(before.front, after.front, strict=True)
    ):
        return "the narrower model begins or ends in another way"
    layers = zip(before.names, before.network.hidden, strict=True)
    left = [np.asarray(kept.get(name, np.arange(layer.width))) for name, layer in layers]
    if any(k.size != layer.width for k, layer in zip(left, after.network.hidden, strict=True)):
        return "the narrower model has other widths"
    pair = Pair.of(before.network, after.network, left)
    return Ends(before.input, before.output, pair, before.names, before.front, before.tail)


def _read(document: Document) -> _Read | str:
    """Return a model as a network of dense layers, or why it is none."""
    places = [place for place in spaces(document) if isinstance(place, Space)]
    if not places:
        return "the model has no hidden layer of dense neurons"
    chain: list[tuple[Space, Readout]] = []
    for place in places:
        if len(place.producers) != 1 or len(place.consumers) != 1 or place.region.moved:
            return f"the layer {place.name} is read or made in more than one place"
        readout = read(document, place).readouts[0]
        if not isinstance(readout.features, Neurons) or place.producer.dense.axes.data_axis != -1:
            return f"the layer {place.name} is not of dense neurons"
        if chain and not _follows(chain[-1], (place, readout)):
            return "the outputs are not reached through dense layers alone"
        chain.append((place, readout))
    first, last = chain[0][0], chain[-1][0].consumers[0][0]
    front = _front(document, first)
    if isinstance(front, str):
        return front
    behind = _behind(document, last.output)
    if isinstance(behind, str):
        return behind
    if last.dense.axes.axis != -1:
        return "the outputs do not run along the last axis"
    hidden = tuple(readout.features for _, readout in chain if isinstance(readout.features, Neurons))
    network = FeedForward(hidden, chain[-1][1].outgoing[:, :, 0], chain[-1][1].constant)
    return _Read(network, tuple(place.name for place, _ in chain), front[0], behind[0], front[1], behind[1])


def _follows(before: tuple[Space, Readout], after: tuple[Space, Readout]) -> bool:
    """Return whether the second layer reads what the first one gives, and nothing else does."""
    features = after[1].features
    same = before[0].consumers[0][0].dense.node is after[0].producer.dense.node
    return same and isinstance(features, Neurons) and np.array_equal(before[1].outgoing[:, :, 0], features.incoming)


def _front(document: Document, first: Space) -> tuple[str, tuple[Scaling, ...]] | str:
    """Return the model input that a layer reads, and what is done to its entries on the way, or why it reads none."""
    lost = "the first layer does not read a model input through changes of shape and scale alone"
    path: list[tuple[gs.Node, gs.Tensor]] = []
    tensor = first.producer.input
    while tensor.inputs:
        node = tensor.inputs[0]
        data = [t for t in node.inputs if t.name and document.constant_shape(t) is None]
        if len(data) != 1 or node.op not in _SHAPES | _KINDS.keys() or node.domain not in (None, "", "ai.onnx"):
            return lost
        path.append((node, data[0]))
        tensor = data[0]
    if not any(tensor is entry for entry in document.graph.inputs):
        return lost
    size = first.producer.dense.inputs
    shape = _sizes(tensor, size, reshaped=any(node.op in _SHAPES - {"Identity", "Dropout"} for node, _ in path))
    if shape is None:
        return f"a sample of {tensor.name} is not one row of {size} numbers"
    steps = []
    for node, data in reversed(path):
        if node.op in _SHAPES:
            shape = shape if node.op in ("Identity", "Dropout") else (size,)
            continue
        step = _step(document, node, data, shape, size)
        if step is None:
            return lost
        steps.append(step)
    return tensor.name, tuple(steps)


def _sizes(tensor: gs.Tensor, size: int, reshaped: bool) -> tuple[int, ...] | None:
    """Return the shape of one sample of a model input, or None where it is not `size` numbers."""
    dims = tensor.shape
    if dims is None or len(dims) < 2:
        return None
    inner = dims[1:] if reshaped else dims[-1:]
    if not all(isinstance(d, int) and d > 0 for d in inner):
        return None
    shape = tuple(int(d) for d in inner)
    return shape if int(np.prod(shape)) == size else None


def _step(document: Document, node: gs.Node, data: gs.Tensor, shape: tuple[int, ...], size: int) -> Scaling | None:
    """Return what a node does to every entry of a sample, or None where it does not do the same to every sample."""
    if len(node.inputs) != 2:
        return None
    place = 1 if node.inputs[0] is data else 0
    numbers = document.constant(node.inputs[place])
    if numbers is None or (place == 0 and node.op in ("Sub", "Div")):
        return None
    values = np.asarray(numbers, dtype=np.float64)
    while values.ndim > len(shape) and values.shape[0] == 1:
        values = values[0]
    try:
        full = np.broadcast_to(values, shape)
    except ValueError:
        return None
    return Scaling(_KINDS[node.op], full.reshape(size))


def _behind(document: Document, tensor: gs.Tensor) -> tuple[str, str] | str:
    """Return the model output that a tensor becomes, and what is done to it on the way, or why it becomes none."""
    tail = ""
    for node in _readers(document, tensor):
        if node.op in ("Softmax", "Sigmoid") and not tail:
            if node.op == "Softmax" and not _last_axis(document, node):
                return "a Softmax runs along another axis than the outputs"
            tail = node.op
        elif node.op not in _SHAPES:
            return f"the outputs are not reached through dense layers alone: {node.op} follows the last one"
        tensor = node.outputs[0]
    if not any(tensor is output or tensor.name == output.name for output in document.graph.outputs):
        return "the outputs are not reached through dense layers alone"
    return tensor.name, tail


def _readers(document: Document, tensor: gs.Tensor) -> Iterator[gs.Node]:
    """Yield the nodes that a tensor passes until it is an output, or until no node or several read it."""
    while not document.is_output(tensor) and len(tensor.outputs) == 1:
        node = tensor.outputs[0]
        yield node
        tensor = node.outputs[0]


def _last_axis(document: Document, node: gs.Node) -> bool:
    """Return whether a Softmax runs along the last axis alone."""
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    axis = node.attrs.get("axis", -1 if document.opset >= 13 else 1)
    return axis == -1 or (rank == 2 and axis == 1)
