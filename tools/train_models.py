"""Trains the small models of `models/` and exports them to ONNX.

    python tools/train_models.py --data FOLDER --out models [--only lenet_300_100] [--seed 0]

FOLDER holds the data sets (`mnist.npz`, `fashion_mnist.npz`), which are not part of this repository; the language
model needs none. Needs the `tools` extra: `pip install ".[tools]"`. Each model is one row of MODELS; a further kind
of model is one more file in `tools/training/` and one more row.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import nn

from training.data import Images, load_images
from training.export import accuracy, cross_entropy, run, to_onnx
from training.perceptron import Recipe, train_perceptron
from training.swiglu import SwigluRecipe, train_swiglu
from training.text import ALPHABET, unigram_entropy, windows, write_text
from training.transformer import TransformerRecipe, train_transformer

VERSIONED = ("torch", "onnx", "numpy")
Figures = dict[str, float]


@dataclass(frozen=True)
class Trained:
    """What a row of MODELS makes: the exported model and how it is judged.

    Attributes:
        model: The exported model.
        measure: Takes the exported file and returns its figures on the test set, with ONNX Runtime.
    """

    model: onnx.ModelProto
    measure: Callable[[Path], Figures]


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


def image_classifier(data_set: str, train: Callable[[Images, int], nn.Module]) -> Callable[[Path, int], Trained]:
    """Returns the `make` of a classifier that `train` trains on `data_set`."""

    def make(folder: Path, seed: int) -> Trained:
        images = load_images(folder, data_set)
        example = torch.from_numpy(images.test_inputs[:2])
        model = to_onnx(train(images, seed), example, "pixels", "logits")

        def measure(path: Path) -> Figures:
            figure = accuracy(run(path, images.test_inputs), images.test_labels)
            return {"accuracy": figure, "test_samples": len(images.test_labels)}

        return Trained(model, measure)

    return make


def language_model(recipe: TransformerRecipe) -> Callable[[Path, int], Trained]:
    """Returns the `make` of a language model; its text is written, not read: the data folder is not looked at."""

    def make(_: Path, seed: int) -> Trained:
        text = write_text(seed)
        inputs, labels = windows(text.held_out)
        example = torch.from_numpy(inputs[:2, :10])
        model = to_onnx(train_transformer(recipe, text, seed), example, "tokens", "logits", ("N", "T"))
        onnx.helper.set_model_props(model, {"alphabet": ALPHABET, "context": str(recipe.context)})

        def measure(path: Path) -> Figures:
            logits = run(path, inputs)
            figures = {"accuracy": accuracy(logits, labels), "loss": cross_entropy(logits, labels)}
            return figures | {"unigram_entropy": unigram_entropy(labels.ravel()), "test_samples": labels.size}

        return Trained(model, measure)

    return make


MODELS = (
    Entry("lenet_300_100", 0.980, image_classifier("mnist", partial(train_perceptron, Recipe()))),
    Entry("lenet_300_100_fashion", 0.890, image_classifier("fashion_mnist", partial(train_perceptron, Recipe()))),
    Entry("swiglu_digits", 0.980, image_classifier("mnist", partial(train_swiglu, SwigluRecipe()))),
    Entry("gelu_transformer", 0.740, language_model(TransformerRecipe())),
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
        figures = trained.measure(draft)
        if figures["accuracy"] < entry.least_accuracy:
            raise SystemExit(f"{entry.name}: {figures}, an accuracy below {entry.least_accuracy}; nothing written")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    versions = {package: version(package) for package in VERSIONED} | {"python": platform.python_version()}
    print(f"{path}: {figures}, seed {seed}, {versions}")
    return {**figures, "seed": seed, "versions": versions}


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
