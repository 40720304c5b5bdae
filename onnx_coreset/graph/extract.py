"""A model of one hidden layer alone: from what its producer reads to what its consumers give."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx_coreset.core.layer import Coreset
from onnx_coreset.graph.codec import decode, encode
from onnx_coreset.graph.document import Document
from onnx_coreset.graph.lens import write
from onnx_coreset.graph.space import Space, spaces

_OLDEST_IR = 4


def extract(document: Document, space: Space, rank: int = 2) -> onnx.ModelProto:
    """Return a model whose input is the layer's input and whose outputs are its readouts' outputs.

    Args:
        document: An unedited document.
        space: A space of it.
        rank: Number of axes of the layer's input.

    Returns:
        A model with the layer's own nodes and constants, but of a bias that differs between rows the first row alone.
        O(parameters of the layer).
    """
    scope = document.scope_of(space.producer.dense.node)
    assert scope is not None
    members = {id(node) for node in space.nodes()}
    nodes = [node for node in scope.graph.nodes if id(node) in members]
    graph = onnx.GraphProto(name="layer")
    source = space.producer.input
    # A bias with a row for each of the model's samples fits no other number of samples: the first row stands for all.
    by_row = {id(bias) for bias in _biases(space) if len(document.constant_shape(bias) or ()) == 2}
    made = {id(t) for node in nodes for t in node.outputs}
    for node in nodes:
        for tensor in node.inputs:
            if tensor.name and tensor is not source and id(tensor) not in made:
                _constant(document, tensor, graph, id(tensor) in by_row)
        graph.node.add().CopyFrom(_message(document, node))
    kind = helper.np_dtype_to_tensor_dtype(space.producer.dense.stored.dtype)
    axes = [f"axis_{i}" for i in range(rank - 1)]
    graph.input.append(helper.make_tensor_value_info(source.name, kind, [*axes, space.producer.dense.inputs]))
    for consumer, _ in space.consumers:
        given = helper.np_dtype_to_tensor_dtype(consumer.dense.stored.dtype)
        graph.output.append(helper.make_tensor_value_info(consumer.output.name, given, None))
    if rank == space.producer.rank:
        # A MatMul's rank stands nowhere else. Its other sizes are the model's, not those of the inputs to come.
        free: list[int | str | None] = [None] * (rank - 1)
        shape = [*free, space.width]
        graph.value_info.append(helper.make_tensor_value_info(space.producer.output.name, kind, shape))
    model = onnx.ModelProto(ir_version=max(document.proto.ir_version, _OLDEST_IR))
    model.opset_import.extend(document.proto.opset_import)
    model.graph.CopyFrom(graph)
    return model


def shrunk(model: onnx.ModelProto, name: str, coreset: Coreset) -> onnx.ModelProto:
    """Return an extracted layer narrowed to `coreset`.

    Args:
        model: What `extract` returned.
        name: Name of the space.
        coreset: A coreset of that layer.
    """
    document = decode(model)
    space = next(s for s in spaces(document) if isinstance(s, Space) and s.name == name)
    write(document, space, coreset)
    return encode(document)


def _message(document: Document, node: gs.Node) -> onnx.NodeProto:
    origin = document.origins[id(node)]
    scope = document.scope_of(node)
    assert scope is not None
    graph = document.proto.graph
    for position, name in scope.path:
        graph = next(a for a in graph.node[position].attribute if a.name == name).g
    message: onnx.NodeProto = graph.node[origin.position]
    return message


def _biases(space: Space) -> Iterator[gs.Tensor]:
    """Yield the bias inputs of the layer's Gemm nodes."""
    for product in (space.producer.dense, *(consumer.dense for consumer, _ in space.consumers)):
        bias = product.third()
        if bias is not None:
            yield bias


def _constant(document: Document, tensor: gs.Tensor, graph: onnx.GraphProto, first_row: bool) -> None:
    """Add a constant operand as an initializer, once."""
    if any(have.name == tensor.name for have in graph.initializer):
        return
    numbers = document.constant(tensor)
    assert numbers is not None, tensor.name
    graph.initializer.append(numpy_helper.from_array(numbers[:1] if first_row else numbers, tensor.name))
