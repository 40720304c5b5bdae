"""Shapes of tensors: as declared, and where nothing is declared as ONNX infers them.

Inference runs on a copy without weights in which small integer constants keep their values, since the shape of a
Reshape depends on them. It is a courtesy: where it fails, what is declared has to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference

from onnx_coreset.graph.model.skeleton import skeleton

Shape = tuple[int | str | None, ...]
_SMALL = 64
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


class Shapes:
    """The shapes of a model's tensors, inferred when first asked for; they follow what is narrowed."""

    def __init__(
        self, model: onnx.ModelProto, scopes: Sequence[tuple[tuple[tuple[int, str], ...], Mapping[str, gs.Tensor]]]
    ):
        """Keep the model, and the graphs in it: the path of each and its tensors by name."""
        self._model = model
        self._scopes = tuple(scopes)
        self._known: dict[int, Shape] | None = None
        self._narrowed: dict[int, dict[int, int]] = {}

    def of(self, tensor: gs.Tensor) -> Shape | None:
        """Return the shape of `tensor`, or None where not even its rank is known."""
        if self._known is None:
            self._known = self._inferred()
        found = self._known.get(id(tensor))
        if found is None:
            return None if tensor.shape is None else tuple(tensor.shape)
        sizes = self.narrowed(tensor)
        return tuple(sizes.get(i - len(found), n) if isinstance(n, int) else n for i, n in enumerate(found))

    def rank(self, tensor: gs.Tensor) -> int | None:
        """Return the number of axes of `tensor`, or None where it is not known."""
        shape = self.of(tensor)
        return None if shape is None else len(shape)

    def narrow(self, tensor: gs.Tensor, axis: int, size: int) -> None:
        """Note that `tensor` is now `size` long along `axis`, counted from the end."""
        self._narrowed.setdefault(id(tensor), {})[axis] = size

    def narrowed(self, tensor: gs.Tensor) -> Mapping[int, int]:
        """Return how long a tensor that was narrowed is, by axis, counted from the end."""
        return self._narrowed.get(id(tensor), {})

    def _inferred(self) -> dict[int, Shape]:
        bare = skeleton(self._model)
        _keep_integers(self._model.graph, bare.graph)
        # Shape inference refuses what it does not understand: unknown operators, models that are not valid.
        with suppress(Exception):
            bare = shape_inference.infer_shapes(bare, data_prop=True)
        known: dict[int, Shape] = {}
        for path, tensors in self._scopes:
            with suppress(StopIteration, IndexError):
                graph = bare.graph
                for position, name in path:
                    graph = next(a for a in graph.node[position].attribute if a.name == name).g
                for value in (*graph.input, *graph.output, *graph.value_info):
                    if value.name in tensors and value.type.tensor_type.HasField("shape"):
                        known.setdefault(id(tensors[value.name]), _sizes(value))
        return known


def _sizes(value: onnx.ValueInfoProto) -> Shape:
    return tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in value.type.tensor_type.shape.dim
    )


def _pairs(source: onnx.GraphProto, target: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, onnx.TensorProto]]:
    """Yield every constant with its copy, at every depth."""
    copies = {tensor.name: tensor for tensor in target.initializer}
    yield from ((tensor, copies[tensor.name]) for tensor in source.initializer if tensor.name in copies)
    # A node with two attributes of one name is no valid one, and may be paired with another's graph.
    for node, bare in zip(source.node, target.node, strict=False):
        kept = {attribute.name: attribute for attribute in bare.attribute}
        for attribute in node.attribute:
            if attribute.name not in kept:
                continue
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t, kept[attribute.name].t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _pairs(attribute.g, kept[attribute.name].g)


def _keep_integers(source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    for tensor, copy in _pairs(source, target):
        if tensor.data_type in _INTEGERS and len(tensor.dims) <= 1 and all(size <= _SMALL for size in tensor.dims):
            copy.CopyFrom(tensor)
