"""Last stage: what happened, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_coreset import __version__
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.domains import BoxDomain, EllipsoidDomain
from onnx_coreset.core.layer import Columns, Features, Gated, HiddenLayer, Neurons
from onnx_coreset.edge.differences import TensorError
from onnx_coreset.edge.runtime import Provider
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.report import (
    ChainReport,
    Domain,
    EndToEnd,
    ErrorFacts,
    FileFacts,
    OutputError,
    PolishFacts,
    Relative,
    Report,
    Validation,
)
from onnx_coreset.stages.blind import blind
from onnx_coreset.stages.domains import Stated
from onnx_coreset.stages.judging import Judged
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened, named_width
from onnx_coreset.stages.proving import inside
from onnx_coreset.stages.sampling import Sources
from onnx_coreset.stages.statements import Statements
from onnx_coreset.stages.through import Through


def skipped(skip: Skip) -> ChainReport:
    """Return the report of a place that is not cut."""
    return ChainReport(name=skip.where, width_before=skip.width, status="skipped", code=skip.code, reason=skip.reason)


def mapped(space: Space, layer: HiddenLayer) -> ChainReport:
    """Return the report of a chain of which nothing was decided."""
    return replace(_about(space, layer), width_before=space.width)


def _about(space: Space, layer: HiddenLayer) -> ChainReport:
    """Return what is known of a chain before anything is decided."""
    parts = [
        part
        for r in layer.readouts
        for part in (r.features.parts if isinstance(r.features, Columns) else (r.features,))
    ]
    kinds = list(dict.fromkeys(_activation(part) for part in parts))
    return ChainReport(
        name=space.name,
        activation=", ".join(kinds),
        features=layer.readouts[0].features.name,
        consumers=tuple(c.dense.node.name or c.dense.output.name for c, _ in space.consumers),
        inputs=layer.inputs,
        outputs=layer.outputs,
    )


def _activation(features: Features) -> str:
    """Return the name of the activation, as a report has it."""
    if isinstance(features, Gated):
        return features.gate.activation.name
    return features.activation.name if isinstance(features, Neurons) else "composite"


def chain_report(chain: Narrowed, options: Options, carried: Mapping[str, TensorError]) -> ChainReport:
    """Return the report of a chain.

    Args:
        chain: What became of it.
        options: What was asked.
        carried: Errors inside the whole narrower model, by tensor.
    """
    narrower = chain.narrower
    eps = options.eps if named_width(chain.space.name, options) is None else None
    return replace(
        _about(chain.space, chain.layer),
        law=None if blind(options) else chain.inputs.law.name,
        width_before=chain.space.width,
        width_after=chain.coreset.width,
        kept=tuple(int(i) for i in chain.coreset.kept) if narrower else None,
        method=chain.coreset.method,
        eps=eps,
        status="pruned" if narrower else "kept",
        code=None if narrower else chain.code,
        reason=None if narrower else chain.reason,
        error=_errors(chain, options, carried) if narrower else ErrorFacts(),
        curve=chain.curve,
        lossless=chain.lossless,
        polish=None if chain.polish is None else PolishFacts(chain.polish.together, chain.polish.error),
        correction=chain.correction if narrower else None,
    )


def _errors(chain: Narrowed, options: Options, carried: Mapping[str, TensorError]) -> ErrorFacts:
    found = chain.errors
    if found is None:
        return ErrorFacts()
    relative = Relative(*(getattr(found, name) / found.unit for name in ("rms", "p99", "max")))
    # Several heads: each is divided by its own spread first, as the local error is.
    consumers = (chain if chain.polish is None else chain.polish.last).space.consumers
    inner = [carried.get(consumer.output.name) for consumer, _ in consumers]
    rms = None
    if all(error is not None for error in inner):
        scales = [1.0 if len(inner) == 1 else (error.spread or 1.0) for error in inner if error is not None]
        weights = [consumer.outputs for consumer, _ in consumers]
        squares = [(e.rms / s) ** 2 for e, s in zip(inner, scales, strict=True) if e is not None]
        rms = float(np.sqrt(np.average(squares, weights=weights)))
    x = as_float(chain.inputs.fresh)
    proof = chain.proof
    stated = chain.inputs.stated if proof is None else proof.stated
    outside = int(np.count_nonzero(~inside(stated.domain, x))) if proof is None else proof.outside
    return ErrorFacts(
        unit="spread" if not options.absolute and found.spread > 0 else "absolute",
        spread=found.spread,
        rms=found.rms,
        p99=found.p99,
        max=found.max,
        relative=relative,
        worst_output=found.worst_output,
        carried_rms=rms,
        samples=found.samples,
        outside=outside,
        attacked=None if proof is None else proof.largest,
        attacked_mean=None if proof is None else float(proof.attacked.mean()),
        certified=None if proof is None else proof.bound,
        certified_mean=None if proof is None else float(proof.certified.mean()),
        domain=_domain(stated),
    )


def _end_to_end(found: Through | str | None) -> EndToEnd:
    """Return what is proven of an output, for the report."""
    if found is None or isinstance(found, str):
        return EndToEnd(reason=found)
    attacked = found.attacked
    return EndToEnd(
        output=found.output,
        attacked=None if attacked is None else float(attacked.max()),
        attacked_mean=None if attacked is None else float(attacked.mean()),
        certified=float(found.certified.max()),
        certified_mean=float(found.certified.mean()),
        domain=_domain(found.stated),
    )


def _domain(stated: Stated) -> Domain:
    """Return a domain for the report; numbers that are all the same are one."""
    domain, source = stated.domain, stated.source
    if isinstance(domain, BoxDomain):
        return Domain("box", low=_one(domain.low), high=_one(domain.high), proven=domain.proven, source=source)
    kind = "ellipsoid" if isinstance(domain, EllipsoidDomain) else "ball"
    return Domain(kind, _one(domain.centre), domain.radius, proven=domain.proven, source=source)


def _one(values: Array) -> float | tuple[float, ...]:
    if values.size and np.all(values == values[0]):
        return float(values[0])
    return tuple(float(value) for value in values)


def validation(judged: Judged | None, found: Sources, provider: Provider, notes: Sequence[str]) -> Validation:
    """Return what was validated.

    Args:
        judged: The narrower model and what is known of it.
        found: Where inputs came from.
        provider: Where models were run.
        notes: Warnings.
    """
    law = found.held_back[0].name if found.held_back is not None else None
    if judged is None or judged.comparison is None:
        passed = None if judged is None else judged.passed
        ends = _end_to_end(None if judged is None else judged.through)
        return Validation(provider=provider.name, law=law, passed=passed, notes=tuple(notes), end_to_end=ends)
    outputs = tuple(
        OutputError(o.name, o.max, o.rms, o.rms / o.spread if o.spread > 0 else o.rms)
        for o in judged.comparison.outputs
    )
    return Validation(
        provider=provider.name,
        law=law,
        samples=judged.comparison.samples,
        passed=judged.passed,
        outputs=outputs,
        random_outputs=judged.comparison.random,
        notes=tuple(notes),
        end_to_end=_end_to_end(judged.through),
    )


def said(chains: Sequence[ChainReport], verdict: Validation, found: Statements) -> tuple[list[ChainReport], Validation]:
    """Return both with what is said of inputs that were not seen.

    Args:
        chains: Every chain and every place that looks like one.
        verdict: What was validated.
        found: What is said.
    """
    told = [
        replace(chain, error=replace(chain.error, statement=found.chains[chain.name]))
        if chain.status == "pruned" and chain.name in found.chains
        else chain
        for chain in chains
    ]
    return told, replace(verdict, statement=found.model, shifts=found.shifts)


def report(
    opened: Opened,
    options: Options,
    chains: Sequence[ChainReport],
    verdict: Validation,
    output: FileFacts,
    seconds: Mapping[str, float],
) -> Report:
    """Return the report of a run."""
    return Report(
        version=__version__,
        input=opened.facts,
        output=output,
        options=options.as_dict(),
        chains=tuple(chains),
        validation=verdict,
        seconds={stage: round(value, 4) for stage, value in seconds.items()},
    )
