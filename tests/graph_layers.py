"""Small graphs written node by node, for what the generator of spellings does not vary."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space, spaces

RNG = np.random.default_rng(0)
SIZES = {"A": (3, 6), "B": (6, 5), "C": (5, 4), "S": (6, 6), "a": (6,), "b": (5,)}


def array(*shape: int, dtype: str = "f4") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def model(
    *nodes: onnx.NodeProto | str,
    outputs: str = "y",
    inputs: dict[str, list[int | str]] | None = None,
    opset: int = 17,
    ir: int = 8,
    infer: bool = True,
    infos: bool = False,
    **tensors: np.ndarray,
) -> onnx.ModelProto:
    """Return a model of nodes such as "h = MatMul(x, A)"; A, B, C, S, a and b are weights, x is (N, 3).

    `infer` declares the outputs' shapes, `infos` every tensor's.
    """
    made = [parsed(n) if isinstance(n, str) else n for n in nodes]
    known = {**{name: array(*shape) for name, shape in SIZES.items()}, **tensors}
    read = {name for node in made for name in node.input} | captured(made)
    inputs = {"x": ["N", 3]} if inputs is None else inputs
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs.split()],
        [numpy_helper.from_array(v, k) for k, v in known.items() if k in read and (k in tensors or k in SIZES)],
    )
    built = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])
    if infer or infos:
        inferred = shape_inference.infer_shapes(built)
        for end, known_end in zip(built.graph.output, inferred.graph.output, strict=True):
            end.CopyFrom(known_end)
        return inferred if infos else built
    return built


def captured(nodes: list[onnx.NodeProto]) -> set[str]:
    graphs = [a.g for n in nodes for a in n.attribute if a.HasField("g")]
    return {name for g in graphs for n in g.node for name in n.input}


def parsed(text: str, **attributes: object) -> onnx.NodeProto:
    """Return the node that "y, mask = Op(a, b, )" says."""
    left, right = text.split(" = ")
    op, _, inputs = right.rstrip(")").partition("(")
    names = [name.strip() for name in inputs.split(",")] if inputs else []
    return helper.make_node(op, names, [name.strip() for name in left.split(",")], **attributes)


def found(proto: onnx.ModelProto, constant_inputs: bool = False) -> tuple[Document, list[Space], dict[str, Skip]]:
    """Return the document, its spaces, and its skips by the tensor they are about."""
    document = decode(proto, constant_inputs)
    both = list(spaces(document))
    return document, [s for s in both if isinstance(s, Space)], {s.where: s for s in both if isinstance(s, Skip)}
