"""Third stage, over all layers: one after the other, or together where they share a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from onnx_coreset.core.methods import Method
from onnx_coreset.edge.crew import Crew
from onnx_coreset.edge.runtime import Provider
from onnx_coreset.edge.threads import one_thread
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.plan import Candidates, asked
from onnx_coreset.stages.blind import blind
from onnx_coreset.stages.narrowing import Narrowed, Prepared, narrowed, prepare
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import Sources, layer_inputs
from onnx_coreset.stages.settling import Settled, Task, choice, settle
from onnx_coreset.stages.spending import affordable, spend

Tell = Callable[[str, int, int, str], None]

_TRIES = 3


@dataclass(frozen=True)
class Analysis:
    """A model of which everything is known but the widths.

    Attributes:
        opened: The model.
        found: Where inputs come from.
        method: What chooses neurons.
        provider: Where models are run.
        crew: Who works on chains.
        known: Chains prepared so far, by name.
    """

    opened: Opened
    found: Sources
    method: Method
    provider: Provider
    crew: Crew = field(default_factory=Crew)
    known: dict[str, Prepared | Skip] = field(default_factory=dict)

    def chain(self, place: Space | Skip, options: Options) -> Prepared | Skip:
        """Return a place prepared; places are asked for in the order of the graph."""
        if isinstance(place, Space):
            if place.name not in self.known:
                self.known[place.name] = prepare(
                    place, self.opened, self.found, self.method, options, self.provider, self.crew.threads
                )
            return self.known[place.name]
        left_out = self.opened.left_out.get(place.where)
        if left_out is not None and not blind(options) and left_out.producer.input.name not in self.found.rows:
            # What is known of its inputs' radius is worth something to the layers behind it.
            layer_inputs(left_out, read(self.opened.document, left_out), self.found, self.opened, options)
        return place


def narrow(analysis: Analysis, options: Options, tell: Tell, keep: bool = False) -> list[Narrowed | Skip]:
    """Return what becomes of every place.

    Args:
        analysis: The model.
        options: What was asked.
        tell: Called with (stage, done, total, detail).
        keep: Whether what is known of a layer is kept for another call.

    Raises:
        UsageError: A budget that cannot be met.
    """
    if options.target in ("params", "output_eps"):
        return _together(analysis, options, tell)
    crew, opened = analysis.crew, analysis.opened
    if keep:
        # What takes long is the same for every width; the rest is done here.
        _choices(analysis, [c for c in _prepared(analysis, options, tell) if isinstance(c, Prepared)])
        crew = Crew()
    places: list[Space | Skip] = []

    def tasks() -> Iterator[Task]:
        for chain in _prepared(analysis, options, tell):
            places.append(chain if isinstance(chain, Skip) else chain.space)
            if isinstance(chain, Prepared):
                if not keep:
                    del analysis.known[chain.name]
                yield chain.at(asked(chain.name, chain.space.width, options, opened.asked(chain.name, options)))
                del chain

    settled: dict[str, Narrowed | Skip] = {}
    # Where weights alone are looked at, nothing is multiplied, and nothing takes time.
    work = ((task, settle(task)) for task in tasks()) if blind(options) else crew.map(settle, tasks())
    for task, result in work:
        if crew.executor is not None:
            tell("narrow", len(settled), len(opened.places), task.name)
        if isinstance(result, Skip):
            settled[task.name] = result
            continue
        space = next(place for place in places if isinstance(place, Space) and place.name == task.name)
        became = narrowed(space, task, result)
        settled[task.name] = became if keep else _put_away(became, opened)
    return [settled[place.name] if isinstance(place, Space) else place for place in places]


def _prepared(analysis: Analysis, options: Options, tell: Tell) -> Iterator[Prepared | Skip]:
    """Yield every place, prepared: one after the other, since what is known of one may tell something of the next."""
    places = analysis.opened.places
    for index, place in enumerate(places):
        tell("narrow", index, len(places), place.name if isinstance(place, Space) else place.where)
        yield analysis.chain(place, options)


def _choices(analysis: Analysis, chains: list[Prepared]) -> list[Prepared]:
    """Return chains with their coresets, which are on the disk where others made them; what has none is as before."""
    missing = [chain for chain in chains if not chain.made]
    for chain, (task, made) in zip(missing, analysis.crew.map(choice, [c.task for c in missing]), strict=True):
        if isinstance(made, Candidates):
            analysis.known[chain.name] = replace(chain, task=task, made=[made])
    return [known for chain in chains if isinstance(known := analysis.known[chain.name], Prepared)]


def _put_away(chain: Narrowed, opened: Opened) -> Narrowed:
    """Return a chain whose arrays are on the disk, where the model is too large for all of them to be in memory."""
    room = opened.scratch
    if room is None:
        return chain
    layer, inputs, coreset = room.shelved((chain.layer, chain.inputs, chain.coreset))
    return replace(chain, layer=layer, inputs=inputs, coreset=coreset)


def _together(analysis: Analysis, options: Options, tell: Tell) -> list[Narrowed | Skip]:
    """Choose the widths of all chains at once; where one then fails validation, again for the others."""
    opened, provider = analysis.opened, analysis.provider
    places = list(_prepared(analysis, options, tell))
    chains = [chain for chain in places if isinstance(chain, Prepared)]
    if analysis.crew.executor is not None:
        chains = _choices(analysis, chains)
    good, bad = affordable(chains, analysis.crew.executor is None)
    settled: dict[str, Narrowed | Skip] = {}
    fixed: dict[str, int] = {}
    for _ in range(_TRIES):
        widths = spend(good, opened, analysis.found, options, provider, fixed)
        for chain in good:
            with one_thread():
                task = chain.at(widths[chain.name])
                result = settle(task)
            settled[chain.name] = narrowed(chain.space, task, result) if isinstance(result, Settled) else result
        failed = {name for name, chain in settled.items() if isinstance(chain, Narrowed) and chain.code == "validation"}
        if not failed - fixed.keys():
            break
        fixed |= {chain.name: chain.space.width for chain in good if chain.name in failed}
    known = bad | settled
    return [place if isinstance(place, Skip) else known[place.name] for place in places]
