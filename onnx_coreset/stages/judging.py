"""Fourth stage: the coresets written into one model, and the whole model run beside the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_coreset.core.arrays import Indices
from onnx_coreset.core.layer import whole
from onnx_coreset.edge.runtime import Provider, RuntimeRefused
from onnx_coreset.edge.statistics import BATCH
from onnx_coreset.edge.validation import Comparison, compare, runs_for
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.options import Options
from onnx_coreset.plan import allowance
from onnx_coreset.stages.narrowing import Narrowed, unpolished
from onnx_coreset.stages.opening import Opened, check
from onnx_coreset.stages.sampling import FRESH, Sources, stream
from onnx_coreset.stages.through import Through

_WHOLE_SAMPLES = 512
_RUNS_OF_BRANCHES = 16


@dataclass(frozen=True)
class Judged:
    """The narrower model and what is known of it.

    Attributes:
        model: The narrower model.
        chains: What became of each chain, those kept whole at this stage included.
        comparison: Both models run side by side, or None where they could not be.
        passed: The verdict, or None where nothing could be judged.
        faults: Why it does not pass, a line each.
        notes: Warnings.
        through: What is proven of the model's output, why nothing is, or None where nobody asked.
    """

    model: onnx.ModelProto
    chains: tuple[Narrowed, ...]
    comparison: Comparison | None
    passed: bool | None
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    through: Through | str | None = None


def judge(opened: Opened, chains: Sequence[Narrowed], found: Sources, options: Options, provider: Provider) -> Judged:
    """Write the coresets and judge the result.

    Where the whole model is unacceptable (another shape, new values that are not finite), the chain with the largest
    carried error is kept whole and the rest judged again, and at last every chain. Chains that were polished together
    with one that is kept whole, and all of them where a target of the whole model is missed, are as they were before.

    Args:
        opened: The model.
        chains: What became of each chain.
        found: Where inputs come from.
        options: What was asked.
        provider: Where models are run.
    """
    present, whole_size = tuple(chains), parameters(opened.original)
    for _ in range(3):
        judged = _once(opened, present, found, options, provider)
        if not judged.faults or not any(chain.narrower for chain in judged.chains):
            verdict = _bounded(judged, options, whole_size)
            if verdict.passed is not False or all(chain.polish is None for chain in judged.chains):
                return verdict
            # Widths were chosen to meet the target without polish, which betters layers and not always outputs.
            present = unpolished(judged.chains, {chain.space.name for chain in judged.chains})
            return _bounded(_once(opened, present, found, options, provider), options, whole_size)
        worst = _worst(judged).space
        present = unpolished(judged.chains, {worst.name})
        present = tuple(_kept(c, "validation", judged.faults[0]) if c.space is worst else c for c in present)
    present = tuple(_kept(c, "validation", judged.faults[0]) if c.narrower else c for c in present)
    return _bounded(_once(opened, present, found, options, provider), options, whole_size)


def _bounded(judged: Judged, options: Options, whole: int) -> Judged:
    """Return the verdict under a target of the whole model, which the widths were chosen to meet.

    Args:
        judged: The narrower model.
        options: What was asked.
        whole: Parameters of the original.
    """
    if options.params is not None and (left := parameters(judged.model)) > allowance(whole, options.params):
        fault = f"{left / whole:.4g} of the parameters are left, above --params {options.params:g}"
        return replace(judged, passed=False, faults=(*judged.faults, f"{fault}: layers that failed stay whole"))
    if options.output_eps is None or not any(chain.narrower for chain in judged.chains):
        return judged
    worst = None if judged.comparison is None else judged.comparison.worst
    if worst is None:
        note = "--output-eps: the error at the outputs could not be measured, it is what the layers' errors predict"
        return replace(judged, notes=(*judged.notes, note))
    if worst <= options.output_eps:
        return judged
    fault = f"the relative rms error at the outputs is {worst:.3g}, above --output-eps {options.output_eps:g}"
    return replace(judged, passed=False, faults=(*judged.faults, fault))


def _once(opened: Opened, chains: tuple[Narrowed, ...], found: Sources, options: Options, provider: Provider) -> Judged:
    coresets = {chain.space.name: chain.coreset for chain in chains}
    store = None if opened.scratch is None else opened.scratch.message
    model, useless = cut(opened.model, coresets, options.constant_inputs, store)
    if any(chain.polish is not None and chain.space.name in useless for chain in chains):
        # The others of its stack count on it.
        return _once(opened, unpolished(chains, useless), found, options, provider)
    reason = "cutting it would not leave fewer parameters in the file"
    chains = tuple(_kept(c, "no-gain", reason) if c.space.name in useless and c.narrower else c for c in chains)
    if model == opened.model and not any(chain.narrower for chain in chains):
        # Nothing was cut: what was written is the original, message for message, and there is nothing to judge.
        return Judged(opened.original, chains, None, True, (), ())
    faults: tuple[str, ...] = ()
    if opened.checked:
        accepted, complaint = check(model)
        faults = () if accepted else (f"the checker refuses the narrower model: {complaint}",)
    notes: tuple[str, ...] = ()
    comparison, passed = None, None
    if options.validate and found.held_back is not None:
        try:
            comparison = side_by_side(opened, model, found, options, provider, _inner(opened, chains))
            faults += comparison.faults
            passed = not faults
        except RuntimeRefused as refused:
            notes = (f"the model does not run: {refused}",)
    elif faults:
        passed = False
    return Judged(model, chains, comparison, passed, faults, notes)


def side_by_side(
    opened: Opened,
    model: onnx.ModelProto,
    found: Sources,
    options: Options,
    provider: Provider,
    inner: Mapping[str, Indices | None],
) -> Comparison:
    """Run a narrower model beside the original on the inputs that are held back, the same ones each time.

    Args:
        opened: The original.
        model: The narrower model.
        found: Where inputs come from; some are held back.
        options: What was asked.
        provider: Where models are run.
        inner: Tensors to compare besides the outputs, each with the columns that are left of it.

    Raises:
        RuntimeRefused: The original does not run.
    """
    assert found.held_back is not None
    feeder, first = found.held_back
    rng = stream(options.seed, "outputs", FRESH)
    trial = feeder.feed(first, stream(options.seed, "outputs", 1)).values()
    batch = max((value.shape[0] for value in trial if value.ndim), default=1)
    # A truth value may decide which branch of the model runs: enough runs for either.
    least = _RUNS_OF_BRANCHES if any(value.dtype == np.bool_ for value in trial) else 2
    runs = runs_for(feeder, min(_WHOLE_SAMPLES, 2 * BATCH), batch, least)
    return compare(opened.original, model, provider, feeder, runs, rng, inner, first)


def _inner(opened: Opened, chains: Sequence[Narrowed]) -> dict[str, Indices | None]:
    """Return the outputs of the layers of the main graph, with the columns that the next layer's cut leaves of them."""
    columns: dict[str, Indices | None] = {}
    kept = {k: columns for c in chains for k, columns in c.space.region.columns(c.coreset.kept).items()}
    turned = {id(tensor) for c in chains if c.narrower for tensor, axis in c.space.region.tensors if axis != -1}
    for chain in chains:
        scope = opened.document.scope_of(chain.space.producer.dense.node)
        if not chain.narrower or scope is not opened.document.scopes[0]:
            continue
        for consumer, _ in chain.space.consumers:
            if id(consumer.output) not in turned:
                columns[consumer.output.name] = kept.get(id(consumer.output))
    return columns


def _kept(chain: Narrowed, code: str, reason: str) -> Narrowed:
    kept = whole(chain.layer, chain.coreset.method)
    return replace(chain, coreset=kept, errors=None, code=code, reason=reason, polish=None)


def _worst(judged: Judged) -> Narrowed:
    """Return the narrower chain with the largest carried error, one that is not finite above all."""

    def carried(chain: Narrowed) -> float:
        if judged.comparison is None or chain.errors is None:
            return 0.0
        found = [judged.comparison.carried.get(c.output.name) for c, _ in chain.space.consumers]
        values = [error.rms / chain.errors.unit for error in found if error is not None]
        return max((v if np.isfinite(v) else np.inf for v in values), default=0.0)

    return max((chain for chain in judged.chains if chain.narrower), key=carried)
