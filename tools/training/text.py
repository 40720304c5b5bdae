"""Writes the text that the language model of `models/` is trained on: sentences of a small grammar, from a seed.

Nothing is downloaded or quoted. A sentence is one of a few kinds, each with something to learn that reaches over many
characters: agreement across a phrase of the other number, who has what, sums, dates and their weekdays, nested
brackets, series, spelling. Needs numpy alone, and `random.Random`, whose draws are the same in every Python.
"""

from __future__ import annotations

import datetime
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

ALPHABET = "\n " + string.ascii_lowercase + string.digits + ".,:;?+-*=()[]{}<>"
CONTEXT = 64
TRAIN_SENTENCES = 32_000
HELD_OUT_SENTENCES = 1_600

PEOPLE = (
    *(("farmer", "farmers"), ("child", "children"), ("baker", "bakers"), ("woman", "women"), ("painter", "painters")),
    *(("sailor", "sailors"), ("teacher", "teachers"), ("king", "kings"), ("man", "men"), ("lady", "ladies")),
)
ANIMALS = (
    *(("mouse", "mice"), ("dog", "dogs"), ("goose", "geese"), ("fox", "foxes"), ("pony", "ponies")),
    *(("cat", "cats"), ("wolf", "wolves"), ("crow", "crows"), ("sheep", "sheep"), ("frog", "frogs")),
)
THINGS = (
    *(("lamp", "lamps"), ("apple", "apples"), ("box", "boxes"), ("knife", "knives"), ("basket", "baskets")),
    *(("berry", "berries"), ("hat", "hats"), ("letter", "letters"), ("brush", "brushes"), ("coin", "coins")),
)
PLACES = ("river", "old mill", "market", "bridge", "stone wall", "garden", "harbour", "forest", "tower", "barn")
ADJECTIVES = ("small", "old", "green", "quiet", "clever", "heavy", "young", "brown", "tired", "bright")
TRANSITIVE = (
    *(("see", "sees"), ("carry", "carries"), ("find", "finds"), ("watch", "watches"), ("want", "wants")),
    *(("hide", "hides"), ("bring", "brings"), ("miss", "misses"), ("need", "needs"), ("move", "moves")),
)
INTRANSITIVE = (("sleep", "sleeps"), ("sing", "sings"), ("wait", "waits"), ("rest", "rests"), ("run", "runs"))
NAMES = (
    *(("anna", "she"), ("tom", "he"), ("maria", "she"), ("peter", "he"), ("lucy", "she")),
    *(("omar", "he"), ("ivy", "she"), ("hugo", "he"), ("nora", "she"), ("felix", "he")),
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
BRACKETS = ("()", "[]", "{}", "<>")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)


def phrase(rng: Random, nouns: tuple[tuple[str, str], ...], plural: bool) -> str:
    """Returns a noun with its determiner and perhaps an adjective: "these old mice"."""
    determiner = rng.choice(("the", "these", rng.choice(NUMBERS[2:]))) if plural else rng.choice(("the", "this", "one"))
    adjective = f"{rng.choice(ADJECTIVES)} " if rng.random() < 0.4 else ""
    return f"{determiner} {adjective}{rng.choice(nouns)[plural]}"


def agreement(rng: Random) -> str:
    """Subject and verb agree in number, also across a place or an animal of another number between them."""
    plural = rng.random() < 0.5
    subject = phrase(rng, rng.choice((PEOPLE, ANIMALS)), plural)
    between = ""
    if rng.random() < 0.5:
        between = rng.choice((f" by the {rng.choice(PLACES)}", f" with {phrase(rng, ANIMALS, rng.random() < 0.5)}"))
    if rng.random() < 0.3:
        return f"{subject}{between} {rng.choice(INTRANSITIVE)[not plural]}."
    verb = rng.choice(TRANSITIVE)[not plural]
    return f"{subject}{between} {verb} {phrase(rng, THINGS, rng.random() < 0.5)}."


def answer(rng: Random) -> str:
    """A question repeated as its answer, the verb agreeing: "do the mice sing? yes, the mice sing."."""
    plural = rng.random() < 0.5
    subject = phrase(rng, rng.choice((PEOPLE, ANIMALS)), plural)
    verb = rng.choice(INTRANSITIVE)
    if rng.random() < 0.5:
        return f"{'do' if plural else 'does'} {subject} {verb[0]}? yes, {subject} {verb[not plural]}."
    return f"{'do' if plural else 'does'} {subject} {verb[0]}? no, {subject} {'do' if plural else 'does'} not."


def giving(rng: Random) -> str:
    """Who has what in the end: names and pronouns reach back."""
    (giver, pronoun), (taker, other) = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)[0]
    endings = (
        f"now {taker} has the {thing}.",
        f"{pronoun} has no {thing} now." if pronoun != other else f"{giver} has no {thing} now.",
        f"{taker} thanks {giver}.",
    )
    return f"{giver} gives the {thing} to {taker}, so {rng.choice(endings)}"


