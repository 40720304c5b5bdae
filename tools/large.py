"""A model far larger than memory's comfort, cut in bounded memory; and a middling one, cut in this process.

    python tools/large.py [--gigabytes 6] [--blocks 40] [--folder /tmp] [--more="--provider cpu"]
    python tools/large.py --in-process

The first makes a model with external data (blocks of 1024 -> 4096 -> 1024, and tables that no layer reads) in a
temporary folder, copies its files with `cp`, and runs the command on it in a fresh process with what `--more` says
added; it prints seconds, and the largest resident memory of that process beside the bound of 1.2 GiB and three times
the largest layer's weights. The second cuts twelve blocks of 768 -> 3072 -> 768 in memory, each way in a process of
its own, beside onnxsim's structured pruning. Everything that was made is removed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

D, N = 1024, 4096
ROWS = 100_000
BOUND = 1.2 * 2**30 + 3 * (2 * D * N + N + D) * 4


def block(index: int, source: str) -> tuple[list[onnx.NodeProto], str]:
    """Nodes of one block with a residual, and the name of what it gives."""
    names = [f"{part}{index}" for part in ("up", "act", "down", "sum")]
    nodes = [
        helper.make_node("Gemm", [source, f"w{index}", f"b{index}"], [names[0]]),
        helper.make_node("Relu", [names[0]], [names[1]]),
        helper.make_node("Gemm", [names[1], f"v{index}", f"c{index}"], [names[2]]),
        helper.make_node("Add", [source, names[2]], [names[3]]),
    ]
    return nodes, names[3]


def large(folder: Path, blocks: int, size: int) -> Path:
    """Write a model of about `size` bytes, data in one file beside it; its path."""
    rng = np.random.default_rng(0)
    tensors: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    outputs = []
    table = rng.standard_normal((ROWS, D), dtype=np.float32)
    with open(folder / "large.data", "wb") as file:

        def add(name: str, numbers: np.ndarray) -> None:
            tensor = TensorProto(name=name, dims=numbers.shape, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "large.data"), ("offset", file.tell()), ("length", numbers.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            file.write(memoryview(numbers).cast("B"))

        last = "x"
        for index in range(blocks):
            more, last = block(index, last)
            nodes += more
            for name, shape in (("w", (D, N)), ("b", (N,)), ("v", (N, D)), ("c", (D,))):
                add(f"{name}{index}", rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0])))
        for index in range(max(0, size - file.tell()) // table.nbytes):
            add(f"table{index}", table)
            nodes.append(helper.make_node("Gather", [f"table{index}", "ids"], [f"row{index}"]))
            outputs.append(helper.make_tensor_value_info(f"row{index}", TensorProto.FLOAT, ["M", D]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", D])]
    if outputs:
        inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["M"]))
    outputs.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, ["B", D]))
    graph = helper.make_graph(nodes, "large", inputs, outputs, tensors)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    path = folder / "large.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def command(folder: Path, blocks: int, gigabytes: float, more: list[str]) -> dict[str, float]:
    """Copy a large model, cut it, and return what that took."""
    # Made by another process: what this one holds counts as its children's, too.
    subprocess.run([sys.executable, __file__, "--make", str(folder), *map(str, (blocks, gigabytes))], check=True)
    path = folder / "large.onnx"
    found = {"gigabytes": sum(file.stat().st_size for file in folder.iterdir()) / 1e9}
    (folder / "copy").mkdir()
    start = time.perf_counter()
    subprocess.run(["cp", str(path), str(folder / "large.data"), str(folder / "copy")], check=True)
    found["cp, seconds"] = time.perf_counter() - start
    for file in (folder / "copy").iterdir():
        file.unlink()
    out = [sys.executable, "-m", "onnx_coreset", str(path), str(folder / "out.onnx"), "-q", *more]
    start = time.perf_counter()
    process = subprocess.Popen([*out, "--report", str(folder / "r.json")])
    _, status, usage = os.wait4(process.pid, 0)
    found["command, seconds"] = time.perf_counter() - start
    assert status == 0, status
    found |= {"peak, GiB": usage.ru_maxrss / 2**20, "bound, GiB": BOUND / 2**30}
    report = json.loads((folder / "r.json").read_text())
    found |= {f"{stage}, seconds": seconds for stage, seconds in report["seconds"].items()}
    found["narrower layers"] = sum(chain["status"] == "pruned" for chain in report["chains"])
    found["out, gigabytes"] = report["output"]["bytes"] / 1e9
    return found


def middling() -> onnx.ModelProto:
    """Twelve blocks of 768 -> 3072 -> 768."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors, last = [], "x"
    for index in range(12):
        more, last = block(index, last)
        nodes += more
        for name, shape in (("w", (768, 3072)), ("b", (3072,)), ("v", (3072, 768)), ("c", (768,))):
            tensors.append(numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), f"{name}{index}"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 768]) for name in ("x", last))
    graph = helper.make_graph(nodes, "middling", [x], [y], tensors)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def alone(way: str) -> None:
    """Cut the middling model once, after a small warm-up, and print seconds and memory as JSON."""
    model = middling()
    if way == "ours":
        import onnx_coreset
        import onnx_coreset.api  # what is imported later counts for neither

        def cut() -> onnx.ModelProto:
            options = {"method": "norm", "refit": False, "validate": False, "ratio": 0.5, "provider": "cpu"}
            return onnx_coreset.optimize(model, **options).model
    else:
        import onnxsim

        def cut() -> onnx.ModelProto:
            return onnxsim.apply_structured_pruning(model, 0.5)

    # What was free before it began counts for neither.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    start = time.perf_counter()
    result = cut()
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "more memory, MiB": memory("VmHWM") - before, "left, MiB": result.ByteSize() / 2**20}
    sys.stdout.write(json.dumps({name: round(value, 2) for name, value in found.items()}))


def memory(name: str) -> float:
    """Resident memory of this process now, or its largest since that was cleared, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    parser.add_argument("--more", default="--ratio 0.5 --method norm --no-refit --no-validate --provider cpu")
    parser.add_argument("--in-process", action="store_true", help="the middling model instead, beside onnxsim")
    parser.add_argument("--way", choices=["ours", "onnxsim"], help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        folder, blocks, size = arguments.make
        large(Path(folder), int(blocks), int(float(size) * 1e9))
    elif arguments.way:
        alone(arguments.way)
    elif arguments.in_process:
        for way in ("ours", "onnxsim") * 3:
            line = subprocess.run(
                [sys.executable, __file__, "--way", way], check=True, capture_output=True, text=True
            ).stdout.splitlines()[-1]
            print(f"{way:8s}", line, flush=True)
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = command(Path(folder), arguments.blocks, arguments.gigabytes, shlex.split(arguments.more))
        for name, value in found.items():
            print(f"{name:20s} {value:8.2f}")


if __name__ == "__main__":
    main()
