"""Sizes of a model: parameters and multiplications."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

import onnx
from onnx import shape_inference

from onnx_coreset.graph.model.skeleton import skeleton

_MOVES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_PRODUCTS = frozenset(
    {"Conv", "ConvTranspose", "Einsum", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "TransposeMatMul", "FusedConv"}
)


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
    """Return the multiplications of linear operators with constant weights, for one run of one sample.

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
            if node.op_type in _MOVES and node.input and node.input[0] in shapes:
                # Moved weights are weights of as many numbers; where they stand, only shape inference knows.
                shapes[node.output[0]] = made.get(node.output[0]) or shapes[node.input[0]]
            elif node.op_type in _PRODUCTS and len(node.input) > 1:
                constant = [index for index, name in enumerate(node.input[:2]) if name in shapes]
                if len(constant) == 1:
                    weight = shapes[node.input[constant[0]]]
                    total += math.prod(weight) * _repeats(node, constant[0], made.get(node.output[0], []))
    return total


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value if dim.dim_value > 0 else 1 for dim in value.type.tensor_type.shape.dim]


def _repeats(node: onnx.NodeProto, weight: int, output: list[int]) -> int:
    """Return how often each weight is used in one run."""
    if node.op_type in ("Conv", "ConvTranspose", "FusedConv"):
        return math.prod(output[2:])
    if node.op_type == "Einsum":
        equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
        terms, _, result = equation.replace(" ", "").replace("...", "").partition("->")
        matrix = terms.split(",")[weight]
        return math.prod(
            n for n, letter in zip(reversed(output), reversed(result), strict=False) if letter not in matrix
        )
    # The weight on the left makes rows: each is used for every column.
    return math.prod(output[:-1]) if weight == 1 else math.prod((*output[:-2], *output[-1:]))
