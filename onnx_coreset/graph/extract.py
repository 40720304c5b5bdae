"""A model of one hidden layer alone: from what its producer reads to what its consumers give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx_coreset.core.layer import Coreset
from onnx_coreset.graph.cut import written
from onnx_coreset.graph.flat import flat, message_of
from onnx_coreset.graph.lens import write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space, spaces

_OLDEST_IR = 4


def extract(document: Document, space: Space, rank: int = 2) -> onnx.ModelProto:
    """Return a model whose input is the layer's input and whose outputs are its readouts' outputs.

    Args:
        document: An unedited document.
        space: A space of it.
        rank: Number of axes of the layer's input, where its operators take any.

    Returns:
        A model with the layer's own nodes and constants, but of a bias that differs between rows the first row alone.
        Inputs and outputs run along the last axis, transposed where the layer has them along another; a layer that
        moves its neurons takes plain rows, whatever `rank` says. O(parameters of the layer).
    """
    return _model(document, flat(document, space) if space.region.moved else _as_it_stands(document, [space], rank))


def extract_stack(document: Document, stack: Sequence[Space], rank: int = 2) -> onnx.ModelProto:
    """Return a model of layers each of which alone reads the one before.

    Args:
        document: An unedited document.
        stack: Spaces of it, one or more; the consumer of one is the producer of the next, and none but a single one
            moves its neurons.
        rank: As for `extract`.

    Returns:
        A model from the first one's input to the outputs of the last one's readouts.
    """
    if len(stack) == 1:
        return extract(document, stack[0], rank)
    return _model(document, _as_it_stands(document, stack, rank))


def shrunk_stack(model: onnx.ModelProto, coresets: Sequence[Coreset]) -> onnx.ModelProto:
    """Return extracted layers narrowed to coresets.

    Args:
        model: What `extract_stack` returned.
        coresets: A coreset of each layer, the first one first. Names do not matter: a layer that stood in a branch, or
            before a Concat, has another name in the whole model than alone.
    """
    names = [space.name for space in spaces(decode(model)) if isinstance(space, Space)]
    return written(model, dict(zip(names, coresets, strict=True)))


def _model(document: Document, graph: onnx.GraphProto) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=max(document.proto.ir_version, _OLDEST_IR))
    model.opset_import.extend(document.proto.opset_import)
    model.graph.CopyFrom(graph)
    return model


def _as_it_stands(document: Document, stack: Sequence[Space], rank: int) -> onnx.GraphProto:
    """Return the graph of layers whose own nodes run on inputs of any number of samples."""
    space, last = stack[0], stack[-1]
    scope = document.scope_of(space.producer.dense.node)
    assert scope is not None
    rank = next((member.input_rank for member in stack if member.input_rank is not None), rank)
    members = {id(node) for member in stack for node in member.nodes()}
    nodes = [node for node in scope.graph.nodes if id(node) in members]
    graph = onnx.GraphProto(name="layer")
    source = space.producer.input
    by_row = {id(bias): place for member in stack for bias, place in _biases(member)}
    fused = {id(c.dense.node) for c, _ in last.consumers if c.dense.fused is not None}
    made = {id(t) for node in nodes for t in node.outputs}
    makers = {id(maker.dense.node): maker.dense.data for maker in space.producers}
    given = {id(maker.input) for maker in space.producers}
    for node in nodes:
        for tensor in node.inputs:
            if tensor.name and id(tensor) not in given and id(tensor) not in made:
                _constant(document, tensor, graph, by_row.get(id(tensor)))
        message = _plain(message_of(document, node)) if id(node) in fused else message_of(document, node)
        graph.node.add().CopyFrom(message)
        if id(node) in makers:
            # All of them read the same, maybe under other names.
            graph.node[-1].input[makers[id(node)]] = source.name
    kind = helper.np_dtype_to_tensor_dtype(space.producer.dense.stored.dtype)
    axes = [f"axis_{i}" for i in range(rank - 1)]
    graph.input.append(helper.make_tensor_value_info(source.name, kind, [*axes, space.producer.dense.inputs]))
    for consumer, _ in last.consumers:
        element = helper.np_dtype_to_tensor_dtype(consumer.dense.stored.dtype)
        graph.output.append(helper.make_tensor_value_info(consumer.output.name, element, None))
    for member in stack:
        if rank == member.producer.rank:
            # A MatMul's rank stands nowhere else. Its other sizes are the model's, not those of the inputs to come.
            shape: list[int | str | None] = [None] * rank
            shape[member.producer.axis] = member.producer.width
            graph.value_info.append(helper.make_tensor_value_info(member.producer.output.name, kind, shape))
    _turn(document, space, last, graph, rank)
    return graph


def _turn(document: Document, space: Space, last: Space, graph: onnx.GraphProto, rank: int) -> None:
    """Transpose inputs and outputs that run along another axis than the last."""
    source, turned = graph.input[0], space.input_axis
    if turned != -1:
        graph.input[0].name = _unused(document, source.name)
        order = [*range(rank - 1)]
        order.insert(rank + turned, rank - 1)
        name = space.producer.input.name
        graph.node.insert(0, helper.make_node("Transpose", [graph.input[0].name], [name], perm=order))
        shape: list[int | str | None] = [None] * rank
        shape[turned] = space.producer.dense.inputs
        graph.value_info.append(helper.make_tensor_value_info(name, source.type.tensor_type.elem_type, shape))
    for output, (consumer, _) in zip(graph.output, last.consumers, strict=True):
        axis = consumer.dense.axes.axis
        if axis != -1:
            rows = max(rank, *(len(tensor.dims) for tensor in graph.initializer))
            order = [i for i in range(rows) if i != rows + axis]
            output.name = _unused(document, consumer.output.name)
            graph.node.append(
                helper.make_node("Transpose", [consumer.output.name], [output.name], perm=[*order, rows + axis])
            )


def _unused(document: Document, stem: str) -> str:
    """Return a name for `stem` transposed that the model does not use; none is reserved."""
    name = f"{stem}_turned"
    while name in document.names:
        name += "_"
    return name


def shrunk(model: onnx.ModelProto, name: str, coreset: Coreset) -> onnx.ModelProto:
    """Return an extracted layer narrowed to `coreset`.

    Args:
        model: What `extract` returned.
        name: Name of the space.
        coreset: A coreset of that layer.
    """
    document = decode(model)
    write(document, the_space(document, name), coreset)
    return encode(document, spent=True)


def the_space(document: Document, name: str) -> Space:
    """Return the space of an extracted layer.

    Args:
        document: What `extract` returned, opened.
        name: Name of the space in the whole model; one that stood before a Concat has another name here.
    """
    found = [space for space in spaces(document) if isinstance(space, Space)]
    return next((space for space in found if space.name == name), found[0])


def _plain(message: onnx.NodeProto) -> onnx.NodeProto:
    """Return a FusedGemm without its activation: what the readout gives."""
    plain = onnx.NodeProto()
    plain.CopyFrom(message)
    plain.op_type, plain.domain = "Gemm", ""
    for index in reversed([i for i, a in enumerate(plain.attribute) if a.name.startswith("activation")]):
        del plain.attribute[index]
    return plain


def _biases(space: Space) -> Iterator[tuple[gs.Tensor, tuple[slice, ...]]]:
    """Yield the bias inputs of the layer's Gemm nodes that may differ between rows, each with its first row.

    A bias with a row for each of the model's samples fits no other number of samples: the first row stands for all.
    """
    for product in (*(maker.dense for maker in space.producers), *(consumer.dense for consumer, _ in space.consumers)):
        bias = product.third()
        if bias is not None:
            size = len(product.document.constant_shape(bias) or ())
            if size == 2 or (size == 1 and product.axes.axis != -1):
                first = (slice(None) if i - size == product.axes.axis else slice(1) for i in range(size))
                yield bias, tuple(first)


def _constant(document: Document, tensor: gs.Tensor, graph: onnx.GraphProto, part: tuple[slice, ...] | None) -> None:
    """Add a constant operand as an initializer, once."""
    if any(have.name == tensor.name for have in graph.initializer):
        return
    numbers = document.constant(tensor)
    assert numbers is not None, tensor.name
    graph.initializer.append(numpy_helper.from_array(numbers if part is None else numbers[part], tensor.name))
