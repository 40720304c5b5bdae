"""Models with everything that ONNX allows and exporters or attackers write, for the law of the codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Oddity = Callable[[onnx.ModelProto], None]


def weights(name: str = "W", dtype: object = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.arange(12).reshape(3, 4).astype(dtype), name)


def info(name: str, *shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def base() -> onnx.ModelProto:
    """Return x -> MatMul W -> Add b -> Relu -> MatMul V -> y."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["t"], name="first"),
        helper.make_node("Add", ["t", "b"], ["u"]),
        helper.make_node("Relu", ["u"], ["h"]),
        helper.make_node("MatMul", ["h", "V"], ["y"], doc_string="the last"),
    ]
    tensors = [
        weights(),
        numpy_helper.from_array(np.ones(4, "f4"), "b"),
        numpy_helper.from_array(np.ones((4, 2), "f4"), "V"),
    ]
    graph = helper.make_graph(nodes, "main", [info("x", "N", 3)], [info("y", "N", 2)], tensors)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def _branch(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("MatMul", ["h", "V"], ["deep"])], "deep", [], [info("deep")])
    then = helper.make_graph(
        [helper.make_node("If", ["condition"], ["then"], then_branch=inner, else_branch=inner)],
        "then",
        [],
        [info("then")],
    )
    other = helper.make_graph(
        [helper.make_node("MatMul", ["x", "K"], ["else"])], "else", [], [info("else")], [weights("K")]
    )
    other.value_info.append(info("else", "N", 4))
    model.graph.input.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    model.graph.node.append(helper.make_node("If", ["condition"], ["i"], then_branch=then, else_branch=other))


def _loop(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Add", ["carried", "b"], ["next"]), helper.make_node("Identity", ["c"], ["go"])]
    ends = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    body = helper.make_graph(nodes, "body", [*ends, info("carried")], [go, info("next")])
    model.graph.node.append(helper.make_node("Loop", ["", "", "u"], ["looped"], body=body))


def _constants(model: onnx.ModelProto) -> None:
    sparse = helper.make_sparse_tensor(weights("v").__class__(), numpy_helper.from_array(np.arange(2), "i"), [4])
    kinds: dict[str, object] = {
        "value": weights("inside"),
        "value_float": float("nan"),
        "value_floats": [1.0, float("nan"), -0.0],
        "value_int": -3,
        "value_ints": [1, 2],
        "value_string": b"\xff\xfe",
        "value_strings": [b"a", b"\xff"],
        "sparse_value": sparse,
    }
    for kind, value in kinds.items():
        model.graph.node.append(helper.make_node("Constant", [], [f"constant_{kind}"], **{kind: value}))
    model.graph.node[-1].attribute[0].doc_string = "kept"


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(2, "f4"), "sparse")
    indices = numpy_helper.from_array(np.arange(2), "sparse_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    model.graph.node.append(helper.make_node("Add", ["t", "sparse"], ["s"]))


def _old(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    model.graph.input.extend(info(t.name, *t.dims) for t in model.graph.initializer)


def _annotations(model: onnx.ModelProto) -> None:
    model.doc_string, model.domain, model.model_version = "a model", "d", 7
    model.producer_name, model.producer_version = "p", "1"
    for holder in (model, model.graph, model.graph.node[0], model.graph.initializer[0], model.graph.input[0]):
        holder.metadata_props.add(key="k", value="v")
    model.graph.doc_string = model.graph.initializer[1].doc_string = model.graph.input[0].doc_string = "said"
    annotation = model.graph.quantization_annotation.add(tensor_name="W")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")


def _functions(model: onnx.ModelProto) -> None:
    node = helper.make_node("Scale", ["a"], ["o"], domain="own")
    node.attribute.add(name="factor", type=AttributeProto.FLOAT, ref_attr_name="factor")
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Outer", ["a"], ["o"], [node], opsets, ["factor"]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Outer", ["u"], ["f"], domain="own", factor=2.0))


