"""What is proven across layers: of chains that were polished together, and of the whole model's outputs.

Both networks, the original and the narrower one, are read from their graphs; where they are dense layers one behind the
other, the difference of their outputs is bounded for every input of the first layer's domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.certificates.depth import EndToEnd, certify_ends
from onnx_coreset.core.certificates.pieces import lipschitz
from onnx_coreset.core.certificates.rounding import gamma
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.edge.threads import one_thread
from onnx_coreset.graph.extract import extract_stack, shrunk_stack
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.space import Space, spaces
from onnx_coreset.options import Options
from onnx_coreset.stages.domains import Stated
from onnx_coreset.stages.ends import Ends, ends
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import inside, measured_inside, unit_of
from onnx_coreset.stages.sampling import stream

__all__ = ["Through", "of_model", "of_stack"]

_DEPTH = 6
_UNKNOWN = "the domain of the first layer's inputs is not known"


@dataclass(frozen=True)
class Through:
    """What is proven about an output of the model.

    Attributes:
        output: Its name.
        stated: The inputs of the first layer that it holds for.
        certified: No such input makes the output's numbers differ by more, both computed as they run, shape (k,).
        attacked: They do differ by as much, shape (k,); None behind a Sigmoid or Softmax, where nothing was sought.
    """

    output: str
    stated: Stated
    certified: Array
    attacked: Array | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "certified", frozen(self.certified))
        if self.attacked is not None:
            object.__setattr__(self, "attacked", frozen(self.attacked))


def of_stack(chains: Sequence[Narrowed], opened: Opened, options: Options, seconds: float) -> Proof | None:
    """Return what is proven of chains polished together, from the first one's inputs to the last one's outputs.

    Args:
        chains: The chains, the first one first.
        opened: The model.
        options: What was asked.
        seconds: When to stop.

    Returns:
        The proof, or None where they are not all of dense neurons.
    """
    head = chains[0]
    alone = extract_stack(opened.document, [chain.space for chain in chains], head.inputs.fresh.rank)
    document = decode(alone)
    names = [space.name for space in spaces(document) if isinstance(space, Space)]
    kept = {name: chain.coreset.kept for name, chain in zip(names, chains, strict=True)}
    found = ends(document, shrunk_stack(alone, [chain.coreset for chain in chains]), kept)
    if isinstance(found, str):
        return None
    proof = _certified(found, head, options, seconds)
    x = as_float(head.inputs.fresh)
    held = inside(head.inputs.stated.domain, x)
    apart = np.abs(found.pair.before(x[held]) - found.pair.after(x[held])).max(axis=0, initial=0.0)
    attacked = np.fmax(proof.attacked, apart)
    return Proof(
        head.inputs.stated,
        proof.certified + proof.rounding,
        proof.certified,
        attacked,
        max(float(attacked.max(initial=0.0)), measured_inside(chains[-1].errors, held)),
        int(np.count_nonzero(~held)),
    )


def of_model(
    chains: Sequence[Narrowed], model: onnx.ModelProto, opened: Opened, options: Options, seconds: float
) -> Through | str:
    """Return what is proven of the model's output, or in words why nothing is.

    Args:
        chains: What became of each chain, in the order of the graph.
        model: The narrower model.
        opened: The model.
        options: What was asked.
        seconds: When to stop.
    """
    kept = {chain.space.name: chain.coreset.kept for chain in chains}
    found = ends(opened.document, model, kept)
    if isinstance(found, str):
        return found
    head = next((chain for chain in chains if chain.space.name == found.names[0]), None)
    if head is None:
        return _UNKNOWN
    proof = _certified(found, head, options, seconds)
    exact = np.fmin(proof.certified, _carried(found, chains))
    certified = found.at_output(exact + proof.rounding)
    attacked = None if found.tail else proof.attacked
    return Through(found.output, head.inputs.stated, certified, attacked)


def _carried(found: Ends, chains: Sequence[Narrowed]) -> Array:
    """Return what the local errors add up to at the outputs, shape (k,); infinite where one of them is not proven.

    Let M_l be the model whose first l layers are the original's and the others narrowed ones. M_l and M_{l-1} differ by
    the local error e_l of layer l on what the original gives it, carried through the narrowed layers behind it, each of
    which has the Lipschitz constants |U| L. So the outputs differ by E_L at most,

        E_l = e_l + |U_l| L_l E_{l-1},

    where E_{l-1} counts for the neurons that layer l keeps. Every e_l is proven for whatever the layer in front makes
    of the first domain.
    """
    nets, total = found.pair.after, None
    by_name = {chain.space.name: chain for chain in chains}
    names = found.names
    for index, (name, layer) in enumerate(zip(names, nets.hidden, strict=True)):
        chain = by_name.get(name)
        own = None if chain is None or not _chained(chain, index) else _own(chain)
        if own is None:
            return np.full(nets.outputs, np.inf)
        outgoing = nets.hidden[index + 1].incoming if index + 1 < len(names) else nets.outgoing
        left = found.pair.kept[index + 1] if index + 1 < len(names) else np.arange(nets.outputs)
        own = own[left]
        if total is not None:
            steep = lipschitz(layer.activation, layer.width) * total
            own = own + np.abs(outgoing) @ np.where(total > 0, steep, 0.0)
        total = own * (1.0 + gamma(layer.width + 8))
    assert total is not None
    return total


def _chained(chain: Narrowed, index: int) -> bool:
    """Return whether what is proven of a chain holds for whatever the chain in front makes of its inputs."""
    alone = chain.polish is None or len(chain.polish.together) == 1
    return alone and (index == 0 or chain.inputs.stated.made)


def _own(chain: Narrowed) -> Array | None:
    """Return the certified local error of a chain, shape (k,); None where there is none."""
    if not chain.narrower:
        return np.zeros(chain.layer.readouts[0].outputs)
    return None if chain.proof is None else np.asarray(chain.proof.exact)


def _certified(found: Ends, head: Narrowed, options: Options, seconds: float) -> EndToEnd:
    rng = stream(options.seed, head.space.name, _DEPTH)
    with one_thread(), np.errstate(all="ignore"):
        return certify_ends(found.pair, head.inputs.stated.domain, rng, seconds, unit_of(head.space))
