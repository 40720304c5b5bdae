"""The training loop that every model shares: shuffled batches, cross-entropy, a rate that rises and then falls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def shuffled(
    inputs: npt.NDArray[np.generic], labels: npt.NDArray[np.int64], batch_size: int, generator: torch.Generator
) -> Batches:
    """Yields one epoch of shuffled batches: inputs (batch, ...) and labels (batch, ...)."""
    all_inputs, all_labels = torch.from_numpy(inputs), torch.from_numpy(labels)
    for chosen in torch.split(torch.randperm(len(all_inputs), generator=generator), batch_size):
        yield all_inputs[chosen], all_labels[chosen]


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups a model's parameters for its optimiser: matrices are decayed, biases and the scales of norms are not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch_of: Callable[[int], Batches],
    epochs: int,
    steps: int,
    learning_rate: float,
) -> None:
    """Trains a model by the cross-entropy of its logits (batch, ..., classes) and leaves it in evaluation mode.

    Args:
        model: The model, trained in place.
        optimizer: Its optimiser.
        epoch_of: Takes the number of an epoch, from 0, and gives its batches.
        epochs: Number of epochs. The model after the last one is the one that stays.
        steps: Number of batches of all epochs together.
        learning_rate: The highest rate, reached after a tenth of the steps; along a cosine to nothing after that.
    """
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    loss_of = nn.CrossEntropyLoss()
    started = time.perf_counter()
    for epoch in range(epochs):
        total, seen = 0.0, 0
        for inputs, labels in epoch_of(epoch):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(inputs).flatten(0, -2), labels.flatten())
            loss.backward()
            optimizer.step()
            schedule.step()
            total, seen = total + float(loss.detach()) * len(labels), seen + len(labels)
        seconds = time.perf_counter() - started
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / seen:.4f}, {seconds:.0f} s", flush=True)
    model.eval()
