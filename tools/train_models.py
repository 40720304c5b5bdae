"""Trains the small models of `models/` and exports them to ONNX.

    python tools/train_models.py --data FOLDER --out models [--only lenet_300_100] [--seed 0]

FOLDER holds the data sets (`mnist.npz`, `fashion_mnist.npz`), which are not part of this repository. Needs the
`tools` extra: `pip install ".[tools]"`. Each model is one row of MODELS; a further kind of model is one more file in
`tools/training/` and one more row.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from training.data import load_images
from training.export import onnx_accuracy, to_onnx
from training.perceptron import Recipe, train_perceptron

VERSIONED = ("torch", "onnx", "numpy")


@dataclass(frozen=True)
class Trained:
    """What a row of MODELS makes: the exported model and the test set it is judged by.

    Attributes:
        model: The exported model.
        test_inputs: Inputs of the test set, as the model takes them, first axis N.
        test_labels: Their classes, (N,).
    """

    model: onnx.ModelProto
    test_inputs: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entry:
    """One model of `models/`.

    Attributes:
        name: The file's name, without `.onnx`.
        least_accuracy: The test accuracy in [0, 1] below which the model is not written.
        make: Takes the data folder and the seed, trains and exports.
    """

    name: str
    least_accuracy: float
    make: Callable[[Path, int], Trained]


def image_perceptron(data_set: str, recipe: Recipe) -> Callable[[Path, int], Trained]:
    """Returns the `make` of a perceptron that is trained on `data_set` by `recipe`."""

    def make(folder: Path, seed: int) -> Trained:
        images = load_images(folder, data_set)
        model = train_perceptron(images, recipe, seed)
        example = torch.from_numpy(images.test_inputs[:2])
        return Trained(to_onnx(model, example, "pixels", "logits"), images.test_inputs, images.test_labels)

    return make


MODELS = (
    Entry("lenet_300_100", 0.980, image_perceptron("mnist", Recipe())),
    Entry("lenet_300_100_fashion", 0.890, image_perceptron("fashion_mnist", Recipe())),
)


def write(entry: Entry, folder: Path, out: Path, seed: int) -> dict[str, object]:
    """Trains one model, measures the exported file with ONNX Runtime, and moves it to its place if it is good enough.

    Returns:
        The model's row of `accuracy.json`.

    Raises:
        SystemExit: The exported model's test accuracy is too low; the file in `out` is then left as it was.
    """
    trained = entry.make(folder, seed)
    path, draft = out / f"{entry.name}.onnx", out / f"{entry.name}.onnx.draft"
    draft.write_bytes(trained.model.SerializeToString(deterministic=True))
    try:
        accuracy = onnx_accuracy(draft, trained.test_inputs, trained.test_labels)
        if accuracy < entry.least_accuracy:
            raise SystemExit(f"{entry.name}: accuracy {accuracy:.4f} is below {entry.least_accuracy}; nothing written")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    versions = {package: version(package) for package in VERSIONED} | {"python": platform.python_version()}
    row = {"accuracy": accuracy, "test_samples": len(trained.test_labels), "seed": seed, "versions": versions}
    print(f"{path}: accuracy {accuracy:.4f} on {len(trained.test_labels)} test samples, seed {seed}, {versions}")
    return row


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Train the models of models/ and export them.", allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz and fashion_mnist.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder that the models are written to")
    parser.add_argument("--only", choices=[entry.name for entry in MODELS], help="make this model alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1: repeatable)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the models that were asked for and notes their accuracy in `OUT/accuracy.json`."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "accuracy.json"
    for entry in MODELS:
        if options.only in (None, entry.name):
            print(f"{entry.name}:", flush=True)
            row = write(entry, options.data, options.out, options.seed)
            rows = json.loads(table.read_text("utf-8")) if table.is_file() else {}
            rows[entry.name] = row
            table.write_text(json.dumps(dict(sorted(rows.items())), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
