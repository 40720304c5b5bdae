"""Every spelling of a well-known activation is recognised, and nothing that merely looks like one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_coreset.core.activations.evaluate import run
from onnx_coreset.core.activations.program import Program, Step
from onnx_coreset.core.activations.records import ACTIVATIONS, recognise
from onnx_coreset.core.activations.spell import spell

ROOT2, C, K = float(np.sqrt(2.0)), float(np.sqrt(2.0 / np.pi)), 0.044715
T = np.linspace(-9, 9, 721)[:, None] * np.ones(3)

STORED = {
    "float64": float,
    "float32": lambda v: float(np.float32(v)),
    "float16": lambda v: float(np.float16(v)),
}


def power(e, p):
    return ("Pow", e, float(p))


def products(*factors):
    """Yields every order and association of a product."""
    if len(factors) == 1:
        yield factors[0]
    for size in range(1, len(factors)):
        for chosen in itertools.combinations(range(len(factors)), size):
            rest = [f for i, f in enumerate(factors) if i not in chosen]
            for left in products(*(factors[i] for i in chosen)):
                for right in products(*rest):
                    yield ("Mul", left, right)


def gelu_spellings(store):
    half, one = 0.5, 1.0
    arguments = [("Div", "x", store(ROOT2)), ("Mul", store(1 / ROOT2), "x"), ("Mul", "x", ("Reciprocal", store(ROOT2)))]
    for argument in arguments:
        erf = ("Erf", argument)
        gates = [("Add", erf, one), ("Add", one, erf), ("Sub", one, ("Erf", ("Neg", argument)))]
        for gate in gates:
            yield from products("x", half, gate)
            yield ("Div", ("Mul", "x", gate), 2.0)
        yield ("Add", ("Mul", "x", half), products_first("x", half, erf))
        yield ("Mul", "x", ("Add", half, ("Mul", half, erf)))


def products_first(*factors):
    return next(iter(products(*factors)))


def tanh_gelu_spellings(store):
    c, k = store(C), store(K)
    cubes = [power("x", 3), ("Mul", "x", ("Mul", "x", "x")), ("Mul", power("x", 2), "x")]
    inner = [("Mul", c, ("Add", "x", ("Mul", k, cube))) for cube in cubes]
    inner.append(("Mul", ("Mul", "x", c), ("Add", 1.0, ("Mul", ("Mul", "x", k), "x"))))
    inner.append(("Add", ("Mul", c, "x"), ("Mul", c * k, power("x", 3))))
    for argument in inner:
        gate = ("Add", 1.0, ("Tanh", argument))
        yield from products("x", 0.5, gate)
        yield ("Mul", "x", ("Sigmoid", ("Mul", 2.0, argument)))


LATER = ("Mul", 5.0, ("Sub", "x", 1.0))

SPELLINGS = {
    "Identity": [("Identity", "x"), ("Add", "x", 0.0), ("Mul", 1.0, "x"), ("Neg", ("Neg", "x"))],
    "Relu": [
        ("Max", "x", 0.0),
        ("Max", 0.0, "x"),
        ("Clip", "x", 0.0),
        ("Clip", "x", 0.0, np.inf),
        ("Clip", "x", {"min": 0.0, "max": 3.4028234663852886e38}),
        ("Where", ("Greater", "x", 0.0), "x", 0.0),
        ("Where", ("Less", "x", 0.0), 0.0, "x"),
        ("Where", ("Not", ("LessOrEqual", "x", 0.0)), "x", 0.0),
        ("Mul", "x", ("GreaterOrEqual", "x", 0.0)),
        ("Mul", 0.5, ("Add", "x", ("Abs", "x"))),
        ("Relu", ("Relu", "x")),
        ("Neg", ("Min", ("Neg", "x"), 0.0)),
        ("PRelu", "x", 0.0),
        ("ThresholdedRelu", "x", {"alpha": 0.0}),
        ("Div", ("Relu", ("Mul", "x", 3.0)), 3.0),
    ],
    "Abs": [
        ("Abs", "x"),
        ("Max", "x", ("Neg", "x")),
        ("Add", ("Relu", "x"), ("Relu", ("Neg", "x"))),
        ("Mul", "x", ("Sign", "x")),
    ],
    "LeakyRelu": [
        ("LeakyRelu", "x", {"alpha": 0.2}),
        ("PRelu", "x", 0.2),
        ("Max", "x", ("Mul", 0.2, "x")),
        ("Where", ("Greater", "x", 0.0), "x", ("Mul", "x", 0.2)),
        ("Where", ("GreaterOrEqual", "x", 0.0), "x", ("Mul", "x", 0.2)),
        ("Sub", ("Relu", "x"), ("Mul", 0.2, ("Relu", ("Neg", "x")))),
        ("Add", ("Relu", "x"), ("Mul", 0.2, ("Min", "x", 0.0))),
    ],
    "PRelu": [
        ("PRelu", "x", np.array([0.1, 0.3, 0.5])),
        ("Max", "x", ("Mul", np.array([0.1, 0.3, 0.5]), "x")),
        ("Where", ("Less", "x", 0.0), ("Mul", "x", np.array([0.1, 0.3, 0.5])), "x"),
    ],
    "Clip": [
        ("Clip", "x", 0.0, 6.0),
        ("Min", ("Max", "x", 0.0), 6.0),
        ("Max", ("Min", "x", 6.0), 0.0),
        ("Min", ("Relu", "x"), 6.0),
        ("Sub", ("Relu", "x"), ("Relu", ("Sub", "x", 6.0))),
        ("Mul", 6.0, ("Clip", ("Div", "x", 6.0), 0.0, 1.0)),
        ("Min", "x", np.array([0.1, 0.2, 0.3])),
        ("Clip", "x", -np.inf, 2.0),
        ("Max", "x", -1.5),
        ("Where", ("Less", "x", -1.0), -1.0, ("Where", ("Greater", "x", 1.0), 1.0, "x")),
    ],
    "HardSigmoid": [
        ("HardSigmoid", "x"),
        ("Clip", ("Add", ("Mul", "x", 0.2), 0.5), 0.0, 1.0),
        ("Div", ("Clip", ("Add", "x", 3.0), 0.0, 6.0), 6.0),
    ],
    "ThresholdedRelu": [
        ("ThresholdedRelu", "x", {"alpha": 0.7}),
        ("Where", ("Greater", "x", 0.7), "x", 0.0),
        ("Mul", "x", ("Less", 0.7, "x")),
    ],
    "Step": [
        ("Sign", "x"),
        ("Greater", "x", 0.0),
        ("GreaterOrEqual", "x", 0.5),
        ("Where", ("Greater", "x", 0.0), 1.0, -1.0),
        ("Not", ("Greater", "x", 1.0)),
    ],
    "Sigmoid": [
        ("Sigmoid", "x"),
        ("Reciprocal", ("Add", 1.0, ("Exp", ("Neg", "x")))),
        ("Div", 1.0, ("Add", ("Exp", ("Mul", -1.0, "x")), 1.0)),
        ("Div", ("Exp", "x"), ("Add", 1.0, ("Exp", "x"))),
        ("Mul", 0.5, ("Add", 1.0, ("Tanh", ("Mul", 0.5, "x")))),
        ("Sub", 1.0, ("Sigmoid", ("Neg", "x"))),
    ],
    "Tanh": [
        ("Tanh", "x"),
        ("Sub", ("Mul", 2.0, ("Sigmoid", ("Mul", 2.0, "x"))), 1.0),
        ("Div", ("Sub", ("Exp", ("Mul", 2.0, "x")), 1.0), ("Add", ("Exp", ("Mul", 2.0, "x")), 1.0)),
        ("Neg", ("Tanh", ("Neg", "x"))),
    ],
    "Softplus": [
        ("Softplus", "x"),
        ("Log", ("Add", 1.0, ("Exp", "x"))),
        ("Add", ("Max", "x", 0.0), ("Log", ("Add", 1.0, ("Exp", ("Neg", ("Abs", "x")))))),
        ("Neg", ("Log", ("Sigmoid", ("Neg", "x")))),
        ("Add", "x", ("Softplus", ("Neg", "x"))),
    ],
    "Softsign": [
        ("Softsign", "x"),
        ("Div", "x", ("Add", 1.0, ("Abs", "x"))),
        ("Mul", "x", ("Reciprocal", ("Add", ("Abs", "x"), 1.0))),
    ],
    "Elu": [
        ("Elu", "x", {"alpha": 0.7}),
        ("Where", ("Greater", "x", 0.0), "x", ("Mul", 0.7, ("Sub", ("Exp", "x"), 1.0))),
        ("Add", ("Relu", "x"), ("Mul", 0.7, ("Sub", ("Exp", ("Min", "x", 0.0)), 1.0))),
        ("Sub", ("Relu", "x"), ("Mul", 0.7, ("Relu", ("Sub", 1.0, ("Exp", "x"))))),
        ("Sub", ("Relu", "x"), ("Mul", 0.7, ("Sub", 1.0, ("Exp", ("Neg", ("Relu", ("Neg", "x"))))))),
    ],
    "Selu": [
        ("Selu", "x"),
        ("Mul", 1.0507009873554805, ("Elu", "x", {"alpha": 1.6732632423543772})),
        ("Mul", float(np.float32(1.0507009873554805)), ("Elu", "x", {"alpha": float(np.float32(1.6732632423543772))})),
    ],
    "Celu": [
        ("Celu", "x", {"alpha": 2.0}),
        ("Add", ("Max", "x", 0.0), ("Min", 0.0, ("Mul", 2.0, ("Sub", ("Exp", ("Div", "x", 2.0)), 1.0)))),
    ],
    "Gaussian": [
        ("Exp", ("Neg", ("Mul", "x", "x"))),
        ("Exp", ("Mul", "x", ("Neg", "x"))),
        ("Exp", ("Neg", power("x", 2))),
        ("Reciprocal", ("Exp", power("x", 2))),
        power(("Exp", ("Mul", -0.5, power("x", 2))), 2),
    ],
    "SoftClip": [
        ("Mul", 0.2, ("Sub", ("Softplus", ("Mul", 5.0, "x")), ("Softplus", LATER))),
        ("Div", ("Log", ("Div", ("Add", 1.0, ("Exp", ("Mul", 5.0, "x"))), ("Add", 1.0, ("Exp", LATER)))), 5.0),
    ],
    "Silu": [
        *products("x", ("Sigmoid", "x")),
        ("Div", "x", ("Add", 1.0, ("Exp", ("Neg", "x")))),
        ("Mul", ("Mul", "x", 0.5), ("Add", 1.0, ("Tanh", ("Div", "x", 2.0)))),
        ("Swish", "x"),
        ("Div", ("Mul", 2.0, ("Mul", "x", ("Sigmoid", "x"))), 2.0),
    ],
    "QuickGelu": [
        ("QuickGelu", "x"),
        ("Mul", "x", ("Sigmoid", ("Mul", 1.702, "x"))),
        ("Mul", ("Sigmoid", ("Mul", "x", 2.0)), "x"),
        ("Swish", "x", {"alpha": 0.5}),
    ],
    "HardSwish": [
        ("HardSwish", "x"),
        ("Mul", "x", ("HardSigmoid", "x", {"alpha": 1 / 6, "beta": 0.5})),
        ("Mul", "x", ("HardSigmoid", "x", {"alpha": float(np.float32(1 / 6)), "beta": 0.5})),
        ("Div", ("Mul", "x", ("Clip", ("Add", "x", 3.0), 0.0, 6.0)), 6.0),
        *products("x", ("Min", ("Relu", ("Add", 3.0, "x")), 6.0), float(np.float32(1 / 6))),
        ("Mul", "x", ("Add", 0.5, ("Div", ("Clip", "x", -3.0, 3.0), 6.0))),
        ("Mul", ("Mul", "x", ("Clip", ("Add", "x", 3.0), 0.0, 6.0)), float(np.float16(1 / 6))),
    ],
    "Mish": [
        ("Mish", "x"),
        ("Mul", "x", ("Tanh", ("Softplus", "x"))),
        ("Mul", ("Tanh", ("Log", ("Add", 1.0, ("Exp", "x")))), "x"),
    ],
    "Gelu": [("Gelu", "x"), *(s for store in STORED.values() for s in gelu_spellings(store))],
    "GeluTanh": [
        ("Gelu", "x", {"approximate": "tanh"}),
        *(s for store in STORED.values() for s in tanh_gelu_spellings(store)),
    ],
    "Polynomial": [
        ("Mul", "x", "x"),
        power("x", 2),
        power(("Add", "x", 1.0), 3),
        ("Add", ("Mul", 0.125, ("Mul", "x", "x")), ("Add", ("Mul", 0.5, "x"), 0.25)),
        ("Add", "x", 1.0),
    ],
}
CASES = [(name, expression) for name, spellings in SPELLINGS.items() for expression in spellings]


def test_every_record_has_spellings():
    assert set(SPELLINGS) == {record.name for record in ACTIVATIONS}


@pytest.mark.parametrize("name", sorted(SPELLINGS))
def test_every_spelling_is_recognised_and_means_the_same(name):
    for expression in SPELLINGS[name]:
        program = spell(expression)
        activation = recognise(program)
        assert activation.name == name, expression
        # Constants of the program carry roundings of up to 2^-11 relative where they were stored in float16.
        expected = run(program, (T,))
        np.testing.assert_allclose(activation(T), expected, rtol=2e-3, atol=4e-3, err_msg=str(expression))
        if "float16" not in str(expression) and name not in {"Gelu", "GeluTanh", "HardSwish"}:
            np.testing.assert_allclose(activation(T), expected, rtol=4e-6, atol=4e-6, err_msg=str(expression))


@pytest.mark.parametrize("record", ACTIVATIONS, ids=lambda r: r.name)
def test_declared_spellings_compute_the_closed_form(record):
    for parameters in record.examples:
        for position, program in enumerate(record.spellings(parameters)):
            activation = recognise(program)
            assert activation.name == record.name
            # The first spelling has unrounded constants; later ones may have float16 or bfloat16 ones.
            bound = 1e-12 if position == 0 else 0.02
            np.testing.assert_allclose(run(program, (T,)), record.function(T, parameters), rtol=bound, atol=bound)


def shuffled(expression, draw):
    """Returns an equal expression: operands swapped, identities inserted."""
    if not isinstance(expression, tuple):
        return expression
    op, *operands = expression
    operands = [shuffled(o, draw) if isinstance(o, tuple) else o for o in operands]
    if op in {"Add", "Mul", "Max", "Min", "Sum"} and draw(st.booleans()):
        operands.reverse()
    result = (op, *operands)
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return ("Identity", result)
    if kind == 1:
        return ("Neg", ("Neg", result))
    if kind == 2:
        return ("Div", ("Mul", result, 4.0), 4.0)
    return ("Sub", ("Add", result, 2.0), 2.0) if kind == 3 else result


@settings(max_examples=400, deadline=None)
@given(data=st.data(), case=st.sampled_from(CASES))
def test_equal_programs_share_a_name(data, case):
    name, expression = case
    if any(part in str(expression) for part in ("Greater", "Less", "Not")):
        return
    assert recognise(spell(shuffled(expression, data.draw))).name == name


LOOKALIKES = [
    ("Mul", ("Mul", 0.5, "x"), ("Add", 1.0, ("Erf", ("Mul", "x", 0.7)))),
    ("Mul", ("Mul", 0.5, "x"), ("Add", 1.001, ("Erf", ("Div", "x", ROOT2)))),
    ("Mul", ("Mul", 0.51, "x"), ("Add", 1.0, ("Erf", ("Div", "x", ROOT2)))),
    ("Mul", ("Mul", 0.5, "x"), ("Add", 1.0, ("Tanh", ("Mul", C, ("Add", "x", ("Mul", 0.05, power("x", 3))))))),
    ("Mul", ("Mul", 0.5, "x"), ("Add", 1.0, ("Tanh", ("Mul", 0.8, ("Add", "x", ("Mul", K, power("x", 3))))))),
    ("Mul", ("Mul", 0.5, "x"), ("Sub", 1.0, ("Erf", ("Div", "x", ROOT2)))),
    ("Mul", "x", ("Sigmoid", ("Neg", "x"))),
    ("Mul", "x", ("Sigmoid", ("Add", "x", 0.1))),
    ("Mul", "x", ("Tanh", "x")),
    ("Mul", "x", ("HardSigmoid", "x")),
    ("Mul", 2.0, ("Relu", "x")),
    ("Relu", ("Neg", "x")),
    ("Sigmoid", ("Mul", 2.0, "x")),
    ("Exp", ("Mul", -0.5, ("Mul", "x", "x"))),
    ("Exp", ("Mul", "x", "x")),
    ("Exp", "x"),
    ("Erf", "x"),
    ("Sin", "x"),
    ("Mul", "x", ("Tanh", ("Mul", 1.1, ("Softplus", "x")))),
    ("Log", ("Add", 1.1, ("Exp", "x"))),
    ("Mul", 1.05, ("Elu", "x", {"alpha": 1.67})),
    ("Mul", ("Relu", "x"), ("Relu", "x")),
    ("Sub", ("Softplus", "x"), ("Softplus", ("Sub", "x", 2.0))),
    ("Mul", ("Relu", "x"), np.array([1.0, 2.0, 3.0])),
    ("Max", ("Mul", "x", np.array([1.0, -1.0, 1.0])), ("Sin", "x")),
    ("Where", "x", 1.0, 0.0),
    ("Div", 1.0, "x"),
    ("Mul", 1.0, ("Div", "x", "x")),
    ("Sub", "x", "x"),
    ("Mul", ("Abs", "x"), 0.0),
]


@pytest.mark.parametrize("expression", LOOKALIKES, ids=str)
def test_what_merely_looks_like_a_record_stays_a_composite(expression):
    activation = recognise(spell(expression))
    assert activation.name == "composite"
    np.testing.assert_array_equal(activation(T), run(spell(expression), (T,)))


@pytest.mark.parametrize(
    "expression, parameters",
    [
        (("LeakyRelu", "x", {"alpha": 0.3}), (0.3,)),
        (("Mul", "x", ("Sigmoid", ("Mul", 2.0, "x"))), (2.0,)),
        (("Clip", "x", -1.0, 2.5), (-1.0, 2.5)),
        (("Min", "x", 4.0), (-np.inf, 4.0)),
        (("HardSigmoid", "x"), (0.2, 0.5)),
        (("Sign", "x"), (0.0, -1.0, 0.0, 1.0)),
        (("GreaterOrEqual", "x", 0.5), (0.5, 0.0, 1.0, 1.0)),
        (("Less", "x", 0.5), (0.5, 1.0, 0.0, 0.0)),
        (("Elu", "x", {"alpha": 0.7}), (0.7,)),
        (power(("Sub", "x", 1.0), 2), (1.0, -2.0, 1.0)),
    ],
)
def test_parameters_are_read_off_the_form(expression, parameters):
    np.testing.assert_allclose(recognise(spell(expression)).parameters, parameters, rtol=1e-12)


def test_parameters_of_neurons_are_taken_with_them():
    slopes = np.array([0.1, 0.3, 0.5])
    for activation in (recognise(spell(("PRelu", "x", slopes))), recognise(spell(("Mul", ("Sin", "x"), slopes)))):
        kept = np.array([2, 0])
        np.testing.assert_array_equal(activation.take(kept)(T[:, :2]), activation(T)[:, kept])


def test_equal_slopes_are_a_leaky_relu():
    assert recognise(spell(("PRelu", "x", np.full(3, 0.25)))).name == "LeakyRelu"


def test_a_gated_program_is_no_activation():
    with pytest.raises(ValueError, match="one pre-activation"):
        recognise(Program((Step("Mul", (0, 1)),), 2))


@pytest.mark.parametrize("outer", ["Mul", "Add", "Max"])
def test_a_deep_program_gives_up_before_its_normal_form_explodes(outer):
    steps = []
    for level in range(60):
        value = 3 * level
        steps += [Step("Erf", (value,)), Step("Tanh", (value,)), Step(outer, (value + 1, value + 2))]
    assert recognise(Program(tuple(steps))).name == "composite"
