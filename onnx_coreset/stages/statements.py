"""After everything is decided: what is said of inputs that were not seen.

Samples that choose a width, a polish or a correction favour what was chosen, and correcting for that would take the
number of things that could have been chosen. So new ones are drawn, or, of a user's inputs, half of those held back are
kept apart from the start: what they say is said of one result, and needs no correction.

A statement is about independent draws. Inputs of a layer that are drawn from its law are that; of those that a model
makes, all that stem from one sample are one draw, or all of a run where its samples depend on each other, which is
tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.measure import row_errors
from onnx_coreset.edge.independence import per_draw, separate
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session, with_outputs
from onnx_coreset.edge.statistics import Samples, as_float, collect
from onnx_coreset.edge.validation import layer_outputs
from onnx_coreset.graph.extract import extract_stack, shrunk, shrunk_stack
from onnx_coreset.options import Options
from onnx_coreset.stages.judging import Judged
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened, named_width
from onnx_coreset.stages.proving import as_stored, scales
from onnx_coreset.stages.sampling import Sources, rows_wanted, stream
from onnx_coreset.stages.saying import FEW_HELD_BACK, UNSEEN, enough, independent, said
from onnx_coreset.stages.trying import tried
from onnx_coreset.statements import Shift, Statement

_MANY, _RUNS = 4096, 1024
_ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "row": "an input of the layer",
        "worst": "the worst of the layer's inputs that {whole} makes",
        "random": "one of the layer's inputs that {whole} makes, at random",
    }
)

Tell = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Statements:
    """What is said of inputs that were not seen.

    Attributes:
        chains: Of each narrower chain, by name.
        model: Of the model's outputs.
        shifts: Errors at the outputs for other inputs, or None where they were not measured.
    """

    chains: Mapping[str, Statement] = field(default_factory=dict)
    model: Statement = field(default_factory=Statement)
    shifts: tuple[Shift, ...] | None = None


@dataclass(frozen=True)
class _Drawn:
    """Inputs of layers that decided nothing.

    Attributes:
        samples: What was collected, by tensor.
        apart: Tensors whose rows of one sample do not depend on the others of its run.
        law: In words, what the model's inputs were drawn from.
        independent: Whether they are independent draws.
        reason: Why there are none, or None.
    """

    samples: Mapping[str, Samples] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    law: str = ""
    independent: bool = True
    reason: str | None = None


def statements(
    judged: Judged, opened: Opened, found: Sources, options: Options, provider: Provider, tell: Tell
) -> Statements:
    """Return what is said of a result.

    Args:
        judged: The narrower model.
        opened: The original.
        found: Where inputs come from.
        options: What was asked.
        provider: Where models are run.
        tell: Called with (stage, done, total, detail).
    """
    narrower = [chain for chain in judged.chains if chain.narrower]
    if not narrower:
        return Statements()
    reason = "the result failed validation" if judged.faults else None if options.validate else "nothing was validated"
    if reason is not None:
        none = Statement(reason=reason)
        return Statements({chain.space.name: none for chain in narrower}, none)
    stacks = {chain.space.name: _stack(chain, narrower) for chain in narrower}
    drawn = _drawn([stack[0] for stack in stacks.values()], opened, found, options, provider)
    made: dict[tuple[str, ...], Statement] = {}
    for done, stack in enumerate(stacks.values()):
        tell("state", done, len(stacks) + 1, stack[0].space.name)
        names = tuple(chain.space.name for chain in stack)
        if names not in made:
            made[names] = _of_stack(stack, drawn, opened, options, provider)
    tell("state", len(stacks), len(stacks) + 1, "the outputs")
    model, shifts = tried(judged, opened, found, options, provider)
    return Statements({n: made[tuple(c.space.name for c in s)] for n, s in stacks.items()}, model, shifts)


def _stack(chain: Narrowed, chains: Sequence[Narrowed]) -> tuple[Narrowed, ...]:
    """Return the chains that are measured together with one, in their order."""
    if chain.polish is None:
        return (chain,)
    by_name = {one.space.name: one for one in chains}
    return tuple(by_name[name] for name in chain.polish.together)


def _drawn(heads: Sequence[Narrowed], opened: Opened, found: Sources, options: Options, provider: Provider) -> _Drawn:
    """Run the model on new inputs, for the layers whose inputs were collected before."""
    # What was drawn from a law of the layer itself has no origin.
    wanted = [head for head in heads if head.inputs.fresh.origin is not None]
    feeder = found.untouched
    if not wanted:
        return _Drawn()
    if feeder is None:
        return _Drawn(reason=FEW_HELD_BACK)
    names = list(dict.fromkeys(head.space.producer.input.name for head in wanted))
    axes = {head.space.producer.input.name: head.inputs.fresh.axis for head in wanted}
    try:
        rows = _count(options, opened)
        samples = collect(
            opened.model, provider, names, feeder, rows, lambda: stream(options.seed, "inputs", UNSEEN), axes, _RUNS
        )
        rng = stream(options.seed, "apart", UNSEEN)
        feed = feeder.feed(0, rng)
        session = Session(with_outputs(opened.model, [name for name in names if name not in feed]), provider)
        apart = separate(session, names, feed, rng, axes)
    except RuntimeRefused as refused:
        return _Drawn(reason=f"the model does not run: {refused}")
    return _Drawn(samples, apart, feeder.name, independent(feeder))


def _count(options: Options, opened: Opened) -> int:
    """Return how many inputs of a layer a statement is made from: as many as validated it, or enough where cheap."""
    held = max(64, rows_wanted(options, opened) // 4)
    return held if held < _MANY else max(held, min(enough(options.delta), 4 * held))


def _of_stack(
    stack: tuple[Narrowed, ...], drawn: _Drawn, opened: Opened, options: Options, provider: Provider
) -> Statement:
    """Return what is said of chains that are measured together."""
    head, last = stack[0], stack[-1]
    name, old = head.space.name, head.inputs.fresh
    rng = stream(options.seed, name, UNSEEN)
    tensor = head.space.producer.input.name
    if old.origin is None:
        rows = head.inputs.law.sample(_count(options, opened), rng)
        samples = Samples(rows.astype(old.rows.dtype), old.rank)
    elif tensor in drawn.samples:
        samples = drawn.samples[tensor]
    else:
        return Statement(reason=drawn.reason or "the model gives no inputs of the layer that are finite")
    errors = _errors(stack, opened, provider, samples)
    if errors is None:
        return Statement(reason="ONNX Runtime does not run the layers")
    eps = options.eps if named_width(name, options) is None else None
    if eps is not None and not options.absolute and last.errors is not None:
        eps *= last.errors.unit
    if samples.origin is None:
        return said(errors, _ABOUT["row"], head.inputs.law.name, True, options.delta, eps)
    apart = tensor in drawn.apart
    values, kind = per_draw(errors, samples.origin, apart, rng)
    about = _ABOUT[kind].format(whole="a sample of the model's inputs" if apart else "a run of the model")
    return said(values, about, drawn.law, drawn.independent, options.delta, eps)


def _errors(stack: tuple[Narrowed, ...], opened: Opened, provider: Provider, samples: Samples) -> Array | None:
    """Return the largest error of each row over all outputs, shape (N,); None where nothing computes it."""
    head, last = stack[0], stack[-1]
    alone = extract_stack(opened.document, [chain.space for chain in stack], samples.rank)
    units = scales(last.layer, as_float(last.inputs.fresh))
    try:
        if len(stack) == 1:
            narrow = shrunk(alone, head.space.name, head.coreset)
        else:
            narrow = shrunk_stack(alone, [chain.coreset for chain in stack])
        before, after = (layer_outputs(model, provider, samples) for model in (alone, narrow))
    except RuntimeRefused:
        if len(stack) > 1:
            return None
        x = as_float(samples)
        after = as_stored(alone, head.space.name, head.layer, head.coreset).evaluate(x)
        before = head.layer.evaluate(x)
    return row_errors(before, after, units)
