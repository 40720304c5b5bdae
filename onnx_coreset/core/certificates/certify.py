"""The certificate of a layer and its shrunk self: how far apart they are at most, for every input of a domain.

Several bounds are computed and the least of them is taken, output by output; each is sound on its own:

    interval   every neuron replaced by its range
    linear     every neuron replaced by a line, around its even part or around the middle of the domain
    shared     one eigenvalue for all outputs
    affine     affine policies on the even parts or on broken lines, or relaxed signs around the middle of the domain

The first three are cheap. The last is spent on the outputs whose bound is largest first, until the time is up. Features
that are not dense neurons have bounds of their own; columns of dense neurons are dense neurons.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.certificates.anyfeatures import Work, bounded
from onnx_coreset.core.certificates.attack import Attack
from onnx_coreset.core.certificates.deployed import SINGLE, deployed
from onnx_coreset.core.certificates.difference import difference
from onnx_coreset.core.certificates.domains import Domain
from onnx_coreset.core.certificates.mixture import dense, mixture
from onnx_coreset.core.certificates.outputs import Plan, proven
from onnx_coreset.core.features import Columns, Gated, Joint, Neurons
from onnx_coreset.core.layer import HiddenLayer

__all__ = ["Certificate", "Effort", "certify"]

Effort = Literal["fast", "tight"]


_PLANS: Mapping[str, Plan] = MappingProxyType(
    {"fast": Plan((60, 16), (100, 12), (30, 2), 4_000), "tight": Plan((200, 24), (200, 16), (60, 4))}
)
_WORK: Mapping[str, Work] = MappingProxyType({"fast": Work(40, 8, 30, 2), "tight": Work(150, 12, 60, 4)})
_KNOWN = (Neurons, Gated, Joint, Columns)
_MOST_DENSE = 4096


@dataclass(frozen=True)
class Certificate:
    """What is proven, and what was found, about two layers over a domain.

    Outputs of all readouts stand one after another, k in all.

    Attributes:
        domain: The inputs it holds for.
        certified: No input of the domain makes outputs differ by more, shape (k,); weights as stored, real arithmetic.
        attacked: They do differ by as much at `worst`, shape (k,).
        worst: An input for each output, shape (k, d).
        rounding: What the rounding of both networks as they run adds at most, shape (k,).
        methods: Which bound is the one certified, for each output.
        bounds: Every bound that was computed, by name, shape (k,) each; infinite where it was not.
        reason: Why nothing is certified, or "".
    """

    domain: Domain
    certified: Array
    attacked: Array
    worst: Array
    rounding: Array
    methods: tuple[str, ...]
    bounds: Mapping[str, Array]
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("certified", "attacked", "worst", "rounding"):
            object.__setattr__(self, name, frozen(getattr(self, name)))


def certify(
    before: HiddenLayer,
    after: HiddenLayer,
    domain: Domain,
    effort: Effort = "tight",
    rng: np.random.Generator | None = None,
    seconds: float = float("inf"),
    unit: float = SINGLE,
    workers: int = 1,
    enough: Array | None = None,
) -> Certificate | None:
    """Return how far apart two layers are for every input of a domain.

    Args:
        before: A layer.
        after: Another with the same inputs and outputs; its neurons may be fewer, and other ones.
        domain: The inputs.
        effort: "tight", or "fast" with fewer steps.
        rng: For the starts of descent and search; what is proven holds whatever it draws.
        seconds: When to stop improving bounds; a last step may take longer.
        unit: Largest relative error of one operation of the networks as they run.
        workers: Threads that share the outputs. The products are small: with one thread of BLAS each they take a
            tenth of the time that several threads of BLAS on a busy machine do.
        enough: What the certified error, rounding included, is to stay below, shape (k,): outputs whose bound does are
            left alone, and nothing more is spent once one does not.

    Returns:
        The certificate, or None where features are of a kind that is not known.

    Raises:
        ValueError: The layers or the domain do not fit each other.
    """
    if len(before.readouts) != len(after.readouts):
        raise ValueError("the layers have another number of readouts")
    pairs = tuple(zip(before.readouts, after.readouts, strict=True))
    if not all(isinstance(side.features, _KNOWN) for pair in pairs for side in pair):
        return None
    rng = np.random.default_rng(0) if rng is None else rng
    started = time.monotonic()
    parts: list[Certificate] = []
    for index, (old, new) in enumerate(pairs):
        rounding = deployed(old, domain, unit) + deployed(new, domain, unit)
        deadline = started + seconds * (index + 1) / len(pairs)
        plain = isinstance(old.features, Neurons) and isinstance(new.features, Neurons)
        mixed = None if plain else mixture(old, new, domain)
        joined = difference(old, new, domain) if mixed is None else dense(mixed, _MOST_DENSE)
        begin = sum(part.certified.size for part in parts)
        goal = None if enough is None else enough[begin : begin + rounding.size] - rounding
        if joined is not None:
            found = proven(joined, domain, _PLANS[effort], rng, deadline, workers, goal)
            parts.append(_made(domain, *found, rounding))
        elif mixed is not None:
            other = bounded(mixed, domain, _WORK[effort], rng, deadline, goal)
            parts.append(_made(domain, other.bounds, other.attack, rounding))
    return parts[0] if len(parts) == 1 else _joined(parts, domain)


def _joined(parts: list[Certificate], domain: Domain) -> Certificate:
    names = [name for name in parts[0].bounds if all(name in part.bounds for part in parts)]
    return Certificate(
        domain,
        np.concatenate([part.certified for part in parts]),
        np.concatenate([part.attacked for part in parts]),
        np.concatenate([part.worst for part in parts]),
        np.concatenate([part.rounding for part in parts]),
        tuple(method for part in parts for method in part.methods),
        MappingProxyType({name: frozen(np.concatenate([part.bounds[name] for part in parts])) for name in names}),
    )


def _made(domain: Domain, bounds: Mapping[str, Array], worst: Attack, rounding: Array) -> Certificate:
    """Return the certificate of upper bounds of D and -D by name, shape (2 k,) each."""
    outputs = rounding.size
    table = np.stack([np.maximum(values[:outputs], values[outputs:]) for values in bounds.values()])
    # Both signs may take another bound; the name is that of the best one for the absolute value.
    least = np.min(np.stack(list(bounds.values())), axis=0)
    certified = np.maximum(np.maximum(least[:outputs], least[outputs:]), 0.0)
    names = list(bounds)
    return Certificate(
        domain,
        certified,
        worst.value,
        worst.worst,
        rounding,
        tuple(names[place] for place in np.argmin(table, axis=0)),
        MappingProxyType({name: frozen(values) for name, values in zip(names, table, strict=True)}),
    )
