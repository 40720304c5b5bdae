"""Layers that follow each other as one network, and back: what polish works on.

A chain whose only consumer is the next chain's producer forms a stack with it. In a stack of networks

    x -> f_1(x W_1^T + b_1) -> f_2(h W_2^T + b_2) -> ... -> h U^T + c

W_1 and b_1 are the incoming weights of the first chain's neurons, and W_2, b_2 those rows of the first chain's outgoing
weights and constant that make the neurons which the second one keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.layer import Coreset, Gated, Neurons
from onnx_coreset.core.network import Block, Network, Single
from onnx_coreset.graph.incoming import factors
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import Opened


@dataclass(frozen=True)
class Stack:
    """Narrowed chains, each reading the one before, as networks.

    Attributes:
        chains: The chains, the first one first.
        student: What they are.
        teacher: What they were.
        fixed: Numbers of the student's parameters that may not change.
        movable: Whether the incoming weights of the first chain may be replaced.
    """

    chains: tuple[Narrowed, ...]
    student: Network
    teacher: Network
    fixed: frozenset[int]
    movable: bool

    def coresets(self, network: Network) -> list[Coreset]:
        """Return the coreset of each chain that `network`, a student with other parameters, describes."""
        found = [chain.coreset for chain in self.chains]
        head = network.blocks[0]
        if self.movable:
            rows = tuple((_double(w), _double(b)) for w, b in zip(head.weights, head.biases, strict=True))
            found[0] = replace(found[0], incoming=rows)
        for index, block in enumerate(network.blocks[1:]):
            before, kept = found[index], found[index + 1].kept
            outgoing, constant = np.array(before.outgoing[0]), np.array(before.constant[0])
            outgoing[kept, :, 0] = block.weights[0]
            constant[kept] = block.biases[0] - _added(self.chains[index], self.chains[index + 1])[kept]
            found[index] = replace(before, outgoing=(outgoing,), constant=(constant,))
        ends = np.cumsum([readout.outputs for readout in self.chains[-1].layer.readouts])[:-1]
        outgoing_parts = np.split(_double(network.outgoing)[:, :, None], ends)
        constants = np.split(_double(network.constant), ends)
        found[-1] = replace(found[-1], outgoing=tuple(outgoing_parts), constant=tuple(constants))
        return found


def stacks(chains: Sequence[Narrowed], opened: Opened, alone: bool) -> list[Stack]:
    """Return the chains that are dense or gated and narrower, in stacks.

    Args:
        chains: Chains in the order of the graph.
        opened: The model.
        alone: Whether every chain is a stack of its own.
    """
    narrower = [chain for chain in chains if chain.narrower and _parts(chain)]
    groups: list[list[Narrowed]] = []
    for chain in narrower:
        before = next((group for group in groups if not alone and _follows(group[-1], chain)), None)
        if before is None:
            groups.append([chain])
        else:
            before.append(chain)
    made = {id(c.dense.node) for chain in chains if chain.narrower for c, _ in chain.space.consumers}
    return [_stack(tuple(group), opened, made) for group in groups]


def _follows(before: Narrowed, after: Narrowed) -> bool:
    """Return whether `after` reads nothing but what `before` gives, as it is, and both are dense neurons.

    Of products nothing is proven through several layers: what would be polished together would have no bound.
    """
    ahead, features = (chain.layer.readouts[0].features for chain in (before, after))
    if len(before.space.consumers) != 1 or not isinstance(ahead, Neurons) or not isinstance(features, Neurons):
        return False
    same = before.space.consumers[0][0].dense.node is after.space.producer.dense.node
    if not same or before.space.region.moved or after.space.region.moved:
        return False
    return np.array_equal(before.layer.readouts[0].outgoing[:, :, 0], features.incoming)


def _parts(chain: Narrowed) -> tuple[Neurons, ...]:
    """Return the factors of a chain's neurons; none where they are of another kind or its readers differ in them."""
    features = chain.layer.readouts[0].features
    if any(readout.features is not features for readout in chain.layer.readouts):
        return ()
    if isinstance(features, Gated):
        return (features.gate, features.up)
    return (features,) if isinstance(features, Neurons) else ()


def _stack(chains: tuple[Narrowed, ...], opened: Opened, made: set[int]) -> Stack:
    """Return chains as a stack; `made` are the nodes that narrowed chains write their results with."""
    wide = [_parts(chain) for chain in chains]
    narrow = [tuple(part.take(chain.coreset.kept) for part in parts) for chain, parts in zip(chains, wide, strict=True)]
    last, readout = chains[-1], chains[0].layer.readouts[0]
    teacher = Network(
        tuple(_block(parts) for parts in wide),
        _single(np.concatenate([r.outgoing[:, :, 0] for r in last.layer.readouts])),
        _single(np.concatenate([r.constant for r in last.layer.readouts])),
    )
    blocks = [_block(narrow[0])]
    for before, after, (part,) in zip(chains, chains[1:], narrow[1:], strict=False):
        kept = after.coreset.kept
        bias = (before.coreset.constant[0] + _added(before, after))[kept]
        blocks.append(_block((replace(part, incoming=before.coreset.outgoing[0][kept, :, 0], bias=bias),)))
    student = Network(
        tuple(blocks),
        _single(np.concatenate([w[:, :, 0] for w in last.coreset.outgoing])),
        _single(np.concatenate(last.coreset.constant)),
    )
    behind = any(id(producer.dense.node) in made for producer in chains[0].space.producers)
    places = None if behind else factors(opened.document, chains[0].space, readout)
    free = [place.biased for place in places] if places is not None else []
    return Stack(chains, student, teacher, _fixed(chains, student, free), places is not None)


def _fixed(chains: tuple[Narrowed, ...], student: Network, free: list[bool]) -> frozenset[int]:
    """Return the numbers of the parameters that may not change; `free` says which biases of the first chain may."""
    head = len(student.blocks[0].weights)
    fixed = {head + index for index in range(head) if not free or not free[index]}
    if not free:
        fixed |= set(range(head))
    for index, chain in enumerate(chains[:-1]):
        if not chain.layer.readouts[0].constant_allowed:
            fixed.add(2 * head + 2 * index + 1)
    if not all(readout.constant_allowed for readout in chains[-1].layer.readouts):
        fixed.add(len(student.parameters()) - 1)
    return frozenset(fixed)


def _added(before: Narrowed, after: Narrowed) -> Array:
    """Return what is added to what `before` gives, shape (n,), before `after` applies its activation."""
    (part,) = _parts(after)
    return np.asarray(part.bias - before.layer.readouts[0].constant)


def _block(parts: Sequence[Neurons]) -> Block:
    return Block(
        tuple(part.activation for part in parts),
        tuple(_single(part.incoming) for part in parts),
        tuple(_single(part.bias) for part in parts),
    )


def _single(values: Array) -> Single:
    return np.ascontiguousarray(values, dtype=np.float32)


def _double(values: Single) -> Array:
    return values.astype(np.float64)
