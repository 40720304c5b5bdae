"""A model opened for finding and editing: the original messages, and a graph of nodes and tensors over them.

The graph is for walking (`tensor.outputs` are readers, `tensor.inputs` the writer) and for editing; the numbers stay in
the original messages, or where these say, until somebody assigns new ones. A constant is *edited* exactly when it holds
an array, or one that was put away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx_coreset.edge import ranges
from onnx_coreset.graph.model.shapes import Shapes
from onnx_coreset.graph.model.sources import Change, Move, Numbers, Source, move, moving_node

__all__ = ["Document", "Numbers", "Origin", "Scope", "Shape", "constant_node"]

Shape = tuple[int | str | None, ...]

_KINDS = frozenset(helper.get_all_tensor_dtypes())


@dataclass(frozen=True)
class Origin:
    """Where a node of the graph came from.

    Attributes:
        position: Its index in the list of nodes of its graph message.
        inputs: Names of its inputs as they were.
        outputs: Names of its outputs as they were.
        attributes: Its attributes as they were, lists as tuples.
    """

    position: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Scope:
    """One graph: the main one, or a subgraph of a node.

    Attributes:
        graph: The graph to walk and edit.
        path: How to find its message: (node index, attribute name) from the main graph inwards.
        tensors: Its tensors by name, as decoded, captured ones of outer graphs excluded.
        shapes: The shapes of those tensors as decoded.
    """

    graph: gs.Graph
    path: tuple[tuple[int, str], ...]
    tensors: dict[str, gs.Tensor]
    shapes: dict[str, Shape | None]


@dataclass(frozen=True)
class Document:
    """A model opened for finding and editing.

    Attributes:
        proto: The original model; never changed.
        scopes: The main graph first, then subgraphs, outer before inner.
        origins: Where each decoded node came from, by its identity.
        constants: The original tensor message of each decoded constant, by its identity.
        overridable: Names of initializers that a caller of the model may replace at run time.
        names: Every name in use, so that a fresh one can be made.
        away: New messages of edited constants whose numbers were put away, by the constant's identity, which it holds.
    """

    proto: onnx.ModelProto
    scopes: tuple[Scope, ...]
    origins: dict[int, Origin]
    constants: dict[int, onnx.TensorProto]
    overridable: frozenset[str]
    names: set[str] = field(repr=False)
    away: dict[int, tuple[gs.Constant, onnx.TensorProto]] = field(default_factory=dict, repr=False)

    @property
    def graph(self) -> gs.Graph:
        """The main graph."""
        return self.scopes[0].graph

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes of all tensors, inferred where none is declared."""
        return Shapes(self.proto, [(scope.path, scope.tensors) for scope in self.scopes])

    @property
    def opset(self) -> int:
        """Version of the standard operators, 1 where the model names none."""
        versions = [o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")]
        return int(versions[0]) if versions else 1

    def scope_of(self, node: gs.Node) -> Scope | None:
        """Return the scope whose graph lists `node`, or None for a node that no graph lists."""
        return next((s for s in self.scopes if any(n is node for n in s.graph.nodes)), None)

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Return whether `tensor` is an output of any graph."""
        return any(o is tensor or o.name == tensor.name for s in self.scopes for o in s.graph.outputs)

    def constant(self, tensor: gs.Tensor) -> Numbers | None:
        """Return the numbers of a constant tensor in its own dtype, or None where they are only known at run time.

        Args:
            tensor: An initializer, the output of a Constant node, or what nodes that only move it make of either.
        """
        source = self.source(tensor)
        if source is None:
            return None
        stored = self._stored(source.root)
        return None if stored is None else source.forward(stored)

    def constant_shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Return the shape of a constant tensor without reading its numbers, or None where it is not constant."""
        source = self.source(tensor)
        return None if source is None else source.shape

    def source(self, tensor: gs.Tensor) -> Source | None:
        """Return where the numbers of a constant tensor are stored, or None where they are only known at run time."""
        nodes: list[gs.Node] = []
        while (node := moving_node(tensor)) is not None:
            nodes.append(node)
            tensor = node.inputs[0]
        held = self._held(tensor)
        if held is None:
            return None
        shape, dtype = held
        moves: list[Move] = []
        for node in reversed(nodes):
            step = move(node, shape, dtype, self.constant)
            if step is None:
                return None
            moves.append(step)
            shape, dtype = step.after, step.dtype
        return Source(tensor, tuple(moves), shape, dtype)

    def _held(self, tensor: gs.Tensor) -> tuple[tuple[int, ...], np.dtype[np.generic]] | None:
        """Return shape and dtype of an initializer or of a Constant node's output, or None."""
        if isinstance(tensor, gs.Constant) and tensor.name in self.overridable:
            return None
        node = constant_node(tensor)
        held = tensor if node is None else node.attrs.get("value")
        if isinstance(held, gs.Constant):
            if isinstance(held._values, np.ndarray):
                return tuple(held._values.shape), held._values.dtype
            origin = self.message(held)
            if origin is None or origin.data_type not in _KINDS:
                return None
            return tuple(int(d) for d in held.shape), np.dtype(helper.tensor_dtype_to_np_dtype(origin.data_type))
        numbers = self._stored(tensor)
        return None if numbers is None else (tuple(numbers.shape), numbers.dtype)

    def _stored(self, tensor: gs.Tensor) -> Numbers | None:
        """Return the numbers of an initializer or of a Constant node's output."""
        if isinstance(tensor, gs.Constant):
            if isinstance(tensor._values, np.ndarray):
                return tensor._values
            origin = self.message(tensor)
            return None if origin is None else ranges.numbers(origin)
        node = constant_node(tensor)
        if node is None:
            return None
        held = node.attrs.get("value")
        if isinstance(held, gs.Constant):
            return self._stored(held)
        for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
            if name in node.attrs:
                return np.asarray(node.attrs[name], dtype=dtype)
        return None

    def message(self, tensor: gs.Constant) -> onnx.TensorProto | None:
        """Return the message that holds a constant's numbers or says where they are; None for one made by an edit."""
        return self.away[id(tensor)][1] if id(tensor) in self.away else self.constants.get(id(tensor))

    def put_away(self, store: Callable[[str, Numbers], onnx.TensorProto | None]) -> None:
        """Give numbers of edited initializers to `store`, which returns a message that says where they are, or None."""
        for _, node in self.nodes():
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant) and isinstance(tensor._values, np.ndarray):
                    message = store(tensor.name, tensor._values)
                    if message is not None:
                        self.away[id(tensor)] = tensor, message
                        tensor._values = LazyValues(message)

    def fresh(self, stem: str) -> str:
        """Return a name that nothing in the model has, made from `stem`, and reserve it."""
        name, count = stem, 0
        while name in self.names:
            count += 1
            name = f"{stem}_{count}"
        self.names.add(name)
        return name

    def shared(self, node: gs.Node, index: int) -> bool:
        """Return whether anything but input `index` of `node` reads that input's numbers, moved or not."""
        source = self.source(node.inputs[index])
        between = () if source is None else (source.root, *(step.node.inputs[0] for step in source.moves))
        return any(len(t.outputs) > 1 or self.is_output(t) for t in (node.inputs[index], *between))

    def assign(self, node: gs.Node, index: int, numbers: Numbers) -> None:
        """Make `numbers` the constant that input `index` of `node` reads.

        A stored constant is edited in place, through the nodes that move it. One with other readers is left to them,
        and `node` gets a constant of its own under a fresh name; nodes that made only the old one are removed.

        Args:
            node: The reader.
            index: Which of its inputs, or one past the end; what is no constant is left alone, and replaced here.
            numbers: The new values, in the dtype of the tensor read; one that is stored in another keeps that.
        """
        numbers = np.ascontiguousarray(numbers).reshape(numbers.shape)
        tensor = node.inputs[index] if index < len(node.inputs) else None
        source = None if tensor is None else self.source(tensor)
        if tensor is None or source is None:
            stem = f"{node.outputs[0].name}_constant"
            self.attach(node, index, gs.Constant(self.fresh(stem), numbers))
            return
        found = None if self.shared(node, index) else source.backward(numbers, self.constant)
        if found is None:
            self.attach(node, index, gs.Constant(self.fresh(tensor.name), numbers))
            self._release(tensor)
            return
        stored, changes = found
        self._replace(source.root, np.ascontiguousarray(stored).reshape(stored.shape))
        self._adapt(changes)

    @staticmethod
    def _replace(root: gs.Tensor, numbers: Numbers) -> None:
        """Store `numbers` in an initializer or a Constant node."""
        if isinstance(root, gs.Constant):
            root.values = numbers
            return
        holder = constant_node(root)
        assert holder is not None
        held = holder.attrs.get("value")
        if isinstance(held, gs.Constant):
            held.values = numbers
        else:
            holder.attrs.clear()
            holder.attrs["value"] = gs.Constant(root.name, numbers)
        root.shape = list(numbers.shape)

    def _adapt(self, changes: tuple[Change, ...]) -> None:
        """Tell the nodes between a constant and its reader the sizes it now has."""
        for change in changes:
            if change.target is not None:
                self.assign(change.node, 1, np.asarray(change.target, dtype=np.int64))
            if change.node.outputs[0].shape is not None:
                change.node.outputs[0].shape = list(change.shape)

    def _release(self, tensor: gs.Tensor) -> None:
        """Remove the nodes that made the constant `tensor`, as far as nothing else reads what they make."""
        writer = moving_node(tensor) or constant_node(tensor)
        if writer is None or tensor.outputs or self.is_output(tensor):
            return
        scope = self.scope_of(writer)
        assert scope is not None
        del scope.graph.nodes[next(i for i, n in enumerate(scope.graph.nodes) if n is writer)]
        read = list(writer.inputs)
        writer.inputs.clear()
        writer.outputs.clear()
        for other in read:
            self._release(other)

    @staticmethod
    def attach(node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Make `tensor` input `index` of `node`, filling omitted optional inputs before it."""
        while len(node.inputs) < index:
            node.inputs.append(gs.Variable.empty())
        if index < len(node.inputs):
            node.inputs[index] = tensor
        else:
            node.inputs.append(tensor)

    def nodes(self) -> Iterator[tuple[Scope, gs.Node]]:
        """Yield every node of every graph with its scope."""
        for scope in self.scopes:
            for node in scope.graph.nodes:
                yield scope, node


def constant_node(tensor: gs.Tensor) -> gs.Node | None:
    """Return the Constant node that writes `tensor`, or None."""
    if isinstance(tensor, gs.Variable) and len(tensor.inputs) == 1:
        node = tensor.inputs[0]
        if node.op == "Constant" and node.domain in (None, "", "ai.onnx"):
            return node
    return None
