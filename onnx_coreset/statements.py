"""What is said of inputs that were not seen, as plain data: objects of the JSON report, as those of `facts` are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Level", "Share", "Shift", "Statement"]


@dataclass(frozen=True)
class Level:
    """One statement about a fresh draw.

    Attributes:
        probability: It errs by more than `exceeds` with at most this probability.
        exceeds: The error.
    """

    probability: float
    exceeds: float


@dataclass(frozen=True)
class Share:
    """How many draws err by more than eps.

    Attributes:
        error: eps as an error.
        count: How many of the draws did.
        low: Lower end of the share of all draws that do, as sure as the statement.
        high: Upper end of it.
    """

    error: float
    count: int
    low: float
    high: float


@dataclass(frozen=True)
class Statement:
    """What is said of the error on an input that was not seen, from inputs that decided nothing.

    The error is the largest absolute one over all outputs: a layer's in the unit of its other errors, those of a whole
    model each over that output's spread.

    Attributes:
        kind: "order", from independent draws of a law, or "conformal", from inputs that a fresh one is exchangeable
            with.
        about: In words, what a draw is.
        law: In words, what it was drawn from.
        samples: How many draws there were.
        delta: An "order" statement is wrong with at most this probability, each one by itself; None for a "conformal"
            one, which holds on average over the inputs that were held back.
        probability: A fresh draw errs by more than `exceeds` with at most this probability.
        exceeds: The largest error of the draws.
        levels: The same for rounder, larger probabilities, as far as there are draws for them.
        share: How many draws err by more than eps; None where none holds, or nothing can be said of it.
        reason: Why there is no statement; None where there is one, or nothing is narrower.
    """

    kind: Literal["order", "conformal"] | None = None
    about: str | None = None
    law: str | None = None
    samples: int | None = None
    delta: float | None = None
    probability: float | None = None
    exceeds: float | None = None
    levels: tuple[Level, ...] = ()
    share: Share | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Shift:
    """The error at the model's outputs where its inputs are other than they were.

    Attributes:
        kind: What was done to the inputs of floating point: "none", "scaled" by `amount`, or "noise" or "shifted" by
            `amount` in units of their spread.
        amount: How much.
        relative_rms: Largest error of an output in rms over its spread on the same inputs.
        ratio: The same over that of inputs as they are.
    """

    kind: Literal["none", "scaled", "noise", "shifted"]
    amount: float
    relative_rms: float | None = None
    ratio: float | None = None
