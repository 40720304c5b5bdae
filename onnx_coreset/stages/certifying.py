"""What is proven about each narrower layer: how far it can be from the original for every input of its domain.

A sound bound, the rounding of both networks as they run included, next to the worst input that a search found, samples
included. Tight ones take up to a minute a layer, and all of them together up to two minutes: a layer gets twice its
share of what is left, so that what quick ones leave is for those that can use it; where that is little, the bounds
are the fast ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from onnx_coreset.core.certificates import Certificate, Effort
from onnx_coreset.core.layer import HiddenLayer
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.graph.extract import extract
from onnx_coreset.options import Options
from onnx_coreset.stages.blind import blind
from onnx_coreset.stages.judging import Judged
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import as_stored, certificate, inside, measured_inside, scales, unit_of
from onnx_coreset.stages.sampling import stream
from onnx_coreset.stages.through import of_model, of_stack

Tell = Callable[[str, int, int, str], None]

_PROOF = 4
_LEAST = 1.0
_SECONDS: Mapping[Effort, float] = MappingProxyType({"fast": 10.0, "tight": 60.0})
_TOTAL: Mapping[Effort, float] = MappingProxyType({"fast": 30.0, "tight": 120.0})
_ENDS: Mapping[Effort, float] = MappingProxyType({"fast": 2.0, "tight": 10.0})


def proven(judged: Judged, opened: Opened, options: Options, tell: Tell) -> Judged:
    """Return what was judged, with what is proven about the chains that are narrower, and about the output.

    Args:
        judged: The narrower model.
        opened: The model.
        options: What was asked.
        tell: Called with (stage, done, total, detail).
    """
    if options.certify == "off" or blind(options) or not any(chain.narrower for chain in judged.chains):
        return judged
    effort: Effort = "tight" if options.certify == "tight" else "fast"
    chains = _chains(judged.chains, opened, options, effort, tell)
    tell("certify", len(chains), len(chains), "the output")
    return replace(judged, chains=chains, through=of_model(chains, judged.model, opened, options, _ENDS[effort]))


def _chains(
    chains: Sequence[Narrowed], opened: Opened, options: Options, effort: Effort, tell: Tell
) -> tuple[Narrowed, ...]:
    """Return the chains with what is proven about those that are narrower."""
    together: dict[tuple[str, ...], Proof | None] = {}
    done: list[Narrowed] = []
    started, waiting = time.monotonic(), sum(chain.narrower for chain in chains)
    for index, chain in enumerate(chains):
        tell("certify", index, len(chains), chain.space.name)
        opened.forget()
        names = () if chain.polish is None else chain.polish.together
        if len(names) > 1 and names not in together:
            stack = sorted((c for c in chains if c.space.name in names), key=lambda c: names.index(c.space.name))
            together[names] = of_stack(stack, opened, options, _share(effort, started, waiting))
        if not chain.narrower:
            done.append(chain)
            continue
        if len(names) > 1:
            proof = together[names]
        else:
            proof = _proof(chain, opened, effort, options, _share(effort, started, waiting))
        done.append(replace(chain, proof=proof))
        waiting -= 1
    return tuple(done)


def _share(effort: Effort, started: float, waiting: int) -> float:
    """Return how many seconds a layer gets, of those that `waiting` layers have left."""
    left = _TOTAL[effort] - (time.monotonic() - started)
    return float(np.clip(2.0 * left / max(waiting, 1), _LEAST, _SECONDS[effort]))


def _proof(chain: Narrowed, opened: Opened, effort: Effort, options: Options, seconds: float) -> Proof | None:
    alone = extract(opened.document, chain.space, chain.inputs.fresh.rank)
    after = as_stored(alone, chain.space.name, chain.layer, chain.coreset)
    rng = stream(options.seed, chain.space.name, _PROOF)
    effort = effort if seconds >= _SECONDS["fast"] else "fast"
    found = certificate(chain.layer, after, chain.inputs, effort, rng, unit_of(chain.space), seconds)
    return None if found is None else _with_samples(found, chain, after)


def _with_samples(found: Certificate, chain: Narrowed, after: HiddenLayer) -> Proof:
    """Return a certificate in the unit of the layer's errors, with what its samples and an earlier proof tell."""
    x = as_float(chain.inputs.fresh)
    held = inside(chain.inputs.stated.domain, x)
    scale = scales(chain.layer, x)
    exact, certified = found.certified / scale, (found.certified + found.rounding) / scale
    if chain.proof is not None:
        exact, certified = np.fmin(exact, chain.proof.exact), np.fmin(certified, chain.proof.certified)
    attacked = found.attacked / scale
    if held.any():
        pairs = zip(chain.layer.evaluate(x[held]), after.evaluate(x[held]), strict=True)
        apart = np.concatenate([np.abs(one - other).max(axis=0) for one, other in pairs]) / scale
        attacked = np.fmax(attacked, apart)
    return Proof(
        stated=chain.inputs.stated,
        certified=certified,
        exact=exact,
        attacked=attacked,
        largest=max(float(attacked.max(initial=0.0)), measured_inside(chain.errors, held)),
        outside=int(np.count_nonzero(~held)),
    )