def arithmetic(rng: Random) -> str:
    """A true sum, difference or product, in digits or, up to twelve, in words."""
    if rng.random() < 0.3:
        left = rng.randint(0, 12)
        right = rng.randint(0, 12 - left)
        return f"{NUMBERS[left]} and {NUMBERS[right]} make {NUMBERS[left + right]}."
    sign = rng.choice("+-*")
    left, right = (rng.randint(2, 12), rng.randint(2, 12)) if sign == "*" else (rng.randint(0, 99), rng.randint(0, 99))
    left, right = (max(left, right), min(left, right)) if sign == "-" else (left, right)
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return f"{left} {sign} {right} = {value}."


def comparison(rng: Random) -> str:
    """Two numbers in their order."""
    left, right = rng.sample(range(1000), 2)
    return f"{left} is {'less' if left < right else 'more'} than {right}."


def date(rng: Random) -> str:
    """A day of a year with its weekday, and the day that follows it."""
    day = datetime.date(1970, 1, 1) + datetime.timedelta(days=rng.randrange(40 * 365))
    after = day + datetime.timedelta(days=1)
    first = f"{WEEKDAYS[day.weekday()]} {day.day} {MONTHS[day.month - 1]} {day.year}"
    return f"after {first}: {WEEKDAYS[after.weekday()]} {after.day} {MONTHS[after.month - 1]}."


def brackets(rng: Random) -> str:
    """Brackets of four kinds, every one closed by its own, at most 32 characters and a stop."""
    written, open_ones = "", ""
    length = 2 * rng.randint(3, 16)
    while len(written) + len(open_ones) < length:
        if open_ones and (len(open_ones) > 7 or rng.random() < 0.4):
            written, open_ones = written + open_ones[-1], open_ones[:-1]
        else:
            kind = rng.choice(BRACKETS)
            written, open_ones = written + kind[0], open_ones + kind[1]
    return f"{written}{open_ones[::-1]}."


def series(rng: Random) -> str:
    """Numbers at equal distances, upwards or downwards."""
    step, count, first = rng.randint(1, 9), rng.randint(4, 8), rng.randint(0, 50)
    terms = [first + step * k for k in range(count)]
    if rng.random() < 0.4:
        return f"down by {step}: {', '.join(map(str, reversed(terms)))}."
    return f"up by {step}: {', '.join(map(str, terms))}."


def spelling(rng: Random) -> str:
    """A word and its letters, or the same words said twice."""
    words = [rng.choice(rng.choice((PEOPLE, ANIMALS, THINGS)))[rng.random() < 0.5] for _ in range(3)]
    if rng.random() < 0.3:
        return f"spell {words[0]} {words[1]}: {' '.join(words[0])}; {' '.join(words[1])}."
    return f"say {' '.join(words)}: {' '.join(words)}."


KINDS: tuple[tuple[Callable[[Random], str], int], ...] = (
    *((agreement, 6), (answer, 2), (giving, 3), (arithmetic, 3), (comparison, 1)),
    *((date, 2), (brackets, 2), (series, 2), (spelling, 2)),
)


def sentences(seed: int) -> Iterator[str]:
    """Yields sentences without end, no sentence twice."""
    rng = Random(seed)
    kinds, weights = zip(*KINDS, strict=True)
    seen: set[str] = set()
    while True:
        sentence = rng.choices(kinds, weights)[0](rng)
        if sentence not in seen:
            seen.add(sentence)
            yield sentence


def encode(text: str) -> npt.NDArray[np.int64]:
    """Returns a text as tokens: each character's place in ALPHABET, (length,)."""
    return np.array([ALPHABET.index(character) for character in text], np.int64)


def windows(tokens: npt.NDArray[np.int64], start: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cuts tokens (length,) into windows that do not overlap, from `start` on.

    Returns:
        The windows (M, CONTEXT), and the tokens that follow each of their tokens, (M, CONTEXT).
    """
    count = (len(tokens) - start - 1) // CONTEXT
    end = start + count * CONTEXT
    return tokens[start:end].reshape(count, CONTEXT), tokens[start + 1 : end + 1].reshape(count, CONTEXT)


@dataclass(frozen=True)
class Text:
    """A text in two parts that share no sentence, one sentence a line.

    Attributes:
        train: Tokens to train on, (length,).
        held_out: Tokens to judge by, (length,).
    """

    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def write_text(seed: int) -> Text:
    """Writes both parts of the text: TRAIN_SENTENCES and HELD_OUT_SENTENCES sentences, all different."""
    stream = sentences(seed)
    train, held_out = (
        "".join(f"{next(stream)}\n" for _ in range(count)) for count in (TRAIN_SENTENCES, HELD_OUT_SENTENCES)
    )
    return Text(encode(train), encode(held_out))


def unigram_entropy(tokens: npt.NDArray[np.int64]) -> float:
    """Returns the entropy of single tokens (length,), in nats: the loss of the best guess that sees no context."""
    share = np.bincount(tokens, minlength=len(ALPHABET)) / len(tokens)
    share = share[share > 0]
    return float(-np.sum(share * np.log(share)))
