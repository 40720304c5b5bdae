"""What a value of an option must be, and how it is read from one argument of the command line.

A check takes a Python value and returns it in its final form; a reader takes text. Both raise
``ValueError("must ...")``, to which the option adds its name and the value that was given.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], Any]
Reader = Callable[[str], object]

_DIGITS = 30


def finite(value: Any) -> float:
    """Takes any finite real number, those of numpy included."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def positive(value: Any) -> float:
    """Takes a finite number above 0."""
    number = finite(value)
    if number <= 0:
        raise ValueError("must be larger than 0")
    return number


def share(value: Any) -> float:
    """Takes a number above 0 and at most 1."""
    number = finite(value)
    if not 0 < number <= 1:
        raise ValueError("must be larger than 0 and at most 1")
    return number


def chance(value: Any) -> float:
    """Takes a number above 0 and below 1."""
    number = finite(value)
    if not 0 < number < 1:
        raise ValueError("must be larger than 0 and smaller than 1")
    return number


def ends(value: Any) -> tuple[float, float]:
    """Takes two finite numbers, the second not below the first."""
    pair = _items(value)
    if len(pair) != 2:
        raise ValueError("must be two numbers")
    low, high = (finite(item) for item in pair)
    if low > high:
        raise ValueError("must not end below where it begins")
    return low, high


def radii(value: Any) -> tuple[tuple[str, float], ...]:
    """Takes a radius, or (name, radius) pairs in which "" is whatever has no name of its own."""
    if hasattr(value, "__float__"):
        return (("", positive(value)),)
    given = _items(value.items() if isinstance(value, Mapping) else value)
    plain = [pair for pair in given if isinstance(pair, tuple | list) and len(pair) == 2 and pair[0] == ""]
    if len(plain) > 1:
        raise ValueError("must give every name once")
    named: tuple[tuple[str, float], ...] = pairs(positive)([pair for pair in given if pair not in plain])
    return (*(("", positive(radius)) for _, radius in plain), *named)


def at_least(least: int) -> Check:
    """Makes the check of a whole number that is not below `least`."""

    def check(value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool) or number < least:
            raise ValueError(f"must be a whole number, at least {least}")
        return number

    return check


def one_of(*names: str) -> Check:
    """Makes the check of one word out of several."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return value

    return check


def switch(value: Any) -> bool:
    """Takes True or False and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise ValueError("must be True or False")
    return value


def method(value: Any) -> object:
    """Takes a method's name or a method; which names there are is known where the methods are."""
    if value is None or value == "" or isinstance(value, bool | int | float):
        raise ValueError("must be the name of a method, or a method")
    return value


def file(suffix: str, *words: str) -> Check:
    """Makes the check of a path that ends in `suffix`, or of one of a few words."""
    wanted = ", ".join((*words, f"or a file *{suffix}")) if words else f"a file *{suffix}"

    def check(value: Any) -> str:
        path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        if not isinstance(path, str) or (path not in words and not os.path.basename(path).endswith(suffix)):
            raise ValueError(f"must be {wanted}")
        return path

    return check


def globs(value: Any) -> tuple[str, ...]:
    """Takes patterns for names; one pattern alone is taken for a list of one."""
    patterns = (value,) if isinstance(value, str) else _items(value)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError("must be a pattern such as '*fc1*'")
    return patterns


def pairs(check: Check) -> Check:
    """Makes the check of (name, value) pairs, or of a mapping, in which every name stands once."""

    def check_pairs(value: Any) -> tuple[tuple[str, Any], ...]:
        given = _items(value.items() if isinstance(value, Mapping) else value)
        if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in given):
            raise ValueError("must be pairs of a name and a value")
        if not all(isinstance(name, str) and name for name, _ in given):
            raise ValueError("must name what the value is for")
        if len({name for name, _ in given}) < len(given):
            raise ValueError("must give every name once")
        return tuple((name, check(item)) for name, item in given)

    return check_pairs


def sizes(value: Any) -> tuple[int, ...]:
    """Takes the sizes of the axes of a tensor."""
    axes = tuple(at_least(1)(size) for size in _items(value))
    if not axes:
        raise ValueError("must give the size of every axis")
    return axes


def number(text: str) -> float:
    """Reads a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def whole(text: str) -> int:
    """Reads a whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None


def size(text: str) -> int:
    """Reads an amount of memory: a number of bytes, or of one of the units kB, MB, GB, TB, KiB, MiB, GiB, TiB."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(?:([kmgt])(i?)b?|b)?", text.strip(), re.IGNORECASE | re.ASCII)
    if found is None or len(text) > _DIGITS:
        raise ValueError("must be an amount of memory such as 8GiB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" kmgt".index((unit or " ").lower())))


def whole_list(text: str) -> tuple[int, ...]:
    """Reads whole numbers with commas between them."""
    return tuple(whole(part) for part in text.split(","))


def named(separator: str, shown: str, read: Reader) -> Reader:
    """Makes the reader of a name and a value, split at the last separator, since a name may contain it."""

    def read_pair(text: str) -> object:
        name, _, value = text.rpartition(separator)
        try:
            return (name, read(value)) if name else _refuse(shown)
        except ValueError:
            return _refuse(shown)

    return read_pair


def two(separator: str, shown: str) -> Reader:
    """Makes the reader of two numbers, split at the first separator."""

    def read_two(text: str) -> object:
        first, _, second = text.partition(separator)
        try:
            return number(first), number(second)
        except ValueError:
            return _refuse(shown)

    return read_two


def radius(text: str) -> object:
    """Reads a number, or a name and a number with = between them."""
    if "=" in text:
        return named("=", "NAME=B", number)(text)
    return "", number(text)


def _refuse(shown: str) -> object:
    raise ValueError(f"must look like {shown}") from None


def _items(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise ValueError("must be a list of values")
    return tuple(value)
