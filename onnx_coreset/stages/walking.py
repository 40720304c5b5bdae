"""Third stage, over all layers: one after the other, or together where they share a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from onnx_coreset.core.methods import Method
from onnx_coreset.edge.runtime import Provider
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.plan import asked
from onnx_coreset.stages.blind import blind
from onnx_coreset.stages.narrowing import Narrowed, Prepared, prepare, settle
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import Sources, layer_inputs
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
        known: Chains prepared so far, by name.
    """

    opened: Opened
    found: Sources
    method: Method
    provider: Provider
    known: dict[str, Prepared | Skip] = field(default_factory=dict)

    def chain(self, place: Space | Skip, options: Options) -> Prepared | Skip:
        """Return a place prepared; places are asked for in the order of the graph."""
        if isinstance(place, Space):
            if place.name not in self.known:
                self.known[place.name] = prepare(place, self.opened, self.found, self.method, options)
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
    opened = analysis.opened
    settled: list[Narrowed | Skip] = []
    for index, place in enumerate(opened.places):
        tell("narrow", index, len(opened.places), place.name if isinstance(place, Space) else place.where)
        chain = analysis.chain(place, options)
        if isinstance(chain, Skip):
            settled.append(chain)
            continue
        wanted = asked(chain.name, chain.space.width, options, opened.asked(chain.name, options))
        result = settle(chain, wanted, opened, options, analysis.provider)
        settled.append(_put_away(result, opened) if isinstance(result, Narrowed) and not keep else result)
        if not keep:
            chain.made.clear()
            del analysis.known[chain.name]
    return settled


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
    places = []
    for index, place in enumerate(opened.places):
        tell("narrow", index, len(opened.places), place.name if isinstance(place, Space) else place.where)
        places.append(analysis.chain(place, options))
    good, bad = affordable([chain for chain in places if isinstance(chain, Prepared)])
    settled: dict[str, Narrowed | Skip] = {}
    fixed: dict[str, int] = {}
    for _ in range(_TRIES):
        widths = spend(good, opened, analysis.found, options, provider, fixed)
        settled = {c.name: settle(c, widths[c.name], opened, options, provider) for c in good}
        failed = {name for name, chain in settled.items() if isinstance(chain, Narrowed) and chain.code == "validation"}
        if not failed - fixed.keys():
            break
        fixed |= {chain.name: chain.space.width for chain in good if chain.name in failed}
    known = bad | settled
    return [place if isinstance(place, Skip) else known[place.name] for place in places]
