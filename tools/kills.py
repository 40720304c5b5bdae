"""Processes that are killed while they save a model with external data, and what they leave.

    python tools/kills.py [--kills 200] [--whole 10] [--seed 0] [--megabytes 8] [--json FILE]

A child process writes two models over each other, again and again, under one name and with data in a file of their own;
it is killed (SIGKILL) after a random time of up to three saves, and the next one goes on from there. After each kill
OUT must be absent, or one of the two models with all of its data; and once the next run has cleared the folder, nothing
else may be in it. `--whole` kills as many runs of the whole command, at random moments. Prints how often OUT was what,
and exits 1 where it was neither.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from onnx_coreset.edge import files  # noqa: E402
from onnx_coreset.edge.leftovers import clear  # noqa: E402
from onnx_coreset.edge.saving import staged  # noqa: E402
from onnx_coreset.errors import CoresetError  # noqa: E402

LONGEST = 3.0  # saves


def layers(megabytes: float, seed: int) -> onnx.ModelProto:
    """Return a net of two layers with as many bytes of weights."""
    n = max(8, int(megabytes * 2**20 / 4 / 2 / 64))
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape).astype("f4") / 8 for shape in ((64, n), (n, 64))]
    names = ["x", "a", "b", "y"]
    nodes = [helper.make_node("MatMul", ["x", "W0"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("MatMul", ["b", "W1"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in (names[0], names[-1])]
    held = [numpy_helper.from_array(w, f"W{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, f"net {seed}", ends[:1], ends[1:], held)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def save(model: onnx.ModelProto, out: pathlib.Path) -> None:
    with staged(out, model, True, (), lambda *_: None) as ready:
        files.save({out: ready.content})


def state(out: pathlib.Path, known: dict[str, onnx.ModelProto]) -> str:
    """Return which of the known models OUT is, or "absent", or what is wrong with it."""
    if not out.exists():
        return "absent"
    try:
        found = files.load(out).model
    except CoresetError as error:
        return f"BROKEN: {error}"
    return next((name for name, model in known.items() if found == model), "BROKEN: another model")


def killed_saves(kills: int, seed: int, megabytes: float, folder: pathlib.Path) -> Counter[str]:
    """Kill saves at random moments; count what OUT was after each, and files that were still there after clearing."""
    known = {"first": layers(megabytes, 0), "second": layers(megabytes, 1)}
    out, rng = folder / "out.onnx", np.random.default_rng(seed)
    found = Counter[str]()
    start = time.monotonic()
    for model in known.values():
        save(model, out)
    longest = LONGEST * (time.monotonic() - start) / len(known)
    for number in range(kills):
        child = os.fork()
        if child == 0:
            try:
                for turn in range(1000):
                    save(known["second" if turn % 2 else "first"], out)
            finally:
                os._exit(1)
        time.sleep(float(rng.uniform(0, longest)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        before = len(list(folder.iterdir()))
        what = state(out, known)
        clear(folder)
        after = sorted(path.name for path in folder.iterdir())
        data = len([name for name in after if name.endswith(".data")])
        found[what] += 1
        found["with leftovers"] += before > len(after)
        if state(out, known) != what or len(after) != (0 if what == "absent" else 2) or data != len(after) // 2:
            found[f"BROKEN: after clearing there are {after}"] += 1
        if number % 20 == 19:
            for path in folder.iterdir():
                path.unlink()
    return found


def killed_runs(kills: int, seed: int, megabytes: float, folder: pathlib.Path) -> Counter[str]:
    """Kill whole runs of the command at random moments; the last one may end."""
    before, after = folder / "in.onnx", folder / "out.onnx"
    onnx.save(layers(megabytes, 0), before)
    content, rng, found = before.read_bytes(), np.random.default_rng(seed), Counter[str]()
    command = [sys.executable, "-m", "onnx_coreset", str(before), str(after), "--external-data", "--overwrite", "-q"]
    command += ["--ratio", "0.5", "--method", "norm", "--no-refit", "--no-validate", "--provider", "cpu"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    subprocess.run(command, env=env, check=True)
    seconds, whole = time.monotonic() - start, files.load(after).model
    for _ in range(kills):
        with subprocess.Popen(command, env=env, start_new_session=True) as process:
            time.sleep(float(rng.uniform(0, 1.2 * seconds)))
            os.killpg(process.pid, signal.SIGKILL)
        found[state(after, {"complete": whole})] += 1
        if before.read_bytes() != content:
            found["BROKEN: the input changed"] += 1
    subprocess.run(command, env=env, check=True)
    left = sorted(path.name for path in folder.iterdir())
    if len(left) != 3:
        found[f"BROKEN: at the end there are {left}"] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--whole", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    told: dict[str, object] = {"seed": args.seed, "python": platform.python_version(), "onnx": onnx.__version__}
    broken = False
    tests: dict[str, tuple[Callable[[int, int, float, pathlib.Path], Counter[str]], int]] = {
        "saves": (killed_saves, args.kills),
        "runs": (killed_runs, args.whole),
    }
    for name, (test, kills) in tests.items():
        with tempfile.TemporaryDirectory() as folder:
            found = test(kills, args.seed, args.megabytes, pathlib.Path(folder))
        told[name] = {"kills": kills, **found}
        broken |= any(key.startswith("BROKEN") for key in found)
    print(json.dumps(told, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(told, indent=1))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
