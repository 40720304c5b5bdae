"""Small models whose tensors lie where tensors can lie, for the tests of what reads and runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_coreset.edge.tensors import walk

OPSET = [helper.make_opsetid("", 17)]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def small(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="first"), helper.make_node("Relu", ["h"], ["y"])]
    weights = [numpy_helper.from_array(WEIGHTS, "w"), *tensors]
    graph = helper.make_graph(nodes, "g", [info("x", "N", 3)], [info("y", "N", 4)], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=OPSET)


def everywhere() -> onnx.ModelProto:
    """A model with a tensor in every place where one can be: names say where."""

    def tensor(name: str) -> onnx.TensorProto:
        return numpy_helper.from_array(WEIGHTS, name)

    def sparse(name: str) -> onnx.SparseTensorProto:
        indices = numpy_helper.from_array(np.arange(2, dtype=np.int64), f"{name}.indices")
        return helper.make_sparse_tensor(numpy_helper.from_array(WEIGHTS[0, :2], f"{name}.values"), indices, [4])

    inner = helper.make_graph(
        [helper.make_node("Identity", ["deep"], ["o"])], "inner", [], [info("o")], [tensor("deep")]
    )
    outer = helper.make_graph([helper.make_node("If", ["c"], ["o"], then_branch=inner)], "outer", [], [info("o")])
    outer.initializer.append(tensor("branch"))
    loose = onnx.AttributeProto(name="graphs", type=onnx.AttributeProto.GRAPHS)
    loose.graphs.append(helper.make_graph([], "loose", [], [], [tensor("in graphs")]))
    default = helper.make_attribute("d", tensor("default"))
    function = helper.make_function(
        "f", "F", [], ["o"], [helper.make_node("Constant", [], ["o"], value=tensor("body"))], OPSET
    )
    function.attribute_proto.append(default)
    model = small()
    model.functions.append(function)
    model.graph.node.extend(
        [
            helper.make_node("If", ["c"], ["i"], then_branch=outer),
            helper.make_node("Constant", [], ["v"], value=tensor("value")),
            helper.make_node("Constant", [], ["s"], sparse_value=sparse("attribute")),
            helper.make_node("Odd", [], ["l"], tensors=[tensor("list")], sparses=[sparse("sparses")]),
        ]
    )
    model.graph.node[-1].attribute.append(loose)
    model.graph.sparse_initializer.append(sparse("initializer"))
    model.training_info.add().algorithm.initializer.append(tensor("training"))
    return model


def externalise(model: onnx.ModelProto, name: str = "weights.data") -> bytes:
    """Moves every tensor's bytes out, in the order of the walk; the content for the data file."""
    content = b""
    for place in walk(model):
        tensor, raw = place.tensor, place.tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", len(content)), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        content += raw
    return content


def put(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
