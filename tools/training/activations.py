"""Perceptrons on grey images as in `perceptron`, with another activation in place of ReLU, trained briefly."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import torch
from torch import nn

from training.data import Images
from training.export import to_onnx
from training.loop import decayed, fit, shuffled
from training.perceptron import Recipe, perceptron

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


def trained(path: Path, activation: str, images: Images, epochs: int, seed: int) -> onnx.ModelProto:
    """Return a perceptron, read from `path` or trained and written there."""
    if not path.is_file():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        generator, recipe = torch.Generator().manual_seed(seed), Recipe(epochs=epochs)
        layers = perceptron((images.train_inputs.shape[1], *recipe.widths[1:]))
        model = nn.Sequential(*(ACTIVATIONS[activation]() if isinstance(layer, nn.ReLU) else layer for layer in layers))
        rate, size = recipe.learning_rate, recipe.batch_size
        optimizer = torch.optim.SGD(decayed(model, recipe.weight_decay), lr=rate, momentum=recipe.momentum)
        steps = epochs * math.ceil(len(images.train_inputs) / size)
        table = (images.train_inputs, images.train_labels)
        fit(model, optimizer, lambda _: shuffled(*table, size, generator), epochs, steps, rate)
        made = to_onnx(model, torch.from_numpy(images.test_inputs[:2]), "pixels", "logits")
        path.write_bytes(made.SerializeToString(deterministic=True))
    return onnx.load(path)
