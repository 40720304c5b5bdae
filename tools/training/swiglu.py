"""A residual network of gated layers on grey images: RMSNorm, then down(SiLU(gate(x)) * up(x)), added to x."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from training.data import Images
from training.loop import decayed, fit, shuffled


@dataclass(frozen=True)
class SwigluRecipe:
    """The network's sizes and how it is trained: AdamW, cosine decay after a linear warm-up, cross-entropy.

    Attributes:
        pixels: Number of inputs.
        width: Width of the residual stream.
        hidden: Neurons of a gated layer.
        blocks: Number of blocks.
        classes: Number of outputs.
        epochs: Passes over the training set.
        batch_size: Samples a step.
        learning_rate: The highest learning rate.
        weight_decay: AdamW's weight decay of the matrices.
    """

    pixels: int = 784
    width: int = 128
    hidden: int = 344
    blocks: int = 3
    classes: int = 10
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01


class RmsNorm(nn.Module):
    """Divides each row by the root of its mean square and multiplies by a scale per entry."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises x (..., width)."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


class Block(nn.Module):
    """One gated layer on the residual stream; its matrices have no biases, as usual for this layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = RmsNorm(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the layer's output to x (N, width)."""
        normed = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))


def swiglu(recipe: SwigluRecipe) -> nn.Sequential:
    """Builds the untrained network: a linear stem, the blocks, a last norm and the linear head."""
    blocks = (Block(recipe.width, recipe.hidden) for _ in range(recipe.blocks))
    stem, head = nn.Linear(recipe.pixels, recipe.width), nn.Linear(recipe.width, recipe.classes)
    return nn.Sequential(stem, *blocks, RmsNorm(recipe.width), head)


def train_swiglu(recipe: SwigluRecipe, images: Images, seed: int) -> nn.Module:
    """Trains the network and returns the model after the last epoch: no epoch is chosen by its test accuracy."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = swiglu(recipe)
    optimizer = torch.optim.AdamW(decayed(model, recipe.weight_decay), lr=recipe.learning_rate)
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
