"""Models damaged or made hostile: bytes, fields, and what an attacker would write on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor as Field
from onnx import AttributeProto, TensorProto, helper

from fuzz_models import Chooser

__all__ = ["ATTACKS", "mutated_bytes", "mutated_fields"]

_NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 16, 17, 99, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
_FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, 3e38, -1.0, 2.0)
_TEXTS = ("", "x", "y", "h", "Relu", "Gemm", "MatMul", "Loop", "If", "Concat", "nowhere", "ai.onnx", "com.microsoft")
_MORE = ("\x1b[31m", "a\nb", "層", "x" * 5000, "../../x", "/", "\0", "ConstantOfShape", "Identity", "Expand", "Cast")


def mutated_bytes(c: Chooser, data: bytes) -> bytes:
    """Return bytes that differ from a model's in a few places."""
    found = bytearray(data)
    for _ in range(c.one((1, 1, 1, 2, 4, 16))):
        at = c.integer(0, max(len(found) - 1, 0))
        kind = c.integer(0, 6)
        if kind == 0 and found:
            found[at] ^= 1 << c.integer(0, 7)
        elif kind == 1 and found:
            found[at] = c.one((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x12))
        elif kind == 2:
            found[at:at] = bytes(c.integer(0, 255) for _ in range(c.integer(1, 9)))
        elif kind == 3:
            del found[at : at + c.one((1, 2, 8, 100))]
        elif kind == 4:
            start = c.integer(0, max(len(found) - 1, 0))
            found[at:at] = found[start : start + c.integer(1, 60)]
        elif kind == 5 and c.chance(0.3):
            del found[at:]
        else:
            found[at:at] = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"[c.integer(0, 8) :]
    return bytes(found)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == Field.TYPE_MESSAGE:
            for inner in value if hasattr(value, "append") or hasattr(value, "add") else (value,):
                yield from _messages(inner)


def mutated_fields(c: Chooser, model: onnx.ModelProto) -> None:
    """Change some fields of a model to what they should not be."""
    for _ in range(c.one((1, 1, 1, 2, 3, 5))):
        found = list(_messages(model))
        message = c.one(found)
        fields = [field for field, _ in message.ListFields()]
        if c.chance(0.25) or not fields:
            fields = list(message.DESCRIPTOR.fields)
        _change(c, message, c.one(fields), found)


def _change(c: Chooser, message: Any, field: Any, found: list[Any]) -> None:
    value = getattr(message, field.name)
    many = hasattr(value, "append") or hasattr(value, "add")
    if not many:
        if c.chance(0.2):
            message.ClearField(field.name)
        elif field.type == Field.TYPE_MESSAGE:
            same = [other for other in found if other.DESCRIPTOR is field.message_type]
            if same:
                copy = type(c.one(same))()
                copy.CopyFrom(c.one(same))
                value.CopyFrom(copy)
        else:
            setattr(message, field.name, _scalar(c, field, value, found))
        return
    items = [_copy(item) for item in value]
    kind = c.integer(0, 5)
    at = c.integer(0, max(len(items) - 1, 0))
    if kind == 0 and items:
        del items[at]
    elif kind == 1 and items:
        items.insert(c.integer(0, len(items)), items[at])
    elif kind == 2 and items:
        other = c.integer(0, len(items) - 1)
        items[at], items[other] = items[other], items[at]
    elif field.type == Field.TYPE_MESSAGE:
        same = [other for other in found if other.DESCRIPTOR is field.message_type]
        if same:
            items.insert(at, _copy(c.one(same)))
    elif kind == 3 and items:
        items[at] = _scalar(c, field, items[at], found)
    else:
        items.insert(at, _scalar(c, field, items[0] if items else None, found))
    message.ClearField(field.name)
    getattr(message, field.name).extend(items)


