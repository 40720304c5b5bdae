"""ModelProto <-> Document, by patching the original messages.

The law: encode(decode(m)) == m for every readable model, unsorted and invalid ones too. What was not edited is written
back as the very message it came from; what was edited is that message with the edited fields replaced.
"""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import helper, numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.importers.onnx_importer import import_onnx
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger.logger import G_LOGGER, LoggerSuppress

from onnx_coreset.edge.light import copied
from onnx_coreset.graph.model.document import Document, Origin, Scope, Shape
from onnx_coreset.graph.model.skeleton import skeleton

_QUIET = threading.Lock()
_SILENT = 1_000
_KEPT = ("doc_string", "metadata_props")


def decode(model: onnx.ModelProto, constant_inputs: bool = False) -> Document:
    """Open a model for finding and editing.

    Args:
        model: Any model whose tensors are inline, or refer to their files; it is kept, not copied, and never changed.
        constant_inputs: Treat initializers that are also graph inputs as constants, whatever the IR version.

    Returns:
        The document. O(nodes); no tensor is copied.
    """
    with _QUIET, LoggerSuppress(G_LOGGER, _SILENT):
        graph = import_onnx(skeleton(model))
    scopes: list[Scope] = []
    origins: dict[int, Origin] = {}
    constants: dict[int, onnx.TensorProto] = {}
    names: set[str] = set()
    _scan(model.graph, graph, (), (), (scopes, origins, constants, names))
    overridable: set[str] = set()
    if model.ir_version >= 4 and not constant_inputs:
        inputs = {value.name for value in model.graph.input}
        overridable = {t.name for t in model.graph.initializer if t.name in inputs}
    return Document(model, tuple(scopes), origins, constants, frozenset(overridable), names)


_Found = tuple[list[Scope], dict[int, Origin], dict[int, onnx.TensorProto], set[str]]


def _scan(
    proto: onnx.GraphProto,
    graph: gs.Graph,
    path: tuple[tuple[int, str], ...],
    outer: tuple[tuple[dict[str, onnx.TensorProto], dict[str, gs.Tensor]], ...],
    found: _Found,
) -> None:
    scopes, origins, constants, names = found
    held: dict[str, onnx.TensorProto] = {}
    for initializer in proto.initializer:
        held.setdefault(initializer.name, initializer)
    tensors: dict[str, gs.Tensor] = {t.name: t for t in (*graph.inputs, *graph.outputs)}
    visible = ((held, tensors), *outer)
    names.update(held, tensors, (v.name for v in proto.value_info))
    at = len(scopes)
    scopes.append(Scope(graph, path, tensors, {}))
    for position, (message, node) in enumerate(zip(proto.node, graph.nodes, strict=True)):
        snapshot = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in node.attrs.items())
        origins[id(node)] = Origin(position, tuple(message.input), tuple(message.output), snapshot)
        names.update((message.name, *message.input, *message.output))
        for tensor in node.outputs:
            tensors[tensor.name] = tensor
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and id(tensor) not in constants:
                home = next((level for level in visible if tensor.name in level[0]), None)
                if home is not None:
                    constants[id(tensor)] = home[0][tensor.name]
                    home[1][tensor.name] = tensor
        for attribute in message.attribute:
            value = node.attrs.get(attribute.name)
            if isinstance(value, gs.Constant):
                constants[id(value)] = attribute.t
            elif isinstance(value, gs.Graph):
                _scan(attribute.g, value, (*path, (position, attribute.name)), visible, found)
    scopes[at].shapes.update({name: _shape(tensor) for name, tensor in tensors.items()})


def _shape(tensor: gs.Tensor) -> Shape | None:
    return None if tensor.shape is None else tuple(tensor.shape)


def encode(document: Document, spent: bool = False) -> onnx.ModelProto:
    """Return the model that the document now describes.

    Args:
        document: What `decode` returned, edited or not.
        spent: Whether the document is of no use afterwards: its new numbers are dropped as soon as they are written.

    Returns:
        A new model: the original one with what was edited replaced, new nodes and tensors added, and initializers that
        no node reads any more, though one did, removed. O(bytes of the result).
    """
    unread = _unread(document)
    model = _copy(document, unread)
    # Inner graphs first: patching an outer list of nodes copies the nodes, inner graphs included.
    for scope in reversed(document.scopes):
        _patch(document, scope, _message(model, scope.path), unread, spent)
    return model


