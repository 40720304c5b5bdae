"""How a neuron axis passes an operator: one row an operator type.

A rule is asked when a node is reached by a tensor whose neurons run along a known axis (counted from the end, so that
broadcasting needs no ranks). It answers with an `Elementwise` step, with `Same` where the neurons pass untouched, or
with a `Stop`; operators that only move neurons are in `moves`. An operator without a row stops the walk.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.graph.rules import moves, parts
from onnx_coreset.graph.rules.values import (
    Arrival,
    Aside,
    ConstantAt,
    Elementwise,
    Halved,
    Joined,
    Operand,
    Outcome,
    Same,
    Steps,
    Value,
)
from onnx_coreset.graph.skip import Stop

__all__ = [
    "MOVES",
    "REDUCTIONS",
    "RULES",
    "Arrival",
    "ConstantAt",
    "Elementwise",
    "Outcome",
    "Steps",
    "Value",
    "outcome",
    "stopped",
]

Rule = Callable[[Arrival], Outcome]


def outcome(arrival: Arrival) -> Outcome:
    """Return what the operator of the node reached does to the neurons."""
    node = arrival.node
    if node.domain in (None, "", "ai.onnx") and node.op in RULES:
        return RULES[node.op](arrival)
    if node.domain == "com.microsoft" and node.op in CONTRIB:
        return CONTRIB[node.op](arrival)
    return stopped(node)


def stopped(node: gs.Node) -> Stop:
    """Return the reason why neurons do not pass `node`."""
    name = node.op
    if name in _QUANTIZED:
        return Stop("quantized", f"{name} is quantized: prune first, then quantize")
    if name in _NORMS:
        return Stop("norm", f"{name} mixes the neurons")
    if name in _MOVES:
        return moves.mixed(node)
    if name in ("Conv", "ConvTranspose"):
        return Stop("convolution", f"{name} reads the hidden tensor")
    return Stop("operator", f"{name} is not elementwise")


def _operand(arrival: Arrival, index: int, value: Value, copy: int) -> Operand | Stop:
    """Return input `index` as an operand of the step for one copy of the neurons, arranged as in `value`."""
    if index in arrival.inside:
        return arrival.inside[index].numbers[copy]
    tensor, axis, layout = arrival.node.inputs[index], value.axis, value.layout
    shape = arrival.document.constant_shape(tensor)
    if shape is None:
        if tensor.name in arrival.document.overridable:
            return Stop("overridable", f"{tensor.name} is also a model input that a caller may replace")
        return Joined("merge", f"{arrival.node.op} joins it with {tensor.name}, which is computed at run time", tensor)
    along = shape[axis] if len(shape) >= -axis else 1
    total = layout.size
    if along not in (1, total) or any(n != 1 for i, n in enumerate(shape) if i - len(shape) != axis):
        return Stop(
            "varying-constant", f"the constant {tensor.name} of shape {list(shape)} does not run along the neurons"
        )
    per_neuron = along == total and len(shape) >= -axis
    return ConstantAt(arrival.node, index, axis if per_neuron else None, layout, copy)


def _elementwise(*attributes: str) -> Rule:
    """Return the rule of an operator that computes each neuron from itself, with the attributes that matter."""

    def rule(arrival: Arrival) -> Outcome:
        node = arrival.node
        value = next(iter(arrival.inside.values()))
        ranks = {value.rank for value in arrival.inside.values()}
        if any((other.axis, other.layout) != (value.axis, value.layout) for other in arrival.inside.values()):
            return _arranged_twice(arrival, value)
        if len(node.outputs) > 1 and any(
            t.name and (t.outputs or arrival.document.is_output(t)) for t in node.outputs[1:]
        ):
            return Stop("operator", f"{node.op} has further outputs in use")
        # A constant with more axes gives the result more axes.
        others = [t for i, t in enumerate(node.inputs) if t.name and i not in arrival.inside]
        ranks |= {len(arrival.document.constant_shape(tensor) or ()) for tensor in others}
        rank = None if None in ranks else max(r for r in ranks if r is not None)
        kept = tuple((name, node.attrs[name]) for name in sorted(attributes) if name in node.attrs)
        steps = []
        for copy in range(len(value.numbers)):
            operands: list[Operand] = []
            for index, tensor in enumerate(node.inputs):
                operand = _operand(arrival, index, value, copy) if tensor.name else ConstantAt(node, index, None)
                if isinstance(operand, Stop):
                    return operand
                operands.append(operand)
            steps.append(Elementwise(node.op, tuple(operands), value.axis, rank, kept))
        return Steps(tuple(steps), value.layout)

    return rule


def _arranged_twice(arrival: Arrival, value: Value) -> Stop:
    """Return that a step meets different neurons: perhaps the parts of a fused product."""
    reason = f"{arrival.node.op} combines two arrangements of the neurons"
    alike = all((v.axis, v.layout.size) == (value.axis, value.layout.size) for v in arrival.inside.values())
    copies = arrival.width // value.layout.size
    if alike and copies > 1 and copies * value.layout.size == arrival.width:
        return Halved("reshape", reason, copies)
    return Stop("reshape", reason)


def _biased(arrival: Arrival) -> Outcome:
    """A Gelu with a bias inside; the steps keep the operator's name, and the core spells them out."""
    node = arrival.node
    if set(arrival.inside) != {0} or any(not tensor.name for tensor in node.inputs):
        return Stop("operator", f"{node.op} takes the hidden tensor for its bias, or leaves the bias out")
    return _elementwise()(arrival)


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
    rank = arrival.document.shapes.rank(node.inputs[0]) if value is None or value.rank is None else value.rank
    if value is None or rank is None or value.axis + rank != 1:
        return Stop("norm", "BatchNormalization runs along another axis than the neurons")
    if node.attrs.get("training_mode", 0) or any(t.name for t in node.outputs[1:]):
        return Stop("norm", "BatchNormalization is in training mode")
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    steps = []
    for copy, number in enumerate(value.numbers):
        operands: list[Operand] = [number]
        for index in range(1, 5):
            shape = arrival.document.constant_shape(node.inputs[index])
            if shape != (value.layout.size,):
                return Stop("merge", "BatchNormalization has parameters that are computed at run time")
            operands.append(ConstantAt(node, index, -1, value.layout, copy))
        steps.append(Elementwise(node.op, tuple(operands), value.axis, rank, (("epsilon", epsilon),)))
    return Steps(tuple(steps), value.layout)


