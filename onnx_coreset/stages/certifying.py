"""What is proven about each narrower layer: how far it can be from the original for every input of its domain.

A sound bound, the rounding of both networks as they run included, next to the worst input that a search found, samples
included. Tight ones take up to a minute a layer, and all of them together up to two minutes: a layer gets twice its
share of what is left, so that what quick ones leave is for those that can use it; where that is little, the bounds
are the fast ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx

from onnx_coreset.core.certificates import Effort
from onnx_coreset.core.layer import Coreset, HiddenLayer
from onnx_coreset.core.measure import Errors
from onnx_coreset.edge.crew import Crew
from onnx_coreset.edge.statistics import Samples, as_float
from onnx_coreset.graph.extract import extract
from onnx_coreset.options import Options
from onnx_coreset.stages.blind import blind
from onnx_coreset.stages.domains import Stated
from onnx_coreset.stages.judging import Judged
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import as_stored, certificate, inside, measured_inside, scales, unit_of
from onnx_coreset.stages.sampling import stream
from onnx_coreset.stages.through import of_model, of_stack

__all__ = ["Claim", "prove", "proven"]

Tell = Callable[[str, int, int, str], None]

_PROOF = 4
_LEAST = 1.0
_SECONDS: Mapping[Effort, float] = MappingProxyType({"fast": 10.0, "tight": 60.0})
_TOTAL: Mapping[Effort, float] = MappingProxyType({"fast": 30.0, "tight": 120.0})
_ENDS: Mapping[Effort, float] = MappingProxyType({"fast": 2.0, "tight": 10.0})


@dataclass(frozen=True)
class Claim:
    """A layer and its narrower self, between which something is to be proven.

    Attributes:
        name: Its name.
        layer: The layer.
        alone: The same extracted.
        coreset: What it becomes.
        stated: Where its inputs lie.
        fresh: Samples of them.
        errors: Its errors there, or None.
        proof: What is proven already, or None.
        effort: How much is spent.
        unit: Largest relative error of one operation of the layer as it runs.
        seed: Seed of the run.
        seconds: When to stop.
        threads: How many threads share the work; None for as many as there are cores.
    """

    name: str
    layer: HiddenLayer
    alone: onnx.ModelProto
    coreset: Coreset
    stated: Stated
    fresh: Samples
    errors: Errors | None
    proof: Proof | None
    effort: Effort
    unit: float
    seed: int
    seconds: float
    threads: int | None


def proven(judged: Judged, opened: Opened, options: Options, tell: Tell, crew: Crew) -> Judged:
    """Return what was judged, with what is proven about the chains that are narrower, and about the output.

    Args:
        judged: The narrower model.
        opened: The model.
        options: What was asked.
        tell: Called with (stage, done, total, detail).
        crew: Who works on chains. All of it is timed: who has other work to do meanwhile proves less.
    """
    if options.certify == "off" or blind(options) or not any(chain.narrower for chain in judged.chains):
        return judged
    effort: Effort = "tight" if options.certify == "tight" else "fast"
    chains = _chains(judged.chains, opened, options, effort, tell, crew)
    tell("certify", len(chains), len(chains), "the output")
    return replace(judged, chains=chains, through=of_model(chains, judged.model, opened, options, _ENDS[effort]))


def _chains(
    chains: Sequence[Narrowed], opened: Opened, options: Options, effort: Effort, tell: Tell, crew: Crew
) -> tuple[Narrowed, ...]:
    """Return the chains with what is proven about those that are narrower."""
    proofs: dict[tuple[str, ...], Proof | None] = {}
    started, narrower = time.monotonic(), sum(chain.narrower for chain in chains)
    shared = crew.executor is not None

    def share(waiting: int) -> float:
        """Return how many seconds a layer gets, of those that `waiting` layers have left."""
        # Those that others work on begin at once, and leave nothing to each other.
        left = _TOTAL[effort] * crew.count / narrower if shared else 2.0 * _left(effort, started) / max(waiting, 1)
        return float(np.clip(left, _LEAST, _SECONDS[effort]))

    def claims() -> Iterator[Claim]:
        waiting = narrower
        for index, chain in enumerate(chains):
            tell("certify", index, len(chains), chain.space.name)
            opened.forget()
            names = _together(chain)
            if len(names) > 1 and names not in proofs:
                stack = sorted((c for c in chains if c.space.name in names), key=lambda c: names.index(c.space.name))
                proofs[names] = of_stack(stack, opened, options, share(waiting))
            elif len(names) == 1 and chain.narrower:
                yield _claim(chain, opened, effort, options, share(waiting), crew.threads)
            waiting -= chain.narrower

    for claim, proof in crew.map(prove, claims()):
        proofs[(claim.name,)] = proof
    return tuple(replace(chain, proof=proofs[_together(chain)]) if chain.narrower else chain for chain in chains)


def _together(chain: Narrowed) -> tuple[str, ...]:
    """Return the names of the chains of which something is proven together with this one, its own among them."""
    return (chain.space.name,) if chain.polish is None else chain.polish.together


def _left(effort: Effort, started: float) -> float:
    return _TOTAL[effort] - (time.monotonic() - started)


def _claim(
    chain: Narrowed, opened: Opened, effort: Effort, options: Options, seconds: float, threads: int | None
) -> Claim:
    return Claim(
        name=chain.space.name,
        layer=chain.layer,
        alone=extract(opened.document, chain.space, chain.inputs.fresh.rank),
        coreset=chain.coreset,
        stated=chain.inputs.stated,
        fresh=chain.inputs.fresh,
        errors=chain.errors,
        proof=chain.proof,
        effort=effort if seconds >= _SECONDS["fast"] else "fast",
        unit=unit_of(chain.space),
        seed=options.seed,
        seconds=seconds,
        threads=threads,
    )


def prove(claim: Claim) -> Proof | None:
    """Return what can be proven of a layer, in the unit of its errors, with what its samples and an earlier proof tell.

    Args:
        claim: The layer.
    """
    after = as_stored(claim.alone, claim.name, claim.layer, claim.coreset)
    rng = stream(claim.seed, claim.name, _PROOF)
    domain = claim.stated.domain
    found = certificate(claim.layer, after, domain, claim.effort, rng, claim.unit, claim.seconds, claim.threads)
    if found is None:
        return None
    x = as_float(claim.fresh)
    held = inside(domain, x)
    scale = scales(claim.layer, x)
    exact, certified = found.certified / scale, (found.certified + found.rounding) / scale
    if claim.proof is not None:
        exact, certified = np.fmin(exact, claim.proof.exact), np.fmin(certified, claim.proof.certified)
    attacked = found.attacked / scale
    if held.any():
        pairs = zip(claim.layer.evaluate(x[held]), after.evaluate(x[held]), strict=True)
        apart = np.concatenate([np.abs(one - other).max(axis=0) for one, other in pairs]) / scale
        attacked = np.fmax(attacked, apart)
    return Proof(
        stated=claim.stated,
        certified=certified,
        exact=exact,
        attacked=attacked,
        largest=max(float(attacked.max(initial=0.0)), measured_inside(claim.errors, held)),
        outside=int(np.count_nonzero(~held)),
    )