def _copy(item: Any) -> Any:
    if not hasattr(item, "CopyFrom"):
        return item
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _scalar(c: Chooser, field: Any, old: Any, found: list[Any]) -> Any:
    if field.type == Field.TYPE_STRING:
        names = [m.name for m in found if hasattr(m, "name") and isinstance(m.name, str)]
        return c.one([*_TEXTS, *_MORE, *names, *names]) if names else c.one(_TEXTS)
    if field.type == Field.TYPE_BYTES:
        data = bytes(old or b"")
        return c.one((b"", data[:-1], data + b"\0", data[: len(data) // 2], data * 2, b"\xff" * len(data), b"\xff"))
    if field.type in (Field.TYPE_FLOAT, Field.TYPE_DOUBLE):
        return c.one(_FLOATS)
    if field.type == Field.TYPE_ENUM:
        return c.one([v.number for v in field.enum_type.values])
    number = c.one(_NUMBERS) if c.chance(0.6) or not isinstance(old, int) else old + c.one((-1, 1, 2))
    low, high = (-(2**31), 2**31 - 1) if field.type == Field.TYPE_INT32 else (-(2**63), 2**63 - 1)
    low, high = (0, 2**64 - 1) if field.type == Field.TYPE_UINT64 else (low, high)
    return min(max(number, low), high)


Attack = Callable[[Chooser, onnx.ModelProto], None]


def _not_finite(c: Chooser, model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.raw_data and c.chance(0.5):
            values = np.frombuffer(tensor.raw_data, "<f4").copy()
            values[c.integer(0, len(values) - 1)] = c.one((*_FLOATS, 1e20, 1e30))
            tensor.raw_data = values.tobytes()


def _huge(c: Chooser, model: onnx.ModelProto) -> None:
    tensors = list(model.graph.initializer)
    if tensors:
        tensor = c.one(tensors)
        tensor.dims[:] = [c.one(_NUMBERS) for _ in range(c.integer(0, 4))]
        if c.chance(0.5):
            tensor.ClearField("raw_data")


def _shapes(c: Chooser, model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if c.chance(0.3):
                dim.dim_value = c.one(_NUMBERS)


def _outside(c: Chooser, model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if c.chance(0.5):
            tensor.data_location = TensorProto.EXTERNAL
            place = c.one(("../in.onnx", "/dev/zero", "/etc/passwd", "in.onnx", "no.bin", "", ".", "in.onnx/x"))
            tensor.external_data.add(key="location", value=place)
            if c.chance(0.5):
                tensor.external_data.add(key="offset", value=c.one(("0", "-1", "9" * 30, "1e3", "", "8")))
            if c.chance(0.5):
                tensor.external_data.add(key="length", value=c.one(("0", "4", "9" * 18, "x", "-4")))
            if c.chance(0.7):
                tensor.ClearField("raw_data")


def _recursive(c: Chooser, model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    names = [f"F{i}" for i in range(c.integer(1, 3))]
    for i, name in enumerate(names):
        call = helper.make_node(names[(i + 1) % len(names)], ["a"], ["o"], domain="own")
        model.functions.append(helper.make_function("own", name, ["a"], ["o"], [call], opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    if c.chance(0.7) and model.graph.node:
        model.graph.node.append(helper.make_node("F0", [model.graph.node[0].output[0]], ["f"], domain="own"))


def _exploding(c: Chooser, model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    depth = c.integer(3, 40)
    for i in range(depth):
        op, domain = (f"G{i + 1}", "own") if i < depth - 1 else ("Relu", "")
        calls = [helper.make_node(op, ["a"], ["m"], domain=domain), helper.make_node(op, ["m"], ["o"], domain=domain)]
        model.functions.append(helper.make_function("own", f"G{i}", ["a"], ["o"], calls, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    if model.graph.node:
        model.graph.node.append(helper.make_node("G0", [model.graph.node[0].output[0]], ["f"], domain="own"))


def _deep(c: Chooser, model: onnx.ModelProto) -> None:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "g", [], [onnx.ValueInfoProto(name="o")])
    for _ in range(c.one((2, 10, 20, 25, 28))):
        node = helper.make_node("If", ["c"], ["o"])
        for name in ("then_branch", "else_branch")[: c.integer(1, 2)]:
            node.attribute.add(name=name, type=AttributeProto.GRAPH).g.CopyFrom(graph)
            if graph.ByteSize() > 1 << 16:
                break
        graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="o")])
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model.graph.node.append(graph.node[0])


def _large_at_run_time(c: Chooser, model: onnx.ModelProto) -> None:
    size = c.one((2**20, 2**24, 2**33, 2**40, 2**62))
    shape = helper.make_tensor("big", TensorProto.INT64, [1], [size])
    model.graph.initializer.append(shape)
    kind = c.one(("ConstantOfShape", "Expand", "Tile"))
    if kind != "ConstantOfShape":
        model.graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
    made = helper.make_node(kind, ["big"] if kind == "ConstantOfShape" else ["one", "big"], ["big_out"])
    model.graph.node.extend([made, helper.make_node("ReduceSum", ["big_out"], ["big_sum"])])
    if c.chance(0.7):
        model.graph.output.append(helper.make_tensor_value_info("big_sum", TensorProto.FLOAT, None))


def _endless(c: Chooser, model: onnx.ModelProto) -> None:
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    most = helper.make_tensor("most", TensorProto.INT64, [], [c.one((2**20, 2**62))])
    model.graph.initializer.extend([true, most])
    ends = [helper.make_tensor_value_info(n, k, []) for n, k in (("i", 7), ("k", 9), ("v", 1))]
    nodes = [helper.make_node("Identity", ["k"], ["k2"]), helper.make_node("Sin", ["v"], ["v2"])]
    outs = [helper.make_tensor_value_info(n, k, []) for n, k in (("k2", 9), ("v2", 1))]
    body = helper.make_graph(nodes, "endless", ends, outs)
    model.graph.initializer.append(helper.make_tensor("start", TensorProto.FLOAT, [], [0.5]))
    model.graph.node.append(helper.make_node("Loop", ["most", "true", "start"], ["looped"], body=body))
    model.graph.output.append(helper.make_tensor_value_info("looped", TensorProto.FLOAT, []))


ATTACKS: Mapping[str, Attack] = {
    "not finite": _not_finite,
    "huge": _huge,
    "shapes": _shapes,
    "outside": _outside,
    "recursive": _recursive,
    "exploding": _exploding,
    "deep": _deep,
    "large at run time": _large_at_run_time,
    "endless": _endless,
}
