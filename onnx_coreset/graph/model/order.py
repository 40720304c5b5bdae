"""Topological order of a model's nodes; graphs that have none are refused.

A node depends on the tensors it names and on those its subgraphs capture. Models whose nodes are in order are returned
as they are; the walk needs the order, and most runtimes do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import onnx

from onnx_coreset.errors import ModelError


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the nodes of every graph in topological order, ties broken by their present order.

    Args:
        model: Any model; it is not changed.

    Returns:
        The model itself where nothing has to move, otherwise a copy.

    Raises:
        ModelError: The graph has a cycle, or a node reads a tensor that nothing makes.
    """
    orders = _orders(model.graph, frozenset(), "the graph")
    if all(list(order) == list(range(len(order))) for order in orders):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _apply(copy.graph, iter(orders))
    return copy


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return found + [g for a in node.attribute if a.type == onnx.AttributeProto.GRAPHS for g in a.graphs]


def _known(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return names | {tensor.values.name for tensor in graph.sparse_initializer}


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node depends on, captures of its subgraphs included."""
    names = {name for name in node.input if name}
    for graph in _subgraphs(node):
        own = _known(graph) | {name for inner in graph.node for name in inner.output}
        for inner in graph.node:
            names |= _reads(inner) - own
        names |= {value.name for value in graph.output} - own
    return names


def _orders(graph: onnx.GraphProto, outer: frozenset[str], where: str) -> list[list[int]]:
    """Return an order for `graph` and then for its subgraphs, depth first in the order found."""
    known = _known(graph)
    maker: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name:
                maker.setdefault(name, index)
    waits = [set[int]() for _ in graph.node]
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in _reads(node):
            if name in maker and maker[name] != index:
                waits[index].add(maker[name])
            elif name in maker and name not in known:
                raise ModelError(f"{where} has a cycle: {node.op_type} reads its own output {name!r}")
            elif name not in known and name not in outer and name not in maker:
                raise ModelError(f"{where} is incomplete: {node.op_type} reads {name!r}, which nothing makes")
        for source in waits[index]:
            readers.setdefault(source, []).append(index)
    ready = [index for index, sources in enumerate(waits) if not sources]
    heapify(ready)
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            waits[reader].discard(index)
            if not waits[reader]:
                heappush(ready, reader)
    if len(order) != len(graph.node):
        stuck = next(graph.node[i] for i, sources in enumerate(waits) if sources and i not in set(order))
        raise ModelError(f"{where} has a cycle through {stuck.op_type} {stuck.name or list(stuck.output)!r}")
    visible = outer | known | maker.keys()
    inner = [_orders(g, visible, f"a subgraph of {n.op_type}") for n in graph.node for g in _subgraphs(n)]
    return [order, *(o for orders in inner for o in orders)]


def _apply(graph: onnx.GraphProto, orders: Iterator[list[int]]) -> None:
    order = next(orders)
    for node in graph.node:
        for inner in _subgraphs(node):
            _apply(inner, orders)
    if order != list(range(len(order))):
        messages = []
        for index in order:
            message = onnx.NodeProto()
            message.CopyFrom(graph.node[index])
            messages.append(message)
        del graph.node[:]
        graph.node.extend(messages)
