"""Models that somebody made to hurt: a line, the right exit code, little time and memory, nothing left behind.

Each runs as the command itself, with at most 1 GiB for its data, and is measured from outside.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

from api_models import mlp
from onnx_coreset.edge.light import varint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and measures are those of Linux")

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30
SECONDS = 5.0
OWN = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
SIZES = [6, 20, 16, 4]


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = mlp(SIZES)
    change(model)
    return bytes(model.SerializeToString())


def external(model: onnx.ModelProto, location: str, **more: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)


def functions(model: onnx.ModelProto, depth: int, calls: int, last: str = "Relu") -> None:
    """Functions that call the next one so many times each; the last calls an operator, or a function."""
    for i in range(depth):
        op, domain = (f"F{i + 1}", "own") if i < depth - 1 else (last, "" if last == "Relu" else "own")
        names = ["a", *(f"m{j}" for j in range(calls - 1)), "o"]
        nodes = [helper.make_node(op, [names[j]], [names[j + 1]], domain=domain) for j in range(calls)]
        model.functions.append(helper.make_function("own", f"F{i}", ["a"], ["o"], nodes, OWN))
    model.opset_import.append(OWN[1])
    model.graph.node.append(helper.make_node("F0", ["h0"], ["f"], domain="own"))


def nested(levels: int) -> bytes:
    """A model with graphs in graphs, deeper than protobuf reads or writes."""

    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    graph = b""
    for _ in range(levels):
        attribute = field(1, b"then_branch") + field(6, graph) + varint(20 << 3) + bytes([AttributeProto.GRAPH])
        graph = field(1, field(4, b"If") + field(5, attribute))
    return mlp(SIZES).SerializeToString() + field(7, graph)


def twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["h0"], ["h1"]))


def absurd(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**62, 2**62]


def declared(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 6]
    model.graph.initializer[0].ClearField("raw_data")


def long(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data += b"\0"


def endless(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "x" * 100_000


HOSTILE = {
    "data above the folder": (changed(lambda m: external(m, "../secret")), "outside the model's folder"),
    "data at an absolute place": (changed(lambda m: external(m, "/dev/zero")), "outside the model's folder"),
    "data in a device": (changed(lambda m: external(m, "zero")), "is not a file"),
    "data of a length beyond all files": (changed(lambda m: external(m, "in.onnx", length="9" * 19)), "data"),
    "a shape beyond all numbers": (changed(absurd), "where its shape"),
    "a declared tensor without data": (changed(declared), "where its shape"),
    "a byte too much": (changed(long), "where its shape"),
    "a name twice": (changed(twice), "single static assignment"),
    "an endless name": (changed(endless), "neither the ONNX checker nor"),
    "a function that calls itself": (changed(lambda m: functions(m, 1, 1, "F0")), "calls itself"),
    "functions in a circle": (changed(lambda m: functions(m, 3, 1, "F1")), "calls itself"),
    "calls too deep": (changed(lambda m: functions(m, 3000, 1)), "more than 100 deep"),
    "calls that explode": (changed(lambda m: functions(m, 40, 2)), "stand for more than"),
    "graphs too deep": (nested(5000), "not an ONNX file"),
    "a gigabyte of zeros": (b"\0" * 10, "not an ONNX file"),
    "more than a message holds": (b"\x08\x08", "2 GB"),
}
LENGTHS = {"a gigabyte of zeros": GIB, "more than a message holds": 3 * GIB}


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (GIB, GIB))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(folder: Path, *arguments: str) -> tuple[int, str, resource.struct_rusage]:
    """The command in a folder: its exit code, what it says, and what it took."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "onnx_coreset", *arguments]
    with (folder.parent / "said").open("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env=env, preexec_fn=limited)
        _, status, took = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return process.returncode, said.read(), took


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_model_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    content, words = HOSTILE[kind]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "in.onnx").write_bytes(content)
    (folder / "zero").symlink_to("/dev/zero")
    if kind in LENGTHS:
        os.truncate(folder / "in.onnx", LENGTHS[kind])
    code, said, took = run(folder, "in.onnx", "out.onnx", "--report", "r.json", "--provider", "cpu")
    assert (code, said.startswith("onnx-coreset: error: ")) == (3, True), said
    assert words in said and said.count("\n") <= 2 and len(said) < 1500
    assert sorted(path.name for path in folder.iterdir()) == ["in.onnx", "zero"]
    # Processor seconds: other work on the machine does not count.
    assert took.ru_maxrss < GIB >> 10 and took.ru_utime + took.ru_stime < SECONDS


def test_an_input_of_absurd_size_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    model = mlp(SIZES)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**60
    onnx.save(model, folder / "in.onnx")
    arguments = ["--ratio", "0.5", "--samples", "64", "--certify", "off", "--provider", "cpu"]
    code, said, took = run(folder, "in.onnx", "out.onnx", *arguments)
    assert code == 0 and "its input x does not fit" in said, said
    assert took.ru_maxrss < GIB >> 10


def test_more_memory_than_there_is_is_the_machines_fault(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    model = mlp(SIZES)
    model.graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [1], [2**30]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["big"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["big"], ["sum"]))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None))
    onnx.save(model, folder / "in.onnx")
    code, said, _ = run(folder, "in.onnx", "out.onnx", "--ratio", "0.5", "--provider", "cpu")
    assert code == 4 and "memory is full" in said and said.count("\n") <= 2, said
    assert [path.name for path in folder.iterdir()] == ["in.onnx"]


def test_strings_for_numbers_are_no_layer(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    model = mlp(SIZES)
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w0", TensorProto.STRING, [20, 6], [b"a"] * 120))
    onnx.save(model, folder / "in.onnx")
    code, said, _ = run(folder, "in.onnx", "out.onnx", "--ratio", "0.5", "--samples", "64", "--certify", "off")
    # The checker does not mind them, and ONNX Runtime runs no such model.
    assert code == 0 and "the weights of Gemm are strings" in said and "the model is not run" in said, said
