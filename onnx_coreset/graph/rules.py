"""How a neuron axis passes an operator: one row an operator type.

A rule is asked when a node is reached by a tensor whose neurons run along a known axis (counted from the end, so that
broadcasting needs no ranks). It answers with an `Elementwise` step, with `Same` where the neurons pass untouched, or
with a `Stop`. An operator without a row stops the walk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.graph.document import Document
from onnx_coreset.graph.skip import Stop


@dataclass(frozen=True)
class Value:
    """A tensor of the space.

    Attributes:
        number: Number of the value it holds in the region's program.
        axis: Axis of the neurons, counted from the end.
        rank: Number of axes, where known.
    """

    number: int
    axis: int
    rank: int | None = None


@dataclass(frozen=True)
class ConstantAt:
    """A constant operand, by where it is read.

    Attributes:
        node: The node that reads it.
        index: Index of the input.
        per_neuron: Axis (from the end) that its neurons run along, or None where it is one number for all.
    """

    node: gs.Node
    index: int
    per_neuron: int | None


Operand = int | ConstantAt


@dataclass(frozen=True)
class Elementwise:
    """The node computes each neuron from itself alone."""

    op: str
    operands: tuple[Operand, ...]
    axis: int
    rank: int | None
    attributes: tuple[tuple[str, float | int | str], ...] = ()


@dataclass(frozen=True)
class Same:
    """The node hands the neurons on as they are."""

    value: Value


@dataclass(frozen=True)
class Arrival:
    """A node that the walk has reached.

    Attributes:
        document: The model.
        node: The node.
        inside: Inputs that belong to the space, by index.
        width: Number of neurons.
    """

    document: Document
    node: gs.Node
    inside: dict[int, Value]
    width: int


Outcome = Elementwise | Same | Stop
Rule = Callable[[Arrival], Outcome]


def outcome(arrival: Arrival) -> Outcome:
    """Return what the operator of the node reached does to the neurons."""
    node = arrival.node
    if node.domain in (None, "", "ai.onnx") and node.op in RULES:
        return RULES[node.op](arrival)
    return stopped(node)


def stopped(node: gs.Node) -> Stop:
    """Return the reason why neurons do not pass `node`."""
    name = node.op
    if name in _QUANTIZED:
        return Stop("quantized", f"{name} is quantized: prune first, then quantize")
    if name in _NORMS:
        return Stop("norm", f"{name} mixes the neurons")
    if name in _MOVES:
        return Stop("reshape", f"{name} rearranges the neurons")
    if name in ("Conv", "ConvTranspose"):
        return Stop("convolution", f"{name} reads the hidden tensor")
    return Stop("operator", f"{name} is not elementwise")


def _operand(arrival: Arrival, index: int, axis: int) -> Operand | Stop:
    """Return input `index` as an operand of an elementwise step whose neurons run along `axis`."""
    if index in arrival.inside:
        return arrival.inside[index].number
    tensor = arrival.node.inputs[index]
    shape = arrival.document.constant_shape(tensor)
    if shape is None:
        if tensor.name in arrival.document.overridable:
            return Stop("overridable", f"{tensor.name} is also a model input that a caller may replace")
        return Stop("merge", f"{arrival.node.op} joins it with {tensor.name}, which is computed at run time")
    along = shape[axis] if len(shape) >= -axis else 1
    if along not in (1, arrival.width) or any(n != 1 for i, n in enumerate(shape) if i - len(shape) != axis):
        return Stop(
            "varying-constant", f"the constant {tensor.name} of shape {list(shape)} does not run along the neurons"
        )
    per_neuron = along == arrival.width and len(shape) >= -axis
    return ConstantAt(arrival.node, index, axis if per_neuron else None)


def _elementwise(*attributes: str) -> Rule:
    """Return the rule of an operator that computes each neuron from itself, with the attributes that matter."""

    def rule(arrival: Arrival) -> Outcome:
        node = arrival.node
        axes = {value.axis for value in arrival.inside.values()}
        ranks = {value.rank for value in arrival.inside.values()}
        if len(axes) != 1:
            return Stop("reshape", f"{node.op} combines two arrangements of the neurons")
        if len(node.outputs) > 1 and any(
            t.name and (t.outputs or arrival.document.is_output(t)) for t in node.outputs[1:]
        ):
            return Stop("operator", f"{node.op} has further outputs in use")
        axis = axes.pop()
        operands: list[Operand] = []
        for index, tensor in enumerate(node.inputs):
            if not tensor.name:
                operands.append(ConstantAt(node, index, None))
                continue
            operand = _operand(arrival, index, axis)
            if isinstance(operand, Stop):
                return operand
            if isinstance(operand, ConstantAt):
                # A constant with more axes gives the result more axes.
                ranks.add(len(arrival.document.constant_shape(tensor) or ()))
            operands.append(operand)
        kept = tuple((name, node.attrs[name]) for name in sorted(attributes) if name in node.attrs)
        rank = max((r for r in ranks if r is not None), default=None) if None not in ranks else None
        return Elementwise(node.op, tuple(operands), axis, rank, kept)

    return rule


def _same(arrival: Arrival) -> Outcome:
    """Identity, and Dropout as it is at inference."""
    node = arrival.node
    if set(arrival.inside) != {0}:
        return Stop("operator", f"{node.op} takes the hidden tensor for a setting")
    if any(t.name and (t.outputs or arrival.document.is_output(t)) for t in node.outputs[1:]):
        return Stop("operator", f"the mask of {node.op} is in use")
    settings = [arrival.document.constant(t) for t in node.inputs[1:] if t.name]
    if any(setting is None for setting in settings):
        return Stop("merge", f"{node.op} has settings that are computed at run time")
    if len(node.inputs) > 2 and node.inputs[2].name and bool(np.any(settings[-1])):
        return Stop("operator", f"{node.op} is in training mode")
    return Same(arrival.inside[0])


def _cast(arrival: Arrival) -> Outcome:
    """A cast between floating-point types hands the neurons on."""
    if arrival.node.attrs.get("to") in (1, 10, 11, 16):
        return Same(arrival.inside[0])
    return Stop("operator", "Cast makes the hidden tensor an integer")


def _batch_normalization(arrival: Arrival) -> Outcome:
    """At inference an affine step a neuron, where axis 1 is the neurons' axis."""
    node, value = arrival.node, arrival.inside.get(0)
    if value is None or value.rank is None or value.axis + value.rank != 1:
        return Stop("norm", "BatchNormalization runs along another axis than the neurons")
    if node.attrs.get("training_mode", 0) or any(t.name for t in node.outputs[1:]):
        return Stop("norm", "BatchNormalization is in training mode")
    operands: list[Operand] = [value.number]
    for index in range(1, 5):
        shape = arrival.document.constant_shape(node.inputs[index])
        if shape != (arrival.width,):
            return Stop("merge", "BatchNormalization has parameters that are computed at run time")
        operands.append(ConstantAt(node, index, -1))
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    return Elementwise(node.op, tuple(operands), value.axis, value.rank, (("epsilon", epsilon),))


