"""Sizes of a model: parameters and multiplications."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

import onnx
from onnx import shape_inference

from onnx_coreset.graph.model.skeleton import skeleton


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and every subgraph of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def parameters(model: onnx.ModelProto) -> int:
    """Return how many numbers the initializers and Constant nodes of `model` hold."""
    total = 0
    for graph in graphs(model.graph):
        total += sum(math.prod(tensor.dims) for tensor in graph.initializer)
        for node in graph.node:
            if node.op_type == "Constant":
                total += sum(math.prod(a.t.dims) for a in node.attribute if a.type == onnx.AttributeProto.TENSOR)
    return total


def macs(model: onnx.ModelProto) -> int:
    """Return the multiplications of Gemm, MatMul and Conv nodes with constant weights, for one run of one sample.

    Sizes that are not known count as one, so that models with free axes can be compared with each other.
    """
    bare = skeleton(model)
    # Inference is a courtesy here: without it, sizes that are not declared count as one.
    with suppress(Exception):
        bare = shape_inference.infer_shapes(bare)
    total = 0
    for graph in graphs(bare.graph):
        shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        shapes |= {
            a.t.name or n.output[0]: list(a.t.dims) for n in graph.node if n.op_type == "Constant" for a in n.attribute
        }
        made = {v.name: _sizes(v) for v in (*graph.value_info, *graph.output)}
        for node in graph.node:
            if node.op_type in ("Gemm", "MatMul", "Conv", "ConvTranspose") and len(node.input) > 1:
                weight = next((shapes[name] for name in node.input[:2] if name in shapes), None)
                if weight is not None:
                    total += math.prod(weight) * _repeats(node, made.get(node.output[0], []), weight)
    return total


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value if dim.dim_value > 0 else 1 for dim in value.type.tensor_type.shape.dim]


def _repeats(node: onnx.NodeProto, output: list[int], weight: list[int]) -> int:
    """Return how often each weight is used in one run."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(output[2:])
    return math.prod(output[:-1])
