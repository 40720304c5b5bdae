"""What a cut costs in test accuracy, by the command line: the images judge, they are never fitted to.

    python tools/accuracy.py DATA [--models models] [--ratios 0.5 0.2] [--json FILE]

DATA holds mnist.npz and fashion_mnist.npz (x_test, y_test). Every row is one call of `onnx-coreset`; seeds and
versions are printed with it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

import onnx_coreset

DATA = (("lenet_300_100.onnx", "mnist.npz"), ("lenet_300_100_fashion.onnx", "fashion_mnist.npz"))
SETTINGS = (
    ("default", ()),
    ("greedy", ("--method", "greedy")),
    ("Algorithm 2", ("--method", "sensitivity", "--no-refit")),
    ("Algorithm 2, refit", ("--method", "sensitivity")),
    ("norm", ("--method", "norm", "--no-refit")),
)


def accuracy(model: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images, shape (N, 784), that the model classifies as labelled, in percent."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    return 100.0 * float(np.mean(logits.argmax(axis=1) == labels))


def shrink(model: pathlib.Path, out: pathlib.Path, arguments: list[str]) -> None:
    """Run the command line, and stop where it fails."""
    command = [sys.executable, "-m", "onnx_coreset", str(model), str(out), "--quiet", "--overwrite", *arguments]
    subprocess.run(command, check=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path("models"))
    parser.add_argument("--ratios", nargs="+", default=["0.5"])
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        for name, data in DATA:
            test = np.load(args.data / data)
            images = (test["x_test"].reshape(-1, 784) / 255.0).astype(np.float32)
            whole = accuracy(args.models / name, images, test["y_test"])
            for ratio in args.ratios:
                for label, extra in SETTINGS:
                    drops = []
                    for seed in args.seeds:
                        shrink(args.models / name, out, ["--ratio", ratio, "--seed", seed, *extra])
                        drops.append(whole - accuracy(out, images, test["y_test"]))
                    row = {"model": name, "accuracy": round(whole, 2), "ratio": float(ratio), "setting": label}
                    row |= {"drop": round(float(np.mean(drops)), 2), "drops": [round(d, 2) for d in drops]}
                    rows.append(row)
                    print(
                        f"{name:28} {whole:6.2f} ratio {ratio:5} {label:20} drop {row['drop']:6.2f}  {row['drops']}",
                        flush=True,
                    )
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, onnx, ort)}
    print("seeds", *args.seeds, "|", ", ".join(f"{k} {v}" for k, v in versions.items()))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "seeds": args.seeds, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
