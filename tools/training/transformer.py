"""A causal language model of characters: attention and a GELU layer in every block, each behind a LayerNorm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from training.loop import Batches, decayed, fit, shuffled
from training.text import ALPHABET, CONTEXT, Text, windows


@dataclass(frozen=True)
class TransformerRecipe:
    """The model's sizes and how it is trained: AdamW, cosine decay after a linear warm-up, cross-entropy.

    Attributes:
        vocabulary: Number of tokens.
        context: Longest sequence.
        width: Width of the residual stream.
        heads: Heads of an attention; they divide the width.
        hidden: Neurons of a block's GELU layer.
        blocks: Number of blocks.
        epochs: Passes over the training text.
        batch_size: Windows of `context` tokens a step.
        learning_rate: The highest learning rate.
        weight_decay: AdamW's weight decay of the matrices.
    """

    vocabulary: int = len(ALPHABET)
    context: int = CONTEXT
    width: int = 96
    heads: int = 4
    hidden: int = 384
    blocks: int = 3
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.01


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, recipe: TransformerRecipe) -> None:
        super().__init__()
        self.heads, self.part = recipe.heads, recipe.width // recipe.heads
        self.query_key_value = nn.Linear(recipe.width, 3 * recipe.width)
        self.out = nn.Linear(recipe.width, recipe.width)
        later = torch.ones(recipe.context, recipe.context, dtype=torch.bool).triu(1)
        self.register_buffer("later", later, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mixes the positions of x (N, T, width), each with those before it."""
        samples, length, width = x.shape
        query, key, value = (
            part.view(samples, length, self.heads, self.part).transpose(1, 2)
            for part in self.query_key_value(x).split(width, dim=-1)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(self.part)
        weights = scores.masked_fill(self.later[:length, :length], float("-inf")).softmax(dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(samples, length, width))


class Block(nn.Module):
    """Attention, then Linear, GELU, Linear; each reads its LayerNorm of the residual stream and adds to the stream."""

    def __init__(self, recipe: TransformerRecipe) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(recipe.width), Attention(recipe)
        self.feed_norm = nn.LayerNorm(recipe.width)
        self.feed = nn.Sequential(
            nn.Linear(recipe.width, recipe.hidden), nn.GELU(), nn.Linear(recipe.hidden, recipe.width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds both layers' outputs to x (N, T, width)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed(self.feed_norm(x))


class Transformer(nn.Module):
    """Token and learned position embeddings, the blocks, a last LayerNorm and the linear head."""

    def __init__(self, recipe: TransformerRecipe) -> None:
        super().__init__()
        self.tokens = nn.Embedding(recipe.vocabulary, recipe.width)
        self.positions = nn.Embedding(recipe.context, recipe.width)
        self.blocks = nn.Sequential(*(Block(recipe) for _ in range(recipe.blocks)))
        self.norm = nn.LayerNorm(recipe.width)
        self.head = nn.Linear(recipe.width, recipe.vocabulary)
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, T, vocabulary) of the token after each of `tokens` (N, T)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))


def train_transformer(recipe: TransformerRecipe, text: Text, seed: int) -> nn.Module:
    """Trains the model and returns it after the last epoch: no epoch is chosen by its held-out loss.

    Each epoch cuts the text into windows at other places.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    starts = [epoch * recipe.context // recipe.epochs for epoch in range(recipe.epochs)]

    def epoch_of(epoch: int) -> Batches:
        return shuffled(*windows(text.train, starts[epoch]), recipe.batch_size, generator)

    model = Transformer(recipe)
    optimizer = torch.optim.AdamW(decayed(model, recipe.weight_decay), lr=recipe.learning_rate)
    steps = sum(math.ceil(len(windows(text.train, start)[0]) / recipe.batch_size) for start in starts)
    fit(model, optimizer, epoch_of, recipe.epochs, steps, recipe.learning_rate)
    return model
