"""Does CUDA decide as the CPU does? Both shrink the models of models/, and what they say is compared.

    python tools/gpu_check.py [MODELS...] [--json FILE] [--import-torch]

For every model, once by eps 0.1 and once by ratio 0.5, with one seed: the same verdict, the same neurons, errors equal
within what float32 sums of another order explain; and, for each node of the original, what really ran it, from the
profile of a session with both providers. Exits with 1 on a difference and with 4 where CUDA cannot be used.

ONNX Runtime may be a plain folder on PYTHONPATH; `--import-torch` imports PyTorch first, whose wheel brings the CUDA
libraries.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (("eps 0.1", {"eps": 0.1}), ("ratio 0.5", {"ratio": 0.5}))
FLOAT32 = 2.0**-23
NORMS = ("rms", "p99", "max")


def tolerance(inputs: int, width: int, spread: float) -> float:
    """Return by how much two float32 runs of a layer may differ in any entry, in the layer's own numbers.

    Two sums of p products in float32 differ by at most 2 p eps times the sum of their absolute values. For both sums of
    a layer, over `inputs` and over `width`, that is of the order of its spread times the root of their length.

    Args:
        inputs: Length of the first sum.
        width: Length of the second sum.
        spread: Spread of the layer's outputs; 0 counts as 1.
    """
    return 2.0 * FLOAT32 * (inputs * math.sqrt(inputs) + width * math.sqrt(width)) * (spread or 1.0)


def shrink(model: pathlib.Path, provider: str, fields: dict[str, Any], seed: int) -> tuple[Any, float]:
    """Return the report of one run, and its seconds."""
    from onnx_coreset import optimize

    start = time.perf_counter()
    # What is proven is computed without a runtime.
    report = optimize(model, provider=provider, seed=seed, certify="off", **fields).report
    return report, time.perf_counter() - start


def differences(cpu: Any, cuda: Any) -> list[str]:
    """Return what two reports do not agree on, a line each."""
    found = []
    if cpu.validation.passed != cuda.validation.passed:
        found.append(f"verdict: CPU {cpu.validation.passed}, CUDA {cuda.validation.passed}")
    for one, other in zip(cpu.chains, cuda.chains, strict=True):
        for name in ("name", "status", "code", "width_after", "kept"):
            if getattr(one, name) != getattr(other, name):
                found.append(
                    f"{one.name}: {name}: CPU {_short(getattr(one, name))}, CUDA {_short(getattr(other, name))}"
                )
        if one.status == other.status == "pruned" and one.kept == other.kept:
            allowed = tolerance(one.inputs, one.width_before, one.error.spread)
            for name in NORMS:
                gap = abs(getattr(one.error, name) - getattr(other.error, name))
                if not gap <= allowed:
                    found.append(f"{one.name}: {name} differs by {gap:.3g}, more than {allowed:.3g}")
    return found


def _short(value: object) -> str:
    return f"{len(value)} neurons" if isinstance(value, tuple) else str(value)


def placed(model: pathlib.Path, ort: Any) -> dict[str, dict[str, int]]:
    """Return how many nodes of each operator ran where: {provider: {operator: nodes}}, from a profile."""
    import numpy as np

    from onnx_coreset.edge import files
    from onnx_coreset.edge.runtime import Session, choose
    from onnx_coreset.edge.statistics import synthetic
    from onnx_coreset.graph.indices import valid_ranges
    from onnx_coreset.graph.model.codec import decode

    proto = files.load(model).model
    rng = np.random.default_rng(0)
    feeder = synthetic(Session(proto, choose("cpu")), valid_ranges(decode(proto)), {}, rng)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        options.log_severity_level = 4
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=providers)
        session.run(None, feeder.feed(0, rng))
        events = json.loads(pathlib.Path(session.end_profiling()).read_text())
    where: dict[str, dict[str, int]] = collections.defaultdict(lambda: collections.defaultdict(int))
    seen = set()
    for event in events:
        about = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in about and event["name"] not in seen:
            seen.add(event["name"])
            where[about["provider"]][about.get("op_name", "?")] += 1
    return {provider: dict(sorted(nodes.items())) for provider, nodes in sorted(where.items())}


def versions(ort: Any) -> dict[str, str]:
    """Return the versions of everything that could explain a difference."""
    found = {"python": platform.python_version(), "onnxruntime": str(ort.__version__)}
    for name in ("onnx-coreset", "numpy", "scipy", "onnx", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            module = sys.modules.get(name.replace("-", "_"))
            if module is not None:
                found[name] = str(getattr(module, "__version__", "?"))
    driver = pathlib.Path("/proc/driver/nvidia/version")
    if driver.exists() and (version := re.search(r"\d+\.\d+(\.\d+)?", driver.read_text())):
        found["driver"] = version[0]
    return found


def check(models: Sequence[pathlib.Path], ort: Any, seed: int) -> tuple[list[dict[str, Any]], int]:
    """Compare both providers on every model and print what comes out; the rows, and how many of them differ."""
    rows: list[dict[str, Any]] = []
    failed = 0
    for model in models:
        nodes = placed(model, ort)
        print(f"{model.name}: " + "; ".join(f"{p}: {sum(n.values())} nodes {n}" for p, n in nodes.items()))
        for label, fields in SETTINGS:
            cpu, slow = shrink(model, "cpu", fields, seed)
            cuda, fast = shrink(model, "cuda", fields, seed)
            wrong = differences(cpu, cuda)
            failed += bool(wrong)
            widths = {c.name: (c.width_before, c.width_after) for c in cuda.chains if c.status == "pruned"}
            errors = {
                c.name: {n: (getattr(a.error, n), getattr(c.error, n)) for n in NORMS}
                for a, c in zip(cpu.chains, cuda.chains, strict=True)
                if c.status == "pruned"
            }
            rows.append(
                {
                    "model": model.name,
                    "setting": label,
                    "provider": cuda.validation.provider,
                    "passed": cuda.validation.passed,
                    "widths": widths,
                    "errors": errors,
                    "seconds": {"cpu": round(slow, 3), "cuda": round(fast, 3)},
                    "nodes": nodes,
                    "differences": wrong,
                }
            )
            print(f"  {label:10} {'DIFFERS' if wrong else 'agrees':8} {widths}  CPU {slow:.2f} s, CUDA {fast:.2f} s")
            for line in wrong:
                print(f"    {line}")
    return rows, failed


def main() -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", type=pathlib.Path, help="models; those of models/ where none is given")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write what was found")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--import-torch", action="store_true", help="import torch first, for its CUDA libraries")
    args = parser.parse_args()
    if args.import_torch:
        importlib.import_module("torch")
    ort = importlib.import_module("onnxruntime")
    try:
        importlib.import_module("onnx_coreset")
    except ImportError:
        sys.path.insert(0, str(ROOT))
    from onnx_coreset.edge.runtime import choose
    from onnx_coreset.errors import MachineError

    said = versions(ort)
    print(", ".join(f"{name} {version}" for name, version in said.items()))
    try:
        choose("cuda")
    except MachineError as error:
        print(f"nothing was compared: {error}", file=sys.stderr)
        return 4
    models = args.models or sorted((ROOT / "models").glob("*.onnx"))
    if not models:
        parser.error("there is no model to compare")
    rows, failed = check(models, ort, args.seed)
    if args.json:
        args.json.write_text(json.dumps({"versions": said, "seed": args.seed, "rows": rows}, indent=1) + "\n")
    print(f"{len(rows) - failed} of {len(rows)} runs agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