def _clip(arrival: Arrival) -> Outcome:
    """Clip's bounds were attributes before version 11; they are scalars since."""
    return _elementwise("max", "min")(arrival)


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


RULES: MappingProxyType[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(
            _names(
                "Relu Sigmoid Tanh Softplus Softsign HardSwish Mish Erf Exp Log Sqrt Reciprocal Abs Neg Sign Floor "
                "Ceil Round Sin Cos Atan PRelu Pow Add Sub Mul Div Min Max Sum Mean Greater Less GreaterOrEqual "
                "LessOrEqual Equal Where Not And Or"
            ),
            _elementwise(),
        ),
        **dict.fromkeys(_names("LeakyRelu ThresholdedRelu Elu Celu Swish"), _elementwise("alpha")),
        "Selu": _elementwise("alpha", "gamma"),
        "HardSigmoid": _elementwise("alpha", "beta"),
        "Gelu": _elementwise("approximate"),
        "Clip": _clip,
        "Identity": _same,
        "Dropout": _same,
        "Cast": _cast,
        "BatchNormalization": _batch_normalization,
    }
)
"""How a neuron axis passes each operator."""

_QUANTIZED = _names(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger QLinearMatMul QLinearConv"
)
_NORMS = _names(
    "LayerNormalization GroupNormalization InstanceNormalization RMSNormalization LpNormalization "
    "MeanVarianceNormalization Softmax LogSoftmax Hardmax LRN SimplifiedLayerNormalization SkipLayerNormalization"
)
_MOVES = _names(
    "Reshape Transpose Flatten Squeeze Unsqueeze Expand Tile Slice Split Gather GatherElements GatherND Concat Pad "
    "SpaceToDepth DepthToSpace Shape Size"
)
