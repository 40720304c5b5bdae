"""Perceptrons on grey images: fully connected layers with ReLU between them, trained as anybody would."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from training.data import Images
from training.loop import decayed, fit, shuffled


@dataclass(frozen=True)
class Recipe:
    """How a perceptron is trained: SGD with momentum, cosine decay after a linear warm-up, cross-entropy.

    Attributes:
        widths: Number of neurons of every layer, the input and the output included.
        epochs: Passes over the training set.
        batch_size: Samples a step.
        learning_rate: The highest learning rate.
        momentum: Momentum of the gradient.
        weight_decay: Weight decay of the weights; biases are not decayed.
    """

    widths: tuple[int, ...] = (784, 300, 100, 10)
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """Builds the untrained network: Linear, ReLU, ..., Linear; the last layer gives the logits."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_perceptron(recipe: Recipe, images: Images, seed: int) -> nn.Module:
    """Trains a perceptron and returns the model after the last epoch: no epoch is chosen by its test accuracy."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = perceptron(recipe.widths)
    optimizer = torch.optim.SGD(decayed(model, recipe.weight_decay), lr=recipe.learning_rate, momentum=recipe.momentum)
    steps = recipe.epochs * math.ceil(len(images.train_inputs) / recipe.batch_size)
    fit(
        model,
        optimizer,
        lambda _: shuffled(images.train_inputs, images.train_labels, recipe.batch_size, generator),
        recipe.epochs,
        steps,
        recipe.learning_rate,
    )
    return model