def _attributes(model: onnx.ModelProto) -> None:
    node = helper.make_node("Odd", ["u", "", "b", ""], ["odd", "", ""], domain="own")
    node.attribute.add(name="nan", type=AttributeProto.FLOAT, f=float("nan"))
    node.attribute.add(name="bytes", type=AttributeProto.STRING, s=b"\xff\x00")
    node.attribute.add(name="strings", type=AttributeProto.STRINGS, strings=[b"\xff", b""])
    node.attribute.add(name="tensors", type=AttributeProto.TENSORS, tensors=[weights("in")])
    node.attribute.add(name="undefined")
    node.attribute.add(name="graphs", type=AttributeProto.GRAPHS, graphs=[base().graph])
    kind = node.attribute.add(name="type", type=AttributeProto.TYPE_PROTO)
    kind.tp.CopyFrom(model.graph.input[0].type)
    node.attribute.add(name="reference", type=AttributeProto.FLOAT, ref_attr_name="elsewhere")
    node.attribute.add(name="last", type=AttributeProto.INT, i=1, doc_string="twice")
    node.attribute.add(name="last", type=AttributeProto.INT, i=2)
    # Wire format of an attribute of type 99, which no version knows.
    unknown = AttributeProto.FromString(b"\x0a\x03new\xa0\x01\x63")
    node.attribute.append(unknown)
    model.graph.node.append(node)


def _dtypes(model: onnx.ModelProto) -> None:
    odd = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
    for name in odd:
        tensor = weights(f"t_{name}", getattr(ml_dtypes, name))
        model.graph.initializer.append(tensor)
        model.graph.node.append(helper.make_node("Identity", [tensor.name], [f"o_{name}"]))
    model.graph.initializer.append(helper.make_tensor("strings", TensorProto.STRING, [2], [b"a", b"\xff"]))
    model.graph.initializer.append(TensorProto(name="unknown", data_type=77, dims=[2]))
    model.graph.initializer.append(TensorProto(name="empty", data_type=1, dims=[0, 3]))
    far = model.graph.initializer.add(name="far", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="nowhere")
    model.graph.node.append(helper.make_node("Odd", ["strings", "unknown", "empty", "far"], ["o_odd"], domain="own"))


def _types(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", None, 3])
    sequence = helper.make_sequence_type_proto(tensor)
    made = {
        "q": sequence,
        "p": helper.make_optional_type_proto(sequence),
        "m": helper.make_map_type_proto(TensorProto.INT64, tensor),
        "z": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2]),
        "n": onnx.TypeProto(),
    }
    for name, kind in made.items():
        model.graph.input.append(helper.make_value_info(name, kind))
        model.graph.node.append(helper.make_node("Identity", [name], [f"{name}_out"]))
        model.graph.value_info.append(helper.make_value_info(f"{name}_out", kind))
    model.graph.input[-1].ClearField("type")


def _values(model: onnx.ModelProto) -> None:
    values = [info("t", "N", 4), info("u", None, "width"), info("h", "N", 4), info("V", 4, 2)]
    values[0].type.denotation = "FEATURES"
    values[2].type.tensor_type.shape.dim[1].denotation = "NEURONS"
    model.graph.value_info.extend([*values, info("t", "M", 4), info("never"), info("x", "N", 3)])


def _broken(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["cycle"], ["cycle"]))
    model.graph.node.append(helper.make_node("Relu", ["nowhere"], ["t"]))
    model.graph.node.append(helper.make_node("Relu", ["h"], ["W"]))
    model.graph.node.append(onnx.NodeProto())


def _duplicates(model: onnx.ModelProto) -> None:
    model.graph.initializer.extend([weights("W", np.float64), weights("unused"), weights("")])


def _bare(model: onnx.ModelProto) -> None:
    del model.opset_import[:]
    model.ClearField("ir_version")


ODDITIES: Mapping[str, Oddity] = {
    "branch": _branch,
    "loop": _loop,
    "constants": _constants,
    "sparse": _sparse,
    "old": _old,
    "annotations": _annotations,
    "functions": _functions,
    "attributes": _attributes,
    "dtypes": _dtypes,
    "types": _types,
    "values": _values,
    "broken": _broken,
    "duplicates": _duplicates,
    "bare": _bare,
}


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a model with several oddities, its nodes in any order."""
    model = base()
    for name in draw(st.lists(st.sampled_from(sorted(ODDITIES)), unique=True)):
        ODDITIES[name](model)
    order = draw(st.permutations(range(len(model.graph.node))))
    nodes = [onnx.NodeProto.FromString(model.graph.node[i].SerializeToString()) for i in order]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