def _clip(arrival: Arrival) -> Outcome:
    """Clip's bounds were attributes before version 11; they are scalars since."""
    return _elementwise("max", "min")(arrival)


def _shape(arrival: Arrival) -> Outcome:
    """Shape reads no neurons; what is made of the sizes is another question."""
    if any(value.layout.totals(arrival.width) is None for value in arrival.inside.values()):
        return Stop("reshape", "Shape counts some of the neurons")
    return Aside()


def _reduced(arrival: Arrival) -> Outcome:
    """A sum or mean over the neurons is what norms are made of; one over other axes joins samples."""
    node, value = arrival.node, arrival.inside.get(0)
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1].name:
        axes = arrival.document.constant(node.inputs[1])
    rank = None if value is None else value.rank or arrival.document.shapes.rank(node.inputs[0])
    over = None if axes is None else {int(a) if a < 0 or rank is None else int(a) - rank for a in np.ravel(axes)}
    if value is None or (over is not None and value.axis not in over):
        return Stop("operator", f"{node.op} joins rows of the hidden tensor")
    return Stop("norm", f"{node.op} mixes the neurons, as a norm written out does")


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


MOVES: MappingProxyType[str, Rule] = MappingProxyType(
    {
        "Reshape": moves.reshape,
        "Flatten": moves.flatten,
        "Transpose": moves.transpose,
        "Squeeze": moves.squeeze,
        "Unsqueeze": moves.unsqueeze,
        "Expand": moves.expand,
        "Gather": parts.gather,
        "Slice": parts.cut,
        "Split": parts.split,
        "Concat": parts.concat,
    }
)
"""Operators that move neurons, or take some of them."""

REDUCTIONS = _names(
    "ReduceMean ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceMax ReduceMin ReduceProd ReduceLogSum ReduceLogSumExp"
)

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
        **MOVES,
        **dict.fromkeys(REDUCTIONS, _reduced),
        "Shape": _shape,
    }
)
"""How a neuron axis passes each operator."""

CONTRIB: MappingProxyType[str, Rule] = MappingProxyType(
    {"Gelu": _elementwise(), "QuickGelu": _elementwise("alpha"), "BiasGelu": _biased, "FastGelu": _biased}
)
"""How a neuron axis passes ONNX Runtime's own operators, of domain com.microsoft."""

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
