"""Perceptrons on grey images: fully connected layers with ReLU between them, trained as anybody would."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from training.data import Images


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


def batches(images: Images, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields one epoch of shuffled batches: inputs (batch, 784) and labels (batch,)."""
    inputs, labels = torch.from_numpy(images.train_inputs), torch.from_numpy(images.train_labels)
    for chosen in torch.split(torch.randperm(len(inputs), generator=generator), recipe.batch_size):
        yield inputs[chosen], labels[chosen]


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Makes the optimiser of a recipe: weights are decayed, biases are not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


def test_accuracy(model: nn.Module, images: Images) -> float:
    """Returns the share of test images that the model classifies rightly, in [0, 1]."""
    with torch.no_grad():
        predicted = model(torch.from_numpy(images.test_inputs)).argmax(dim=1).numpy()
    return float(np.mean(predicted == images.test_labels))


def train_perceptron(images: Images, recipe: Recipe, seed: int) -> nn.Module:
    """Trains a perceptron and returns the model after the last epoch: no epoch is chosen by its test accuracy."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = perceptron(recipe.widths)
    optimizer = optimiser(model, recipe)
    steps = recipe.epochs * math.ceil(len(images.train_inputs) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    loss_of = nn.CrossEntropyLoss()
    started = time.perf_counter()
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        for inputs, labels in batches(images, recipe, generator):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(inputs), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(labels)
        mean_loss = total / len(images.train_inputs)
        seconds = time.perf_counter() - started
        print(f"  epoch {epoch}/{recipe.epochs}: loss {mean_loss:.4f}, {seconds:.0f} s", flush=True)
    print(f"  test accuracy in torch: {test_accuracy(model, images):.4f}", flush=True)
    return model.eval()
