"""What the walk knows of a tensor, and what a rule may answer.

Neurons run along one axis of a tensor, counted from the end; how that axis is filled is a `Layout`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Indices
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.rules.layout import Layout
from onnx_coreset.graph.skip import Stop


@dataclass(frozen=True)
class Value:
    """A tensor of the space.

    Attributes:
        numbers: For each copy of the neurons, the number of the value it holds in the region's program.
        axis: Axis of the neurons, counted from the end.
        rank: Number of axes, where known.
        layout: How that axis is filled.
        name: The tensor that entered a Concat, where one stands between.
    """

    numbers: tuple[int, ...]
    axis: int
    rank: int | None
    layout: Layout
    name: str | None = None


@dataclass(frozen=True)
class ConstantAt:
    """A constant operand, by where it is read.

    Attributes:
        node: The node that reads it.
        index: Index of the input.
        per_neuron: Axis (from the end) that its neurons run along, or None where it is one number for all.
        layout: How that axis is filled.
        copy: Which copy of the neurons the step is about.
    """

    node: gs.Node
    index: int
    per_neuron: int | None
    layout: Layout | None = None
    copy: int = 0


@dataclass(frozen=True)
class Count:
    """An integer of the graph that counts entries of an axis, to be kept up to date.

    Attributes:
        node: The node that reads it.
        index: Index of the input, or of nothing where it is an attribute.
        position: Index in the flattened tensor or list.
        layout: How the axis is filled.
        start: The first entry it counts.
        stop: The first entry it does not count any more, or None for the end.
        attribute: Name of the attribute that holds it, or "".
    """

    node: gs.Node
    index: int
    position: int
    layout: Layout
    start: int = 0
    stop: int | None = None
    attribute: str = ""


@dataclass(frozen=True)
class Choice:
    """A constant that names entries of an axis, as a Gather's indices do: to be renumbered.

    Attributes:
        node: The node that reads it.
        index: Index of the input.
        source: How the axis is filled that it reads.
        result: How the axis is filled that it makes.
        entries: The entries it names, shape (entries of the result,).
    """

    node: gs.Node
    index: int
    source: Layout
    result: Layout
    entries: Indices


Operand = int | ConstantAt


@dataclass(frozen=True)
class Elementwise:
    """A step that computes each neuron from itself alone."""

    op: str
    operands: tuple[Operand, ...]
    axis: int
    rank: int | None
    attributes: tuple[tuple[str, float | int | str], ...] = ()


@dataclass(frozen=True)
class Steps:
    """The node is elementwise: one step for each copy of the neurons."""

    steps: tuple[Elementwise, ...]
    layout: Layout


@dataclass(frozen=True)
class Same:
    """The node hands the neurons on as they are."""

    value: Value


@dataclass(frozen=True)
class Moved:
    """The node moves the neurons.

    Attributes:
        values: What each of its outputs holds; None where none of the neurons.
        counts: Integers of the graph that have to follow the number of neurons.
        entries: The entries of its input's axis that each output takes, where not all in their order.
        choice: The indices that name those entries, where a constant does.
        joins: Whether it joins all its inputs along the axis.
    """

    values: tuple[Value | None, ...]
    counts: tuple[Count, ...] = ()
    entries: tuple[Indices, ...] = ()
    choice: Choice | None = None
    joins: bool = False


@dataclass(frozen=True)
class Aside:
    """The node reads the shape of the tensor alone."""


@dataclass(frozen=True)
class Halved(Stop):
    """The neurons are cut into equal parts: the walk may start again with that many copies on the axis."""

    copies: int = 2


@dataclass(frozen=True)
class Joined(Stop):
    """The neurons meet a tensor that is computed at run time: perhaps neurons of the same layer."""

    tensor: gs.Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Arrival:
    """A node that the walk has reached.

    Attributes:
        document: The model.
        node: The node.
        inside: Inputs that belong to the space, by index.
        width: Number of neurons n.
        values: Every tensor of the space found so far, by identity.
        streams: For each value of the program, the pre-activations that it depends on.
    """

    document: Document
    node: gs.Node
    inside: dict[int, Value]
    width: int
    values: dict[int, Value]
    streams: tuple[frozenset[int], ...]


Outcome = Steps | Same | Moved | Aside | Stop
