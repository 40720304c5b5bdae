"""What is proven across layers: of chains that were polished together, and of the whole model's outputs.

Both networks, the original and the narrower one, are read from their graphs; where they are dense layers one behind the
other, the difference of their outputs is bounded for every input of the first layer's domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from threadpoolctl import threadpool_limits

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.certificates.depth import EndToEnd, certify_ends
from onnx_coreset.edge.statistics import as_float
from onnx_coreset.graph.extract import extract_stack, shrunk_stack
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.space import Space, spaces
from onnx_coreset.options import Options
from onnx_coreset.stages.domains import Stated
from onnx_coreset.stages.ends import Ends, ends
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.proof import Proof
from onnx_coreset.stages.proving import inside, unit_of
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
        attacked: They do differ by as much, shape (k,).
    """

    output: str
    stated: Stated
    certified: Array
    attacked: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "certified", frozen(self.certified))
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
    errors = chains[-1].errors
    measured = 0.0 if errors is None or not held.any() else float(errors.exceeding[held].max())
    return Proof(
        head.inputs.stated,
        proof.certified + proof.rounding,
        attacked,
        max(float(attacked.max(initial=0.0)), measured),
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
    first = next(place for place in spaces(opened.document) if isinstance(place, Space))
    head = next((chain for chain in chains if chain.space.name == first.name), None)
    if head is None:
        return _UNKNOWN
    proof = _certified(found, head, options, seconds)
    certified = found.at_output(proof.certified + proof.rounding)
    attacked = proof.attacked if not found.tail else np.zeros(certified.shape)
    return Through(found.output, head.inputs.stated, certified, attacked)


def _certified(found: Ends, head: Narrowed, options: Options, seconds: float) -> EndToEnd:
    rng = stream(options.seed, head.space.name, _DEPTH)
    with threadpool_limits(1), np.errstate(all="ignore"):
        return certify_ends(found.pair, head.inputs.stated.domain, rng, seconds, unit_of(head.space))
