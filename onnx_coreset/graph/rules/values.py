"""What the walk knows of a tensor, and what a rule may answer.

Neurons run along one axis of a tensor, counted from the end. Along it stand, in this order, entries of others, the
neurons once or several times over (the gate's and then the factor's half of a fused product), and entries of others
again (what a Concat puts beside them):

    before | copy 0: n | copy 1: n | ... | after
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Indices
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.skip import Stop


@dataclass(frozen=True)
class Layout:
    """How an axis is filled.

    Attributes:
        copies: How often the neurons stand on it.
        before: Number of entries in front that are not the space's.
        after: Number of entries behind.
    """

    copies: int = 1
    before: int = 0
    after: int = 0

    @property
    def plain(self) -> bool:
        """Whether the axis holds the neurons, once, and nothing else."""
        return self == Layout()

    def total(self, width: int) -> int:
        """Return the length of the axis where there are `width` neurons."""
        return self.before + self.copies * width + self.after

    def block(self, width: int, copy: int = 0) -> slice:
        """Return where one copy of `width` neurons stands."""
        start = self.before + copy * width
        return slice(start, start + width)

    def indices(self, kept: Indices, width: int) -> Indices:
        """Return the entries that stay where the neurons `kept` of `width` stay, increasing."""
        parts = [np.arange(self.before)]
        parts += [self.before + copy * width + np.asarray(kept) for copy in range(self.copies)]
        end = self.before + self.copies * width
        return np.concatenate([*parts, np.arange(end, end + self.after)]).astype(np.intp)


PLAIN = Layout()


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
    rank: int | None = None
    layout: Layout = PLAIN
    name: str | None = None

    @property
    def number(self) -> int:
        """The value's number, where the neurons stand on the axis once."""
        return self.numbers[0]


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
    layout: Layout = PLAIN
    copy: int = 0


@dataclass(frozen=True)
class Count:
    """An integer of the graph that says how many neurons there are: factor * n + offset, to be kept up to date.

    Attributes:
        node: The node that reads it.
        index: Index of the input, or of nothing where it is an attribute.
        position: Index in the flattened tensor or list.
        factor: How often n counts.
        offset: What is added.
        attribute: Name of the attribute that holds it, or "".
    """

    node: gs.Node
    index: int
    position: int
    factor: int = 1
    offset: int = 0
    attribute: str = ""


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
    layout: Layout = PLAIN


@dataclass(frozen=True)
class Same:
    """The node hands the neurons on as they are."""

    value: Value


@dataclass(frozen=True)
class Moved:
    """The node moves the neurons as a whole.

    Attributes:
        values: What each of its outputs holds.
        counts: Integers of the graph that have to follow the number of neurons.
        copies: Which copy of the neurons each output takes, where the node takes them apart.
    """

    values: tuple[Value, ...]
    counts: tuple[Count, ...] = ()
    copies: tuple[int, ...] = ()


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