def _copy(document: Document, unread: set[str]) -> onnx.ModelProto:
    """Return a copy of the original model; raw data that will be replaced or dropped are left out where they can be."""
    proto = document.proto
    if any(len(UnknownFieldSet(message)) for message in (proto, proto.graph, *proto.graph.initializer)):
        # Fields of a later ONNX go into copies of whole messages only.
        model = onnx.ModelProto()
        model.CopyFrom(proto)
        return model
    useless = _edited(document, document.scopes[0]).keys() | unread
    return copied(proto, lambda tensor, target: tensor.name in useless)


def _message(model: onnx.ModelProto, path: tuple[tuple[int, str], ...]) -> onnx.GraphProto:
    graph = model.graph
    for position, name in path:
        graph = next(a for a in graph.node[position].attribute if a.name == name).g
    return graph


def _patch(document: Document, scope: Scope, graph: onnx.GraphProto, unread: set[str], spent: bool) -> None:
    new = _patch_constants(document, scope, graph, unread, spent)
    _patch_nodes(document, scope, graph)
    if new and document.proto.ir_version < 4 and not scope.path:
        # Before IR version 4 an initializer had to be listed among the inputs.
        graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in new)
    contradicted = {value.name for value in graph.value_info if _contradicts(scope, value)}
    for index in reversed([i for i, value in enumerate(graph.value_info) if value.name in contradicted]):
        del graph.value_info[index]
    for field in (graph.value_info, graph.input, graph.output):
        for value in field:
            _patch_shape(document, scope, value)


def _contradicts(scope: Scope, value: onnx.ValueInfoProto) -> bool:
    """Return whether a tensor that was narrowed is declared with another rank, too: nobody knows which one is meant."""
    tensor, before = scope.tensors.get(value.name), scope.shapes.get(value.name)
    if tensor is None or tensor.shape is None or before is None or before == tuple(tensor.shape):
        return False
    shape = value.type.tensor_type.shape
    return value.type.tensor_type.HasField("shape") and len(shape.dim) != len(before)


def _patch_shape(document: Document, scope: Scope, value: onnx.ValueInfoProto) -> None:
    tensor = scope.tensors.get(value.name)
    if tensor is None or tensor.shape is None or not value.type.tensor_type.HasField("shape"):
        return
    before, after = scope.shapes.get(value.name), tuple(tensor.shape)
    dims = value.type.tensor_type.shape.dim
    for axis, length in document.shapes.narrowed(tensor).items():
        # Declared twice, with a size and with a name for it, the name may be all that was decoded.
        if len(dims) == len(after) and dims[axis].HasField("dim_value"):
            dims[axis].dim_value = length
    if before is None or before == after or len(before) != len(dims):
        return
    if len(before) != len(after):
        # A bias of one number became a vector.
        del dims[:]
        dims.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in after)
        return
    for dim, old, size in zip(dims, before, after, strict=True):
        if old != size and isinstance(size, int):
            dim.dim_value = size


def _patch_constants(
    document: Document, scope: Scope, graph: onnx.GraphProto, unread: set[str], spent: bool
) -> list[onnx.TensorProto]:
    """Write edited initializers, add new ones, drop those that lost their last reader; return the new ones."""
    edited, gone = _edited(document, scope), {t.name for t in graph.initializer} & unread
    times = Counter(message.name for message in graph.initializer)
    for message in graph.initializer:
        if message.name in edited and message.name not in gone:
            _store(document, edited[message.name], message, spent and times[message.name] == 1)
    lost = [i for i, t in enumerate(graph.initializer) if t.name in gone]
    made = {t.name for node in scope.graph.nodes for t in node.outputs}
    gone |= {name for node in graph.node for name in node.output} - made
    for index in reversed(lost):
        del graph.initializer[index]
    for field in (graph.input, graph.value_info) if gone else ():
        for index in reversed([i for i, v in enumerate(field) if v.name in gone]):
            del field[index]
    read = (t for node in scope.graph.nodes for t in node.inputs if isinstance(t, gs.Constant))
    fresh = {t.name: t for t in read if id(t) not in document.constants}
    for tensor in fresh.values():
        _store(document, tensor, graph.initializer.add(), spent)
    return list(graph.initializer[len(graph.initializer) - len(fresh) :])


