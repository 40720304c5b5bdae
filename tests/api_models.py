"""Models that a stranger brings, for the tests of a whole run: made by hand, or the trained ones of models/."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

LENET = Path(__file__).resolve().parents[1] / "models" / "lenet_300_100.onnx"
INFO = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(ml_dtypes.bfloat16): TensorProto.BFLOAT16,
}


def weights(sizes: Sequence[int], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (n, d) and biases (n,) of a perceptron, of the scale that training starts from."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, d)) * np.sqrt(2 / d), 0.3 * rng.standard_normal(n)) for d, n in pairwise(sizes)]


def mlp(
    sizes: Sequence[int],
    seed: int = 0,
    activation: str = "Relu",
    dtype: Any = np.float32,
    bias: bool = True,
    layers: list[tuple[np.ndarray, np.ndarray]] | None = None,
) -> onnx.ModelProto:
    """A perceptron x -> h0 -> ... -> y; without `bias` its layers are MatMul, else Gemm."""
    nodes, tensors, last = [], [], "x"
    layers = weights(sizes, seed) if layers is None else layers
    for i, (w, b) in enumerate(layers):
        out = "y" if i == len(layers) - 1 else f"t{i}"
        tensors.append(numpy_helper.from_array((w if bias else w.T).astype(dtype), f"w{i}"))
        if bias:
            tensors.append(numpy_helper.from_array(b.astype(dtype), f"b{i}"))
            nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [out], transB=1))
        else:
            nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [out]))
        if out != "y":
            nodes.append(helper.make_node(activation, [out], [f"h{i}"]))
            last = f"h{i}"
    kind = INFO[np.dtype(dtype)]
    ends = [helper.make_tensor_value_info(n, kind, ["N", s]) for n, s in (("x", sizes[0]), ("y", sizes[-1]))]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def built(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[int | str]]],
    outputs: dict[str, tuple[int, Sequence[int | str] | None]],
    tensors: dict[str, np.ndarray],
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of the parts that a test writes down; inputs and outputs as (element type, shape)."""
    ends = [[helper.make_tensor_value_info(n, t, s) for n, (t, s) in side.items()] for side in (inputs, outputs)]
    values = [numpy_helper.from_array(v, n) for n, v in tensors.items()]
    graph = helper.make_graph(list(nodes), "g", ends[0], ends[1], values)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def with_nodes(
    model: onnx.ModelProto, *nodes: onnx.NodeProto, outputs: dict[str, int] | None = None
) -> onnx.ModelProto:
    """The model with more nodes at its end and more outputs (name: element type, shapes left open)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(nodes)
    for name, kind in (outputs or {}).items():
        copy.graph.output.append(helper.make_tensor_value_info(name, kind, [f"{name}{i}" for i in range(2)]))
    return copy


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    """An initializer by name, in its own dtype."""
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """LeNet with every hidden neuron twice: its rows repeated, what it gives halved."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name != "0.weight" and values.ndim == 2:
            values = np.repeat(values, 2, axis=1) / 2
        if not tensor.name.startswith("4."):
            values = np.repeat(values, 2, axis=0)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return copy


def run(model: onnx.ModelProto, x: np.ndarray | dict[str, np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """All outputs on the CPU, by one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = x if isinstance(x, dict) else {session.get_inputs()[0].name: x}
    return list(session.run(None, feed))


def widths(report: Any) -> dict[str, int | None]:
    """Width after the cut, by chain."""
    return {chain.name: chain.width_after for chain in report.chains}


def codes(report: Any) -> dict[str, str | None]:
    """Why a chain is not narrower, by chain."""
    return {chain.name: chain.code for chain in report.chains}
