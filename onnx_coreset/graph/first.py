"""The linear layers that a model input meets first, through nothing but changes of shape and scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.producers import Producer, producer
from onnx_coreset.graph.ranges import SHAPES, followed

_KEEPING = SHAPES | {"Cast"}


@dataclass(frozen=True)
class First:
    """The layers that read an input first.

    Attributes:
        name: The input x.
        layers: Linear layers, each of the same number of inputs.
        scale: They read scale * x + shift; it is not 0.
        shift: The same number for every entry of x.
    """

    name: str
    layers: tuple[Producer, ...]
    scale: float
    shift: float


def first_layers(document: Document, largest: int) -> Iterator[First]:
    """Yield the layers that read each model input first.

    Inputs that meet something else first, or whose layers read them in different scales, are left out.

    Args:
        document: The model.
        largest: Inputs with more entries than this are left out.
    """
    found: dict[str, list[tuple[Producer, float, float]]] = {tensor.name: [] for tensor in document.graph.inputs}
    for node in document.graph.nodes:
        layer = producer(document, node)
        if isinstance(layer, Producer):
            source = followed(document, layer.input, _KEEPING)
            if source.tensor.name in found:
                found[source.tensor.name].append((layer, source.scale, source.shift))
    for name, layers in found.items():
        ways = {(layer.dense.inputs, scale, shift) for layer, scale, shift in layers}
        if len(ways) == 1:
            ((size, scale, shift),) = ways
            if 1 < size <= largest:
                yield First(name, tuple(layer for layer, _, _ in layers), scale, shift)