def _edited(document: Document, scope: Scope) -> dict[str, gs.Constant]:
    """Return the edited constants of a scope by name."""
    constants = (t for t in scope.tensors.values() if isinstance(t, gs.Constant))
    return {t.name: t for t in constants if isinstance(t._values, np.ndarray) or id(t) in document.away}


def _unread(document: Document) -> set[str]:
    """Return the names that some node read and none reads any more; once for all graphs: there may be thousands."""
    used = {t.name for s in document.scopes for t in s.graph.outputs}
    for _, node in document.nodes():
        used.update(t.name for t in node.inputs)
    return {name for origin in document.origins.values() for name in origin.inputs} - used


def _store(document: Document | None, tensor: gs.Constant, message: onnx.TensorProto, spent: bool = False) -> None:
    """Let `message` hold a constant's numbers, or say where they were put away; its doc string and metadata stay."""
    values = tensor._values
    if document is not None and not isinstance(values, np.ndarray):
        replacement = document.away[id(tensor)][1]
    elif values.dtype.kind in "fiub":
        # The bytes go straight into the message: they may be many.
        replacement = onnx.TensorProto(dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
    else:
        replacement = numpy_helper.from_array(values)
    for field in message.DESCRIPTOR.fields:
        if field.name not in _KEPT:
            message.ClearField(field.name)
    if not message.doc_string:
        message.ClearField("doc_string")
    message.MergeFrom(replacement)
    message.name = tensor.name
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        message.raw_data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    if spent:
        tensor._values = LazyValues(message)


def _patch_nodes(document: Document, scope: Scope, graph: onnx.GraphProto) -> None:
    nodes = scope.graph.nodes
    origins = [document.origins.get(id(node)) for node in nodes]
    order = [None if origin is None else origin.position for origin in origins]
    for node, origin in zip(nodes, origins, strict=True):
        if origin is not None:
            _patch_node(node, origin, graph.node[origin.position])
    if order == list(range(len(graph.node))):
        return
    messages = []
    for node, position in zip(nodes, order, strict=True):
        message = onnx.NodeProto()
        message.CopyFrom(OnnxExporter.export_node(node) if position is None else graph.node[position])
        messages.append(message)
    del graph.node[:]
    graph.node.extend(messages)


def _patch_node(node: gs.Node, origin: Origin, message: onnx.NodeProto) -> None:
    for tensors, before, field in (
        (node.inputs, origin.inputs, message.input),
        (node.outputs, origin.outputs, message.output),
    ):
        names = tuple(t.name for t in tensors)
        if names != before:
            del field[:]
            field.extend(names)
    if node.op != message.op_type:
        message.op_type, message.domain = node.op, node.domain or ""
    was = dict(origin.attributes)
    for name in was.keys() - node.attrs.keys():
        _drop_attribute(message, name)
    for name, value in node.attrs.items():
        if isinstance(value, gs.Graph):
            continue
        if isinstance(value, gs.Constant):
            if isinstance(value._values, np.ndarray):
                kept = next((a.t for a in message.attribute if a.name == name), onnx.TensorProto())
                tensor = onnx.TensorProto()
                tensor.CopyFrom(kept)
                _store(None, value, tensor)
                tensor.name = kept.name if isinstance(kept.name, str) else ""
                _drop_attribute(message, name)
                message.attribute.append(onnx.helper.make_attribute(name, tensor))
        elif _differs(tuple(value) if isinstance(value, list) else value, was.get(name)):
            _drop_attribute(message, name)
            message.attribute.append(onnx.helper.make_attribute(name, value))


def _differs(value: object, before: object) -> bool:
    """Return whether an attribute was replaced; a NaN that is the same object was not."""
    return value is not before and value != before


def _drop_attribute(message: onnx.NodeProto, name: str) -> None:
    for index in reversed([i for i, a in enumerate(message.attribute) if a.name == name]):
        del message.attribute[index]
