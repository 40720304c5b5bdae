"""A normalisation in front of a layer is found however it is spelled, and is what ONNX Runtime computes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graph_layers import array, found, model, parsed
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.graph.norms import Norm, norm_in_front

D = 6
EPS = 1e-3
GAMMA, BETA = array(D), array(D)
CONSTANTS = {
    "g": GAMMA,
    "b": BETA,
    "eps": np.float32(EPS),
    "two": np.float32(2),
    "half": np.float32(0.5),
    "minus_half": np.float32(-0.5),
    "one": np.float32(1),
    "minus": np.float32(-1),
    "last": np.asarray([-1]),
    "wide": array(1, 1, D),
}
LAYER = ("h = MatMul(n, W)", "z = Relu(h)", "y = MatMul(z, V)")


def mean(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("ReduceMean", [source], [target], axes=[-1])


def fused(op: str, inputs: str, domain: str = "", **attributes: object) -> onnx.NodeProto:
    attributes = {"epsilon": EPS} | attributes
    return helper.make_node(op, inputs.split(), ["n"], domain=domain, **attributes)


CENTRE = (mean("x", "m"), "c = Sub(x, m)")
SPELLED = {
    "torch": (*CENTRE, "q = Pow(c, two)", mean("q", "v"), "e = Add(v, eps)", "s = Sqrt(e)", "u = Div(c, s)"),
    "product": (*CENTRE, "q = Mul(c, c)", mean("q", "v"), "e = Add(eps, v)", "s = Pow(e, half)", "u = Div(c, s)"),
    "inverse": (*CENTRE, "q = Mul(c, c)", mean("q", "v"), "e = Add(v, eps)", "s = Pow(e, minus_half)", "u = Mul(s, c)"),
    "reciprocal": (
        *CENTRE,
        "q = Mul(c, c)",
        mean("q", "v"),
        "e = Add(v, eps)",
        "s = Sqrt(e)",
        "r = Reciprocal(s)",
        "u = Mul(c, r)",
    ),
    "twice": (
        *CENTRE,
        mean("x", "m2"),
        "c2 = Sub(m2, x)",
        "k = Cast(c2)",
        "q = Pow(k, two)",
        mean("q", "v"),
        "e = Add(v, eps)",
        "s = Sqrt(e)",
        "u = Div(c, s)",
    ),
    "quotient": (
        *CENTRE,
        "q = Pow(c, two)",
        mean("q", "v"),
        "e = Add(v, eps)",
        "s = Sqrt(e)",
        "r = Div(one, s)",
        "u = Mul(c, r)",
    ),
}
ROOT = {
    "root": ("q = Pow(x, two)", mean("q", "v"), "e = Add(v, eps)", "s = Sqrt(e)", "u = Div(x, s)"),
    "root of a product": ("q = Mul(x, x)", mean("q", "v"), "e = Add(v, eps)", "s = Sqrt(e)", "u = Div(x, s)"),
    "reciprocal root": (
        "q = Pow(x, two)",
        mean("q", "v"),
        "e = Add(v, eps)",
        "s = Sqrt(e)",
        "r = Reciprocal(s)",
        "u = Mul(x, r)",
    ),
}
SCALED = ("t = Mul(g, u)", "n = Add(t, b)")
TENSORFLOW = (
    mean("x", "m"),
    "c = Sub(x, m)",
    "q = Mul(c, c)",
    mean("q", "v"),
    "e = Add(v, eps)",
    "s = Sqrt(e)",
    "r = Reciprocal(s)",
    "i = Mul(r, g)",
    "xi = Mul(x, i)",
    "mi = Mul(m, i)",
    "o = Sub(b, mi)",
    "n = Add(xi, o)",
)
MICROSOFT = "com.microsoft"
CENTRED = {
    **{name: (*nodes, *SCALED) for name, nodes in SPELLED.items()},
    "tensorflow": TENSORFLOW,
    "operator": (fused("LayerNormalization", "x g b", axis=-1),),
    "operator by number": (fused("LayerNormalization", "x g b", axis=2),),
    "skip": (fused("SkipLayerNormalization", "x x g b", MICROSOFT),),
    "moved": (
        *SPELLED["torch"],
        "t = Mul(g, u)",
        "n0 = Add(t, b)",
        helper.make_node("Transpose", ["n0"], ["n1"], perm=[1, 0, 2]),
        "n = Identity(n1)",
    ),
    "two scales": (*SPELLED["torch"], "t0 = Mul(u, minus)", "t1 = Mul(wide, t0)", "t = Div(t1, g)", "n = Sub(t, b)"),
}
PLAIN = {
    **{name: (*nodes, *SCALED) for name, nodes in ROOT.items()},
    "simplified operator": (fused("SimplifiedLayerNormalization", "x g"),),
    "skip simplified": (fused("SkipSimplifiedLayerNormalization", "x x g", MICROSOFT),),
    "new operator": (fused("RMSNormalization", "x g", axis=-1),),
    "axes as an input": (
        "q = Pow(x, two)",
        "v = ReduceMean(q, last)",
        *ROOT["root"][2:],
        *SCALED,
    ),
}
WEIGHTS = {"W": array(D, 5), "V": array(5, 4)}


def built(nodes: tuple[onnx.NodeProto | str, ...], **changed: np.ndarray) -> onnx.ModelProto:
    made = [parsed(node) if isinstance(node, str) else node for node in (*nodes, *LAYER)]
    for node in made:
        if node.op_type == "Cast" and not node.attribute:
            node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    read = {name for node in made for name in node.input}
    tensors = {name: v for name, v in ({**CONSTANTS, **WEIGHTS} | changed).items() if name in read}
    new = any(node.op_type == "RMSNormalization" or "last" in node.input for node in made)
    proto = model(*made, inputs={"x": [2, 3, D]}, infer=False, opset=23 if new else 17, ir=10, **tensors)
    proto.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return proto


def norm_of(proto: onnx.ModelProto) -> Norm | None:
    document, (space,), _ = found(proto)
    return norm_in_front(document, space)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Rows of what the layer reads, by ONNX Runtime."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.append(helper.make_tensor_value_info("n", TensorProto.FLOAT, None))
    return Session(shown, choose("cpu"), threads=1).run({"x": x})["n"].reshape(-1, D)


@pytest.mark.parametrize("name", [*CENTRED, *PLAIN])
def test_what_is_found_is_what_is_computed(name: str) -> None:
    centred = name in CENTRED
    proto = built((CENTRED | PLAIN)[name])
    norm = norm_of(proto)
    assert norm is not None and (norm.kind, norm.centred) == (("LayerNorm" if centred else "RMSNorm"), centred)
    assert norm.exact and norm.bounded
    x = array(2, 3, D) + np.float32(0.5)
    rows = (2 * x if name.startswith("skip") else x).astype("f8")
    rows = (rows.transpose(1, 0, 2) if name == "moved" else rows).reshape(-1, D)
    w = rows - rows.mean(axis=1, keepdims=True) if centred else rows
    u = w / np.sqrt(np.mean(w**2, axis=1, keepdims=True) + EPS)
    # A dozen roundings of numbers below 20, in float32.
    np.testing.assert_allclose(run(proto, x), norm.gamma * u + norm.beta, atol=12 * 20 * 2.0**-24)


def torch_with(position: int, *nodes: onnx.NodeProto | str) -> tuple[onnx.NodeProto | str, ...]:
    """The spelled-out form with the node at a position replaced."""
    spelled = (*SPELLED["torch"], *SCALED)
    return (*spelled[:position], *nodes, *spelled[position + 1 :])


REFUSED = {
    "nothing": ("n = Identity(x)",),
    "the square of something else": torch_with(2, "q = Mul(c, x)"),
    "the deviation of something else": torch_with(2, "o = Tanh(c)", "q = Mul(o, o)"),
    "a cube": torch_with(2, "three = Add(two, one)", "q = Pow(c, three)"),
    "the variance": torch_with(5, "s = Identity(e)"),
    "no square": torch_with(2, "q = Identity(c)"),
    "rows that were not centred": torch_with(6, "u = Div(x, s)"),
    "rows centred half": torch_with(6, "mh = Mul(m, half)", "ch = Sub(x, mh)", "u = Div(ch, s)"),
    "an eps of -1": torch_with(4, "e = Add(v, minus)"),
    "another row added": torch_with(8, "n = Add(t, x)"),
    "a row a sample": torch_with(8, "n = Add(t, rows)"),
    "a column": torch_with(8, "n = Add(t, column)"),
    "a vector of another length": torch_with(8, "n = Add(t, short)"),
    "an activation behind it": torch_with(8, "n0 = Add(t, b)", "n = Relu(n0)"),
    "a norm over two axes": (fused("LayerNormalization", "x gg", axis=1),),
    "columns moved": torch_with(8, "n0 = Add(t, b)", helper.make_node("Gather", ["n0", "order"], ["n"], axis=-1)),
    "added inside": torch_with(6, "cc = Add(c, one)", "u = Div(cc, s)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_looks_like_one_is_none(name: str) -> None:
    extra = {"rows": array(3, D), "gg": array(3, D), "order": np.asarray([0, 1, 2, 3, 4, 4])}
    extra |= {"column": array(D, 1), "short": array(4)}
    assert norm_of(built(REFUSED[name], **extra)) is None


@pytest.mark.parametrize(
    "nodes", [(helper.make_node("ReduceMean", ["x"], ["m"], axes=[1]),), ("o = Tanh(x)", mean("o", "m"))]
)
def test_what_something_else_was_subtracted_from_is_divided_by_its_own_root_alone(
    nodes: tuple[onnx.NodeProto | str, ...],
) -> None:
    norm = norm_of(built(torch_with(0, *nodes)))
    assert norm is not None and (norm.kind, norm.centred) == ("RMSNorm", False)


def test_a_sum_that_is_normalised_is_not_one_of_its_operands() -> None:
    skip = helper.make_node("SkipLayerNormalization", ["x", "k", "g", "b"], ["other"], domain=MICROSOFT, epsilon=1.0)
    # Both normalise, with one eps, but not the same rows: their difference is bounded by another number.
    spelled = (*SPELLED["torch"][:4], "e = Add(v, one)", *SPELLED["torch"][5:])
    nodes = ("k = Tanh(x)", skip, *spelled, "n = Sub(u, other)")
    assert norm_of(built(nodes)) is None


def test_a_scale_that_a_caller_may_replace_is_not_taken() -> None:
    proto = built((*SPELLED["torch"], *SCALED))
    proto.graph.input.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, [D]))
    assert norm_of(proto) is None


def test_without_a_scale_it_is_one() -> None:
    norm = norm_of(built((*SPELLED["torch"], "n = Identity(u)")))
    assert norm is not None
    np.testing.assert_array_equal(norm.gamma, np.ones(D))
    np.testing.assert_array_equal(norm.beta, np.zeros(D))


@pytest.mark.parametrize("part", ["all", "a cast", "the cast behind"])
def test_below_single_precision_it_is_not_exact(part: str) -> None:
    kind, low = (TensorProto.FLOAT16, np.float16) if part == "a cast" else (TensorProto.BFLOAT16, ml_dtypes.bfloat16)
    low_cast = parsed("uh = Cast(u)", to=kind)
    nodes: dict[str, tuple[onnx.NodeProto | str, ...]] = {
        "all": (*SPELLED["torch"], *SCALED),
        "a cast": (*SPELLED["torch"], low_cast, "k = Cast(uh)", "t = Mul(g, k)", "n = Add(t, b)"),
        "the cast behind": (*SPELLED["torch"], "t = Mul(g, u)", "n0 = Add(t, b)", parsed("n = Cast(n0)", to=kind)),
    }
    norms = {name: v.astype(low) for name, v in (CONSTANTS | WEIGHTS).items() if v.dtype == "f4"}
    norm = norm_of(built(nodes[part], **(norms if part == "all" else {})))
    assert norm is not None and not norm.exact


@pytest.mark.parametrize("rank", [2, 3])
def test_a_batch_norm_of_a_table_gives_the_deviations_of_its_columns(rank: int) -> None:
    variance = np.abs(array(D))
    nodes = (helper.make_node("BatchNormalization", ["x", "g", "b", "mu", "var"], ["n"], epsilon=EPS),)
    made = [*nodes, *map(parsed, LAYER)]
    tensors = {"g": GAMMA, "b": BETA, "mu": array(D), "var": variance, **WEIGHTS}
    norm = norm_of(model(*made, inputs={"x": ["N", D] if rank == 2 else [3, D, D]}, **tensors))
    if rank == 3:
        assert norm is None
        return
    assert norm is not None and (norm.kind, norm.bounded, norm.centred) == ("BatchNorm", False, False)
    x = tensors["mu"] + np.sqrt(variance) * np.random.default_rng(0).choice([-1.0, 1.0], size=(4000, D))
    y = GAMMA * (x - tensors["mu"]) / np.sqrt(variance + EPS) + BETA
    np.testing.assert_allclose(np.abs(y - norm.beta), np.abs(norm.gamma) * np.ones((4000, 1)), rtol=1e-6)
