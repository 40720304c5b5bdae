"""Who works on layers, and how long that takes: one process, two, and a Dask cluster of two workers on this machine.

    python tools/jobs.py [--blocks 4] [--width 3072] [--samples N] [--certify off]

Cuts blocks of 768 -> WIDTH -> 768 in half with the default engine, each way in turn, and prints seconds, seconds a
layer of the stage that works on layers, and whether the result is that of one process, byte for byte.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_coreset
from large import block


def blocks(count: int, width: int) -> onnx.ModelProto:
    """Blocks of 768 -> width -> 768 with residuals."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors, last = [], "x"
    for index in range(count):
        more, last = block(index, last)
        nodes += more
        for name, shape in (("w", (768, width)), ("b", (width,)), ("v", (width, 768)), ("c", (768,))):
            numbers = rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0]))
            tensors.append(numpy_helper.from_array(numbers, f"{name}{index}"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 768]) for name in ("x", last))
    graph = helper.make_graph(nodes, "blocks", [x], [y], tensors)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--width", type=int, default=3072)
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--certify", default="off", choices=["off", "fast", "tight"])
    arguments = parser.parse_args()
    model = blocks(arguments.blocks, arguments.width)
    asked: dict[str, Any] = {"ratio": 0.5, "provider": "cpu", "certify": arguments.certify}
    asked["samples"] = arguments.samples
    first: bytes | None = None
    for way in ("one process", "two processes", "Dask, two workers"):
        with ExitStack() as stack:
            if way.startswith("Dask"):
                from distributed import Client, LocalCluster

                cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
                client = stack.enter_context(Client(cluster))
                more: dict[str, Any] = {"executor": client.get_executor()}
            else:
                more = {"jobs": 2 if way.startswith("two") else 1}
            start = time.perf_counter()
            result = onnx_coreset.optimize(model, **asked, **more)
            seconds = time.perf_counter() - start
        data = result.model.SerializeToString()
        first = first or data
        stages = result.report.seconds
        print(
            f"{way:18s} {seconds:7.1f} s in all, {stages['narrow'] / arguments.blocks:6.2f} s a layer, "
            f"{stages['certify']:6.1f} s of proofs; {'the same bytes' if data == first else 'OTHER BYTES'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
