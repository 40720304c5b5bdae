"""A model opened for finding and editing: the original messages, and a graph of nodes and tensors over them.

The graph is for walking (`tensor.outputs` are readers, `tensor.inputs` the writer) and for editing; the numbers stay in
the original messages until somebody assigns new ones. A constant is *edited* exactly when it holds an array.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper

Numbers = NDArray[np.generic]
Shape = tuple[int | str | None, ...]


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
    """

    proto: onnx.ModelProto
    scopes: tuple[Scope, ...]
    origins: dict[int, Origin]
    constants: dict[int, onnx.TensorProto]
    overridable: frozenset[str]
    names: set[str] = field(repr=False)

    @property
    def graph(self) -> gs.Graph:
        """The main graph."""
        return self.scopes[0].graph

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
            tensor: An initializer, or the output of a Constant node.
        """
        if isinstance(tensor, gs.Constant):
            if tensor.name in self.overridable:
                return None
            if isinstance(tensor._values, np.ndarray):
                return tensor._values
            origin = self.constants.get(id(tensor))
            return None if origin is None else numpy_helper.to_array(origin)
        node = constant_node(tensor)
        if node is None:
            return None
        held = node.attrs.get("value")
        if isinstance(held, gs.Constant):
            return self.constant(held)
        for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
            if name in node.attrs:
                return np.asarray(node.attrs[name], dtype=dtype)
        return None

    def constant_shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Return the shape of a constant tensor without reading its numbers, or None where it is not constant."""
        if isinstance(tensor, gs.Constant):
            return None if tensor.name in self.overridable else tuple(int(d) for d in tensor.shape)
        node = constant_node(tensor)
        if node is not None and isinstance(node.attrs.get("value"), gs.Constant):
            return tuple(int(d) for d in node.attrs["value"].shape)
        numbers = self.constant(tensor)
        return None if numbers is None else tuple(numbers.shape)

    def fresh(self, stem: str) -> str:
        """Return a name that nothing in the model has, made from `stem`, and reserve it."""
        name, count = stem, 0
        while name in self.names:
            count += 1
            name = f"{stem}_{count}"
        self.names.add(name)
        return name

    def shared(self, node: gs.Node, index: int) -> bool:
        """Return whether anything but input `index` of `node` reads that input's numbers."""
        tensor = node.inputs[index]
        return len(tensor.outputs) > 1 or self.is_output(tensor)

    def assign(self, node: gs.Node, index: int, numbers: Numbers) -> None:
        """Make `numbers` the constant that input `index` of `node` reads.

        A constant with other readers is left to them, and `node` gets a copy of its own under a fresh name.

        Args:
            node: The reader.
            index: Which of its inputs, or one past the end; what is no constant is left alone, and replaced here.
            numbers: The new values, in the dtype to be stored.
        """
        numbers = np.ascontiguousarray(numbers).reshape(numbers.shape)
        tensor = node.inputs[index] if index < len(node.inputs) else None
        if tensor is None or self.constant_shape(tensor) is None:
            stem = f"{node.outputs[0].name}_constant"
            self.attach(node, index, gs.Constant(self.fresh(stem), numbers))
        elif self.shared(node, index):
            self.attach(node, index, gs.Constant(self.fresh(tensor.name), numbers))
        elif isinstance(tensor, gs.Constant):
            tensor.values = numbers
        else:
            holder = constant_node(tensor)
            assert holder is not None
            held = holder.attrs.get("value")
            if isinstance(held, gs.Constant):
                held.values = numbers
            else:
                holder.attrs.clear()
                holder.attrs["value"] = gs.Constant(tensor.name, numbers)
            tensor.shape = list(numbers.shape)

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
