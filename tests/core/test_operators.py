"""Every elementwise operator computes what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnx_coreset.core.activations.evaluate import run
from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.core.activations.program import Program, Step

onnxruntime = pytest.importorskip("onnxruntime")

GRID = np.concatenate([np.linspace(-12, 12, 481), [-1e4, -300.0, -88.5, -20.5, 20.5, 88.5, 300.0, 1e4, 0.5, -0.5, 2.5]])
GRID = GRID.astype(np.float32)
EPS = float(np.finfo(np.float32).eps)

# Operator, further operands, attributes, version of the default opset (0: the com.microsoft domain).
CASES = [
    ("Relu", (), {}, 20),
    ("LeakyRelu", (), {}, 20),
    ("LeakyRelu", (), {"alpha": 0.3}, 20),
    ("PRelu", (0.25,), {}, 20),
    ("ThresholdedRelu", (), {}, 20),
    ("ThresholdedRelu", (), {"alpha": 0.375}, 20),
    ("Clip", (), {}, 20),
    ("Clip", (-1.0,), {}, 20),
    ("Clip", (0.0, 6.0), {}, 20),
    ("Clip", (), {"min": -0.5, "max": 2.0}, 10),
    ("Sigmoid", (), {}, 20),
    ("HardSigmoid", (), {}, 20),
    ("HardSigmoid", (), {"alpha": 1 / 6, "beta": 0.4}, 20),
    ("Tanh", (), {}, 20),
    ("Softplus", (), {}, 20),
    ("Softsign", (), {}, 20),
    ("Elu", (), {}, 20),
    ("Elu", (), {"alpha": 0.3}, 20),
    ("Selu", (), {}, 20),
    ("Celu", (), {}, 20),
    ("Celu", (), {"alpha": 2.0}, 20),
    ("Gelu", (), {}, 20),
    ("Gelu", (), {"approximate": "tanh"}, 20),
    ("Gelu", (), {}, 0),
    ("QuickGelu", (), {}, 0),
    ("QuickGelu", (), {"alpha": 1.1}, 0),
    ("HardSwish", (), {}, 20),
    ("Mish", (), {}, 20),
    ("Erf", (), {}, 20),
    ("Exp", (), {}, 20),
    ("Log", (), {}, 20),
    ("Sqrt", (), {}, 20),
    ("Reciprocal", (), {}, 20),
    ("Abs", (), {}, 20),
    ("Neg", (), {}, 20),
    ("Sign", (), {}, 20),
    ("Floor", (), {}, 20),
    ("Ceil", (), {}, 20),
    ("Round", (), {}, 20),
    ("Sin", (), {}, 20),
    ("Cos", (), {}, 20),
    ("Atan", (), {}, 20),
    ("Identity", (), {}, 20),
    ("Pow", (2.0,), {}, 20),
    ("Pow", (3.0,), {}, 20),
    ("Pow", (-1.0,), {}, 20),
    ("Pow", (0.5,), {}, 20),
    ("Add", (1.5,), {}, 20),
    ("Sub", (1.5,), {}, 20),
    ("Mul", (-1.5,), {}, 20),
    ("Div", (3.0,), {}, 20),
    ("Min", (0.7, 2.0), {}, 20),
    ("Max", (0.7, -2.0), {}, 20),
    ("Sum", (0.7, 2.0), {}, 20),
    ("Mean", (0.7, 2.0), {}, 20),
    ("Greater", (0.5,), {}, 20),
    ("GreaterOrEqual", (0.5,), {}, 20),
    ("Less", (0.5,), {}, 20),
    ("LessOrEqual", (0.5,), {}, 20),
    ("Equal", (0.5,), {}, 20),
]
BOOLEAN = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"}
# Swish stands in opset 24, which the pinned runtime may lack; the logical operators are in their own test.
ELSEWHERE = {"Swish", "Where", "Not", "And", "Or"}


def runtime(nodes, operands, version, output=TensorProto.FLOAT):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])]
    constants = [helper.make_tensor(f"c{i}", TensorProto.FLOAT, [], [value]) for i, value in enumerate(operands)]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", output, [None])], constants)
    opsets = [helper.make_opsetid("", version or 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": GRID})[0]


def test_every_operator_of_the_table_has_a_case():
    assert {case[0] for case in CASES} | ELSEWHERE == set(ELEMENTWISE)


@pytest.mark.parametrize("op, operands, attributes, version", CASES)
def test_an_operator_computes_what_onnx_runtime_computes(op, operands, attributes, version):
    domain = "" if version else "com.microsoft"
    names = ["x", *(f"c{i}" for i in range(len(operands)))]
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    theirs = runtime([node], operands, version, TensorProto.BOOL if op in BOOLEAN else TensorProto.FLOAT)
    constants = [np.float64(np.float32(value)) for value in operands]
    ours = ELEMENTWISE[op]([GRID.astype(np.float64), *constants], attributes)
    theirs = theirs.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    defined = np.isfinite(ours) & (np.abs(ours) < np.finfo(np.float32).max)
    # Runtime kernels are rational approximations of relative error some 8 units; where a gate cancels (1 + erf,
    # 1 + tanh) the error is absolute in units of x, of 8 units too.
    scale = np.abs(ours) + np.minimum(np.abs(GRID), 12.0) + 1.0
    assert np.all(np.abs(ours[defined] - theirs[defined]) <= 8 * EPS * scale[defined])


def test_swish_is_x_times_sigmoid_of_alpha_x():
    nodes = [
        helper.make_node("Mul", ["x", "c0"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["y"]),
    ]
    theirs = runtime(nodes, (1.5,), 20)
    ours = ELEMENTWISE["Swish"]([GRID.astype(np.float64)], {"alpha": 1.5})
    assert np.all(np.abs(ours - theirs) <= 8 * EPS * (np.abs(ours) + 1.0))


def test_logical_operators_and_where():
    nodes = [
        helper.make_node("Greater", ["x", "c0"], ["p"]),
        helper.make_node("Less", ["x", "c1"], ["q"]),
        helper.make_node("And", ["p", "q"], ["r"]),
        helper.make_node("Not", ["r"], ["n"]),
        helper.make_node("Or", ["n", "q"], ["o"]),
        helper.make_node("Where", ["r", "x", "c1"], ["w"]),
        helper.make_node("Where", ["o", "w", "c0"], ["y"]),
    ]
    steps = (
        Step("Greater", (0, np.float64(-1.0))),
        Step("Less", (0, np.float64(2.0))),
        Step("And", (1, 2)),
        Step("Not", (3,)),
        Step("Or", (4, 2)),
        Step("Where", (3, 0, np.float64(2.0))),
        Step("Where", (5, 6, np.float64(-1.0))),
    )
    np.testing.assert_array_equal(run(Program(steps), (GRID,)), runtime(nodes, (-1.0, 2.0), 20))


def test_float32_limits_are_no_bounds_of_a_clip():
    limit = float(np.finfo(np.float32).max)
    assert ELEMENTWISE["Clip"]([np.array(1e39)], {"min": -limit, "max": limit}) == 1e39


WITHOUT_LIMITS = frozenset({"Sin", "Cos", "Log", "Sqrt", "Not"})
WITH_LIMITS = sorted(op for op, record in ELEMENTWISE.items() if record.least <= 1 and op not in WITHOUT_LIMITS)


@pytest.mark.parametrize("op", WITH_LIMITS)
def test_values_at_infinity_are_the_limits(op):
    record = ELEMENTWISE[op]
    ends = record([np.array([-np.inf, np.inf])])
    far = record([np.array([-1e30, 1e30])])
    with np.errstate(over="ignore"):
        same = np.isclose(ends, far, rtol=1e-12, atol=1e-12)
    assert np.all(same | (np.isinf(ends) & (np.abs(far) > 1e20) & (np.sign(ends) == np.sign(far))))


def test_what_an_operator_does_not_know_is_refused():
    with pytest.raises(ValueError, match="no attribute"):
        ELEMENTWISE["Relu"]([np.zeros(2)], {"alpha": 1.0})
    with pytest.raises(ValueError, match="operands"):
        ELEMENTWISE["Add"]([np.zeros(2)])
    with pytest.raises(ValueError, match="approximation"):
        ELEMENTWISE["Gelu"]([np.zeros(2)], {"approximate": "fast"})
    with pytest.raises(ValueError, match="not an elementwise"):
        run(Program((Step("Softmax", (0,)),)), (GRID,))
    with pytest.raises(ValueError, match="pre-activations"):
        run(Program((), 2), (GRID,))


def test_a_program_without_steps_is_the_identity_and_constants_meet_the_last_axis():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(run(Program(), (x,)), x)
    np.testing.assert_array_equal(run(Program((Step("Mul", (0, np.array([1.0, 2.0, 3.0]))),)), (x,)), x * [1, 2, 3])
    np.testing.assert_array_equal(run(Program((Step("Mul", (0, 1)),), 2), (x, x)), x * x)
