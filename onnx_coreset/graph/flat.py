"""A layer alone whose region moves the neurons about, written on plain rows.

What moves neurons without touching them depends on sizes of the model around it. Here every tensor is a table, samples
by neurons: moves become Identity, constants vectors, and what takes some of the neurons, or another order, a Gather.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx_coreset.core.arrays import Indices
from onnx_coreset.graph.dense import Dense
from onnx_coreset.graph.model.document import Document, Numbers
from onnx_coreset.graph.rules.layout import Layout
from onnx_coreset.graph.rules.values import ConstantAt, Moved
from onnx_coreset.graph.space import Space

_FUSED = ("activation", "activation_alpha", "activation_beta", "activation_gamma")


def flat(document: Document, space: Space) -> onnx.GraphProto:
    """Return the graph of a layer on plain rows, with its input (rows, d) and its readouts' outputs.

    Args:
        document: An unedited document.
        space: A space of it.
    """
    return _Writer(document, space).graph()


class _Writer:
    def __init__(self, document: Document, space: Space) -> None:
        self._document, self._space = document, space
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def graph(self) -> onnx.GraphProto:
        space = self._space
        source = space.producer
        makers = {id(maker.dense.node): maker.dense for maker in space.producers}
        readers = {id(reader.dense.node): index for index, (reader, _) in enumerate(space.consumers)}
        scope = self._document.scope_of(source.dense.node)
        assert scope is not None
        members = {id(node) for node in space.nodes()}
        for node in (n for n in scope.graph.nodes if id(n) in members):
            if id(node) in makers:
                dense = makers[id(node)]
                self._product(dense, source.input.name, dense.stored, dense.output.name, True)
            elif id(node) in readers:
                self._readout(readers[id(node)])
            elif id(node) in space.region.moved:
                self._nodes.extend(self._move(node, space.region.moved[id(node)]))
            elif any(node is other for other in space.region.nodes):
                self._elementwise(node)
        kind = helper.np_dtype_to_tensor_dtype(source.dense.stored.dtype)
        given = [helper.np_dtype_to_tensor_dtype(reader.dense.stored.dtype) for reader, _ in space.consumers]
        return helper.make_graph(
            self._nodes,
            "layer",
            [helper.make_tensor_value_info(source.input.name, kind, ["rows", source.dense.inputs])],
            [
                helper.make_tensor_value_info(reader.output.name, element, None)
                for (reader, _), element in zip(space.consumers, given, strict=True)
            ],
            self._constants,
        )

    def _constant(self, name: str, numbers: Numbers) -> str:
        """Add a constant under `name`, or under another where that one holds something else."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(numbers).reshape(numbers.shape), name)
        while any(have.name == tensor.name and have != tensor for have in self._constants):
            tensor.name += "_"
        if all(have.name != tensor.name for have in self._constants):
            self._constants.append(tensor)
        return tensor.name

    def _product(self, dense: Dense, data: str, stored: Numbers, result: str, fused: bool) -> None:
        """Write a linear operator; one with a bias input as Gemm, any other as MatMul."""
        weights = stored.reshape(stored.shape[-2:])
        weights = weights.T if dense.axes.out_axis == -2 else weights
        if dense.alpha != 1.0:
            weights = np.multiply(weights.astype(np.float64), dense.alpha).astype(stored.dtype)
        inputs = [data, self._constant(dense.node.inputs[dense.weight].name, weights)]
        bias = dense.bias_input()
        activation = {name: dense.node.attrs[name] for name in _FUSED if fused and name in dense.node.attrs}
        if bias is None and not activation:
            self._nodes.append(helper.make_node("MatMul", inputs, [result]))
            return
        if bias is not None:
            numbers = self._document.constant(bias)
            assert numbers is not None
            inputs.append(self._constant(bias.name, self._row(numbers, dense.axes.axis)))
        op, domain = ("FusedGemm", dense.node.domain) if activation else ("Gemm", "")
        self._nodes.append(helper.make_node(op, inputs, [result], domain=domain, beta=dense.beta, **activation))

    @staticmethod
    def _row(numbers: Numbers, axis: int) -> Numbers:
        """Return what a bias adds to the first row, shape (k,) or (1,)."""
        place = tuple(slice(None) if index - numbers.ndim == axis else 0 for index in range(numbers.ndim))
        return np.asarray(numbers[place]).reshape(-1)

    def _readout(self, index: int) -> None:
        reader, layout = self._space.consumers[index][0], self._space.layouts[index]
        dense = reader.dense
        stored = np.take(dense.stored, layout.own, axis=dense.axes.in_axis)
        self._product(dense, reader.hidden.name, stored, dense.output.name, False)
        bias = reader.bias()
        if bias is not None and bias.node is not dense.node:
            numbers = self._document.constant(bias.node.inputs[bias.index])
            assert numbers is not None
            name = self._constant(bias.node.inputs[bias.index].name, self._row(numbers, dense.axes.axis))
            inputs = [name if i == bias.index else tensor.name for i, tensor in enumerate(bias.node.inputs)]
            self._nodes.append(helper.make_node(bias.node.op, inputs, [bias.node.outputs[0].name]))

    def _move(self, node: gs.Node, moved: Moved) -> Iterator[onnx.NodeProto]:
        """Yield what moves entries of the space's own: nothing but a Gather, a Concat or an Identity a result."""
        layouts = {id(t): at for (t, _), at in zip(self._space.region.tensors, self._space.region.layouts, strict=True)}
        held = [tensor for tensor in node.inputs if id(tensor) in layouts]
        for index, tensor in enumerate(node.outputs):
            if not tensor.name or id(tensor) not in layouts:
                continue
            if moved.joins and len(held) > 1:
                yield helper.make_node("Concat", [t.name for t in held], [tensor.name], axis=-1)
                continue
            taken = self._taken(layouts[id(held[0])], moved.entries[index]) if moved.entries else None
            if taken is None:
                yield helper.make_node("Identity", [held[0].name], [tensor.name])
            else:
                entries = self._constant(f"{tensor.name}_entries", taken)
                yield helper.make_node("Gather", [held[0].name, entries], [tensor.name], axis=-1)

    @staticmethod
    def _taken(source: Layout, entries: Indices) -> Numbers | None:
        """Return which of the space's own entries are taken, or None where they all are, in their order."""
        rank = np.cumsum(source.neurons >= 0) - 1
        taken = rank[entries[source.neurons[entries] >= 0]].astype(np.int64)
        return None if np.array_equal(taken, np.arange(source.own.size)) else taken

    def _elementwise(self, node: gs.Node) -> None:
        message = onnx.NodeProto()
        message.CopyFrom(message_of(self._document, node))
        vectors = {(id(at.node), at.index): at for at in self._space.region.constants()}
        for index, tensor in enumerate(node.inputs):
            if tensor.name and self._document.constant_shape(tensor) is not None:
                numbers = self._document.constant(tensor)
                assert numbers is not None
                values = self._vector(numbers, vectors.get((id(node), index)))
                message.input[index] = self._constant(tensor.name, values)
        self._nodes.append(message)

    def _vector(self, numbers: Numbers, at: ConstantAt | None) -> Numbers:
        if at is None or at.layout is None:
            return numbers.reshape(numbers.shape[-1:])
        return numbers.reshape(-1)[at.layout.own]


def message_of(document: Document, node: gs.Node) -> onnx.NodeProto:
    """Return the original message of a node."""
    origin = document.origins[id(node)]
    scope = document.scope_of(node)
    assert scope is not None
    graph = document.proto.graph
    for position, name in scope.path:
        graph = next(a for a in graph.node[position].attribute if a.name == name).g
    message: onnx.NodeProto = graph.node[origin.position]
    return message
