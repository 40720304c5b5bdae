"""Third stage: one layer at a time, from its place in the graph to a coreset whose error was measured.

A layer is prepared first, which does not depend on how wide it will be, and then settled at a width, as often as
wanted. It is measured alone: the extracted layer and the same with only this hidden layer narrowed, run on equal fresh
inputs. Where the error is above eps by more than sampling explains, the layer is widened and measured again, at last
kept whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons, shrink, whole
from onnx_coreset.core.measure import Errors
from onnx_coreset.core.methods.base import Method
from onnx_coreset.edge.runtime import Provider, RuntimeRefused
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.edge.validation import computed_errors, local_errors
from onnx_coreset.graph.extract import extract, shrunk, the_space
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.model.document import Numbers
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.plan import Candidates, candidates, least_width, measured_on, rounded
from onnx_coreset.report import CorrectionFacts
from onnx_coreset.stages.blind import blind, one_sided
from onnx_coreset.stages.bounding import least_proven
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import stored
from onnx_coreset.stages.sampling import LayerInputs, Sources, layer_inputs, stream
from onnx_coreset.stages.unsampled import by_weights, unsampled

_ATTEMPTS = 6


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
        layer: What it reads as.
        inputs: Samples of its inputs.
        method: What chooses neurons.
        make: Makes its coresets; what that gives is kept until it is dropped.
        made: What `make` gave, if anything.
    """

    space: Space
    layer: HiddenLayer
    inputs: LayerInputs
    method: Method
    make: Callable[[], Candidates]
    made: list[Candidates] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the chain."""
        return self.space.name

    def choice(self) -> Candidates:
        """Return its coresets.

        Raises:
            FloatingPointError: Its features are not finite on some sample.
        """
        if not self.made:
            self.made.append(self.make())
        return self.made[0]

    def whole(self, code: str, reason: str, seed: int, curve: tuple[tuple[int, float], ...] | None = None) -> Narrowed:
        """Return the chain kept as it is, with the reason."""
        kept = whole(self.layer, self.method.name, seed)
        free = self.made[0].lossless if self.made and code != "requested" else None
        return Narrowed(self.space, self.layer, self.inputs, kept, None, code, reason, curve=curve, lossless=free)


def prepare(space: Space, opened: Opened, found: Sources, method: Method, options: Options) -> Prepared | Skip:
    """Read a chain and sample its inputs.

    Args:
        space: Its place.
        opened: The model.
        found: Where inputs come from.
        method: What chooses neurons.
        options: What was asked; its target does not matter.

    Returns:
        The chain, or why it is skipped.
    """
    layer = read(opened.document, space, outgoing=not one_sided(options))
    unfit = _unfit(space, layer, method, one_sided(options))
    if unfit is not None:
        return unfit

    def generator(width: int) -> np.random.Generator:
        return stream(options.seed, space.name, width + 8)

    if blind(options):
        # Only its outline is kept.
        inputs = unsampled(layer)
        ordered = by_weights(layer, inputs, method, generator)
        return Prepared(space, ordered.layer, inputs, method, lambda: ordered)
    inputs = layer_inputs(space, layer, found, opened, options)

    def make() -> Candidates:
        # What holds for every input of the shrunk model too; what a layer in front makes of its inputs may be polished.
        domain = inputs.stated.domain if inputs.stated.sure else None
        return candidates(layer, inputs.fit, method, inputs.law, inputs.radius, options, generator, domain)

    return Prepared(space, layer, inputs, method, make)


def settle(
    chain: Prepared, wanted: int | None, opened: Opened, options: Options, provider: Provider
) -> Narrowed | Skip:
    """Choose and measure the coreset of one chain.

    Args:
        chain: The chain.
        wanted: Its width, or None where eps decides.
        opened: The model.
        options: What was asked.
        provider: Where layers are run.

    Returns:
        What became of it, or why it is skipped.
    """
    full = chain.space.width
    if wanted is not None and wanted >= full:
        if options.target in ("params", "output_eps") and opened.asked(chain.name, options) is None:
            reason = "the target of the whole model is met without cutting it"
            return chain.whole("budget", reason, options.seed, chain.choice().curve(full))
        return chain.whole("requested", "the width asked for is the width it has", options.seed)
    try:
        choice = chain.choice()
        proof = None
        if wanted is not None:
            width = wanted
        elif options.proven:
            width, proof = least_proven(choice, chain.space, chain.inputs, opened, options)
        else:
            width = least_width(choice, measured_on(choice, chain.inputs.hold, options), options)
        curve = choice.curve(width)
    except FloatingPointError as error:
        return Skip(chain.name, str(error), "non-finite", full)
    if width >= full:
        return chain.whole("eps", f"no narrower width meets eps {options.eps:g}", options.seed, curve)
    done = _measured(chain, choice, width, opened, options, provider)
    return replace(done, proof=proof) if done.coreset.width == width else done


def _unfit(space: Space, layer: HiddenLayer, method: Method, one_sided: bool) -> Skip | None:
    products = [producer.dense for producer in space.producers]
    values: list[Numbers] = [producer.bias() for producer in space.producers]
    values += [readout.constant for readout in layer.readouts]
    if one_sided:
        products += [consumer.dense for consumer, _ in space.consumers]
    else:
        values += [readout.outgoing for readout in layer.readouts]
    for product in products:
        values += [np.asarray(product.alpha), product.stored]
    if not all(np.isfinite(value).all() for value in values):
        return Skip(space.name, "a weight is NaN or infinite", "non-finite", space.width)
    plain = all(isinstance(readout.features, Neurons) for readout in layer.readouts)
    have = {"moments", "neurons"} if plain else {"moments"}
    lacking = sorted(method.requires - have)
    if lacking:
        return Skip(space.name, f"the method {method.name} needs {', '.join(lacking)}", "requires", space.width)
    return None


def _measured(
    chain: Prepared, choice: Candidates, width: int, opened: Opened, options: Options, provider: Provider
) -> Narrowed:
    """Measure a width, and wider ones until the error is at most eps, or above it by no more than sampling explains."""
    space, inputs = chain.space, chain.inputs
    if blind(options):
        return Narrowed(space, chain.layer, inputs, choice.at(width), None)
    alone = extract(opened.document, space, inputs.fresh.rank)
    eps = options.eps if opened.asked(space.name, options) is None and not options.proven else None
    best: Narrowed | None = None
    worst = 0.0
    for attempt in range(_ATTEMPTS):
        coreset = choice.at(width)
        found, ran = measure(alone, space.name, coreset, inputs, provider, run=options.validate)
        worst = found.norm(options.norm, options.absolute)
        finite = np.isfinite(found.max) and all(np.isfinite(w).all() for w in coreset.outgoing)
        curve, free = choice.curve(width), choice.lossless
        tried = Narrowed(space, chain.layer, inputs, coreset, found, ran=ran, curve=curve, lossless=free)
        if finite and (eps is None or worst <= eps):
            return tried
        if finite and eps is not None and best is None and found.explained(options.norm, options.absolute, eps):
            best = tried
        width = rounded(width + _step(width, space.width, worst, eps, attempt), space.width, options)
        if width >= space.width:
            break
    if best is not None:
        return best
    reason = f"every narrower width tried failed validation (error {worst:.3g})"
    return chain.whole("validation", reason, options.seed, choice.curve(space.width))


def _step(width: int, full: int, error: float, eps: float | None, attempt: int) -> int:
    """Return by how much to widen: by the excess of the error at first, by a share of what is left in the end."""
    share = max(1, (full - width) // (_ATTEMPTS - attempt))
    if eps is None or not np.isfinite(error) or attempt >= _ATTEMPTS // 2:
        return share
    return max(1, min(share, int(np.ceil(1.5 * width * (error / eps - 1.0)))))


def measure(
    alone: onnx.ModelProto, name: str, coreset: Coreset, inputs: LayerInputs, provider: Provider, run: bool = True
) -> tuple[Errors, bool]:
    """Return the local error of a coreset as it is stored, and whether ONNX Runtime ran it.

    Args:
        alone: The extracted layer.
        name: Name of its space.
        coreset: A coreset of it.
        inputs: Samples of its inputs.
        provider: Where it is run.
        run: Whether to try; otherwise, and where the runtime has no kernels, the error is computed in float64 from
            the weights as they are stored.
    """
    if run:
        try:
            return local_errors(alone, shrunk(alone, name, coreset), provider, inputs.fresh), True
        except RuntimeRefused:
            pass
    document = decode(alone)
    space = the_space(document, name)
    layer = read(document, space)
    return computed_errors(layer, shrink(layer, stored(space, coreset)), as_float(inputs.fresh)), False


def unpolished(chains: Iterable[Narrowed], names: Collection[str]) -> tuple[Narrowed, ...]:
    """Return the chains, but those polished together with one of `names` as they were before."""
    return tuple(
        chain.polish.before if chain.polish is not None and not set(names).isdisjoint(chain.polish.together) else chain
        for chain in chains
    )
