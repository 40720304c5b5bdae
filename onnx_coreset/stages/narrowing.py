"""Third stage: one layer at a time, from its place in the graph to a coreset whose error was measured.

A layer is prepared first, which does not depend on how wide it will be, and then settled at a width, as often as
wanted: see `settling`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np
import onnx

from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons
from onnx_coreset.core.measure import Errors
from onnx_coreset.core.methods.base import Method
from onnx_coreset.edge.runtime import Provider
from onnx_coreset.edge.threads import one_thread
from onnx_coreset.graph.extract import extract
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.document import Numbers
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.plan import Candidates
from onnx_coreset.report import CorrectionFacts
from onnx_coreset.stages.blind import blind, one_sided
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import unit_of
from onnx_coreset.stages.sampling import LayerInputs, Sources, layer_inputs
from onnx_coreset.stages.settling import Settled, Task, choice
from onnx_coreset.stages.unsampled import unsampled

__all__ = ["Narrowed", "Polished", "Prepared", "narrowed", "prepare", "unpolished"]


@dataclass(frozen=True)
class Narrowed:
    """What became of one chain.

    Attributes:
        space: Its place.
        layer: What it read as.
        inputs: Samples of its inputs.
        coreset: What it becomes; all neurons where it is kept whole.
        errors: Its local error, or None where it was not measured.
        code: Why it is kept whole, or None where it is narrower.
        reason: The same for a person.
        ran: Whether ONNX Runtime measured the error; otherwise it was computed in float64.
        curve: (width, relative rms) as predicted, or None.
        polish: What it was before its weights were polished, or None where they were not.
        lossless: How many neurons could be dropped without any error, or None where that was not looked at.
        proof: What is proven about its error, or None where nothing is yet.
        correction: That it was refitted to what reaches it in the narrower model, or None where it was not.
    """

    space: Space
    layer: HiddenLayer
    inputs: LayerInputs
    coreset: Coreset
    errors: Errors | None
    code: str | None = None
    reason: str | None = None
    ran: bool = True
    curve: tuple[tuple[int, float], ...] | None = None
    polish: Polished | None = None
    lossless: int | None = None
    proof: Proof | None = None
    correction: CorrectionFacts | None = None

    @property
    def narrower(self) -> bool:
        """Whether neurons were dropped."""
        return self.coreset.width < self.space.width


@dataclass(frozen=True)
class Polished:
    """That a chain's weights were polished.

    Attributes:
        before: The chain as it was.
        together: Names of the chains that were polished, and measured, together; its own among them.
        last: The last of them as it was.
        error: What their relative rms was before.
    """

    before: Narrowed
    together: tuple[str, ...]
    last: Narrowed
    error: float


@dataclass(frozen=True)
class Prepared:
    """A chain of which everything is known but its width.

    Attributes:
        space: Its place.
        task: What its width is chosen by.
        extracted: Makes a model of it alone.
        made: Its coresets, once somebody wanted them.
    """

    space: Space
    task: Task
    extracted: Callable[[], onnx.ModelProto]
    made: list[Candidates] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the chain."""
        return self.space.name

    @property
    def layer(self) -> HiddenLayer:
        """What it reads as."""
        return self.task.layer

    @property
    def inputs(self) -> LayerInputs:
        """Samples of its inputs."""
        return self.task.inputs

    @property
    def method(self) -> Method:
        """What chooses neurons."""
        return self.task.method

    def choice(self) -> Candidates:
        """Return its coresets.

        Raises:
            FloatingPointError: Its features are not finite on some sample.
        """
        if not self.made:
            with one_thread():
                made = choice(self.task)
            if isinstance(made, Skip):
                raise FloatingPointError(made.reason)
            self.made.append(made)
        return self.made[0]

    def at(self, wanted: int | None) -> Task:
        """Return the task of finding out what it becomes at a width, or None where eps decides."""
        needed = (wanted is None or wanted < self.space.width) and not blind(self.task.options)
        alone = self.extracted() if needed else None
        return replace(self.task, wanted=wanted, made=self.made[0] if self.made else None, alone=alone)


def narrowed(space: Space, task: Task, found: Settled) -> Narrowed:
    """Return what became of a chain.

    Args:
        space: Its place.
        task: What its width was chosen by.
        found: What was found out.
    """
    return Narrowed(space, task.layer, task.inputs, **{f.name: getattr(found, f.name) for f in fields(found)})


def prepare(
    space: Space,
    opened: Opened,
    found: Sources,
    method: Method,
    options: Options,
    provider: Provider = Provider("CPUExecutionProvider"),  # noqa: B008
    threads: int | None = None,
) -> Prepared | Skip:
    """Read a chain and sample its inputs.

    Args:
        space: Its place.
        opened: The model.
        found: Where inputs come from.
        method: What chooses neurons.
        options: What was asked; its target does not matter.
        provider: Where layers are run.
        threads: How many threads may work on it besides BLAS's; None for all.

    Returns:
        The chain, or why it is skipped.
    """
    # Where weights alone are looked at, nothing is multiplied.
    with nullcontext() if blind(options) else one_thread():
        layer = read(opened.document, space, outgoing=not one_sided(options))
        unfit = _unfit(space, layer, method, one_sided(options))
        if unfit is not None:
            return unfit
        inputs = unsampled(layer) if blind(options) else layer_inputs(space, layer, found, opened, options)
        named = opened.asked(space.name, options)
        unit = unit_of(space)
        task = Task(space.name, layer, inputs, method, options, provider, None, unit, named, threads=threads)
        if blind(options):
            # Only its outline is kept.
            made = choice(task)
            assert isinstance(made, Candidates)
            return Prepared(space, replace(task, layer=made.layer), onnx.ModelProto, [made])
    return Prepared(space, task, partial(extract, opened.document, space, inputs.fresh.rank))


def _unfit(space: Space, layer: HiddenLayer, method: Method, one_sided: bool) -> Skip | None:
    plain = [readout.features for readout in layer.readouts if isinstance(readout.features, Neurons)]
    products = [producer.dense for producer in space.producers]
    values: list[Numbers] = [producer.bias() for producer in space.producers]
    values += [readout.constant for readout in layer.readouts]
    if one_sided:
        if len(plain) == len(layer.readouts):
            # What a number that is not finite is folded with leaves it so, and another look at the weights costs.
            products = []
            values += [neurons.incoming for neurons in plain]
        products += [consumer.dense for consumer, _ in space.consumers]
    else:
        values += [readout.outgoing for readout in layer.readouts]
    for product in products:
        values += [np.asarray(product.alpha), product.stored]
    if not all(np.isfinite(value).all() for value in values):
        return Skip(space.name, "a weight is NaN or infinite", "non-finite", space.width)
    have = {"moments", "neurons"} if len(plain) == len(layer.readouts) else {"moments"}
    lacking = sorted(method.requires - have)
    if lacking:
        return Skip(space.name, f"the method {method.name} needs {', '.join(lacking)}", "requires", space.width)
    return None


def unpolished(chains: Iterable[Narrowed], names: Collection[str]) -> tuple[Narrowed, ...]:
    """Return the chains, but those polished together with one of `names` as they were before."""
    return tuple(
        chain.polish.before if chain.polish is not None and not set(names).isdisjoint(chain.polish.together) else chain
        for chain in chains
    )
