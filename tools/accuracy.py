"""What a cut costs in test accuracy, by the command line: the images judge, they are never fitted to.

    python tools/accuracy.py DATA [--mnist FILES] [--fashion FILES] [--rows ...] [--seeds 0] [--json FILE]

DATA holds mnist.npz and fashion_mnist.npz (x_train, x_test, y_test). Several nets of one kind, trained with different
seeds (tools/train_models.py --seed), give a mean over nets. Every number is one call of `onnx-coreset`; versions are
printed with them. Rows with images give 1,000 unlabelled training images, drawn with the seed of the row.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort

import onnx_coreset

IMAGES = 1000
FILES = {"mnist": "mnist.npz", "fashion": "fashion_mnist.npz"}


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        name: What it is called.
        arguments: What is given to the command.
        images: Whether it is given unlabelled images.
        asked: Largest drop asked for, by data set.
    """

    name: str
    arguments: tuple[str, ...]
    images: bool = False
    asked: tuple[tuple[str, float], ...] = ()


def ratio(share: str, **asked: float) -> tuple[Row, ...]:
    """Return the default and a long polish at a ratio."""
    rows = tuple(asked.items())
    return (
        Row(f"ratio {share}", ("--ratio", share), asked=rows),
        Row(f"ratio {share}, --polish", ("--ratio", share, "--polish"), asked=rows),
        Row(f"ratio {share}, --no-polish", ("--ratio", share, "--no-polish")),
    )


ROWS = (
    *ratio("0.5", mnist=0.2, fashion=0.4),
    *ratio("0.4", fashion=0.8),
    *ratio("0.3", fashion=1.5),
    *ratio("0.2", mnist=1.3, fashion=3.5),
    Row("params 0.1", ("--params", "0.1")),
    Row("params 0.1, --polish", ("--params", "0.1", "--polish"), asked=(("mnist", 4.2),)),
    Row("params 0.1, images", ("--params", "0.1"), True, (("mnist", 1.6), ("fashion", 2.7))),
    Row("params 0.1, images, --polish", ("--params", "0.1", "--polish"), True, (("mnist", 1.6), ("fashion", 2.7))),
    Row("ratio 0.5, images", ("--ratio", "0.5"), True),
    Row("ratio 0.2, images", ("--ratio", "0.2"), True),
    Row("Algorithm 2, 0.5", ("--ratio", "0.5", "--method", "sensitivity", "--no-refit")),
    Row("Algorithm 2, 0.2", ("--ratio", "0.2", "--method", "sensitivity", "--no-refit")),
    Row("L2 norm, 0.5", ("--ratio", "0.5", "--method", "norm", "--no-refit")),
    Row("L2 norm, 0.2", ("--ratio", "0.2", "--method", "norm", "--no-refit")),
)


def accuracy(model: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images, shape (N, 784), that the model classifies as labelled, in percent."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    return 100.0 * float(np.mean(logits.argmax(axis=1) == labels))


def pixels(table: np.ndarray) -> np.ndarray:
    """Return images as rows of 784 numbers in [0, 1], float32."""
    return (table.reshape(-1, 784) / 255.0).astype(np.float32)


def measure(
    net: pathlib.Path, row: Row, data: np.lib.npyio.NpzFile, seed: str, folder: pathlib.Path
) -> dict[str, object]:
    """Return the drop of one net under one setting, its widths and the seconds of the command."""
    test = pixels(data["x_test"])
    out, told = folder / "out.onnx", folder / "out.json"
    arguments = [str(net), str(out), "--quiet", "--overwrite", "--seed", seed, "--report", str(told), *row.arguments]
    arguments += ["--certify", "off"]
    if row.images:
        chosen = np.random.default_rng(int(seed)).choice(len(data["x_train"]), IMAGES, replace=False)
        name = onnx.load(net).graph.input[0].name
        np.savez(folder / "some.npz", **{name: pixels(data["x_train"][chosen])})
        arguments += ["--inputs", str(folder / "some.npz")]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "onnx_coreset", *arguments], check=True)
    seconds = time.perf_counter() - start
    chains = json.loads(told.read_text())["chains"]
    drop = accuracy(net, test, data["y_test"]) - accuracy(out, test, data["y_test"])
    widths = [chain["width_after"] for chain in chains if chain["status"] == "pruned"]
    return {"net": net.name, "seed": seed, "drop": round(drop, 2), "widths": widths, "seconds": round(seconds, 1)}


def judged(
    kind: str, nets: Sequence[pathlib.Path], row: Row, data: pathlib.Path, seeds: list[str]
) -> dict[str, object]:
    """Return the mean drop of several nets under one setting."""
    with tempfile.TemporaryDirectory() as folder, np.load(data / FILES[kind]) as arrays:
        loaded = {name: arrays[name] for name in ("x_train", "x_test", "y_test")}
        runs = [measure(net, row, loaded, seed, pathlib.Path(folder)) for net in nets for seed in seeds]
    mean = round(float(np.mean([run["drop"] for run in runs])), 2)
    return {"data": kind, "setting": row.name, "drop": mean, "asked": dict(row.asked).get(kind), "runs": runs}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--mnist", type=pathlib.Path, nargs="*", default=[pathlib.Path("models/lenet_300_100.onnx")])
    fashion = [pathlib.Path("models/lenet_300_100_fashion.onnx")]
    parser.add_argument("--fashion", type=pathlib.Path, nargs="*", default=fashion)
    parser.add_argument("--rows", nargs="+", help="names of settings; all of them without it")
    parser.add_argument("--seeds", nargs="+", default=["0"])
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    found = []
    for row in ROWS:
        for kind, nets in (("mnist", args.mnist), ("fashion", args.fashion)):
            if nets and (args.rows is None or row.name in args.rows):
                result = judged(kind, nets, row, args.data, args.seeds)
                found.append(result)
                asked = "" if result["asked"] is None else f"asked {result['asked']:5.2f}"
                drops = " ".join(f"{run['drop']:.2f}" for run in result["runs"])
                times = max(run["seconds"] for run in result["runs"])
                print(
                    f"{kind:8} {row.name:30} drop {result['drop']:6.2f}  {asked:11}  [{drops}]  {times} s", flush=True
                )
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, onnx, ort)}
    print("seeds", *args.seeds, "|", ", ".join(f"{k} {v}" for k, v in versions.items()))
    if args.json:
        args.json.write_text(json.dumps({"rows": found, "seeds": args.seeds, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
