"""Layers whose neurons are moved, taken apart, multiplied with each other or joined with others, node by node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from graph_layers import array, model, parsed

ROWS = {"x": ["N", 3]}
TABLES = {"x": ["N", "T", 3]}
STACKS = {"x": ["N", 2, 3]}
G, K = array(3, 6), array(3, 12)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def _flanked(joined: bool) -> list[str | onnx.NodeProto]:
    """Return a pair of Gemms on three axes as onnxsim writes it: one target for both layers, or one for each."""
    sizes = ["n = Shape(x)", "bt = Slice(n, zero, two, zero)", "wide = Concat(bt, six)", "slim = Concat(bt, five)"]
    nodes: list[str | onnx.NodeProto] = [
        "r = Reshape(x, rows3)", *sizes, "g = Gemm(r, A, a)", "h = Reshape(g, wide)", "z = Relu(h)",
        "q = Reshape(z, rows6)", "k = Gemm(q, B, b)", "y = Reshape(k, slim)",
    ]  # fmt: skip
    for index, node in enumerate(nodes):
        if isinstance(node, str) and " = Concat(" in node:
            nodes[index] = parsed(node, axis=0)
    return [*nodes, "o = Reshape(x, wide2)", parsed("wide2 = Concat(bt, three)", axis=0)] if joined else nodes


FLANK = {
    "rows3": ints(-1, 3), "rows6": ints(-1, 6), "zero": ints(0), "two": ints(2), "six": ints(6), "five": ints(5),
}  # fmt: skip
CHUNK = [
    "n = Shape(h)", "w = Gather(n, last)", "p = Add(w, one)", "v = Div(p, two)", "e = Mul(v, two)",
    "g = Slice(h, zero, v, last)", "u = Slice(h, v, e, last)",
]  # fmt: skip
CHUNKED = {"last": ints(-1), "one": ints(1), "two": ints(2), "zero": ints(0)}
SWISH = ["s = Sigmoid(g)", "f = Mul(g, s)", "z = Mul(f, u)", "y = MatMul(z, B)"]


def _branches(*names: str) -> onnx.ModelProto:
    """Return a model with a layer in each branch of an If; one captures its weights, the other holds them.

    With names, both have tensors of these names.
    """

    def body(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.GraphProto:
        ends = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
        held = [onnx.numpy_helper.from_array(v, k) for k, v in weights.items()]
        return helper.make_graph(list(nodes), "b", [], ends, held)

    h, t, z = names or ("h1", "t1", "z1")
    first = (f"{h} = MatMul(x, A)", f"{t} = Relu({h})", f"{z} = Identity({t})", f"o1 = MatMul({z}, B)")
    outer = body(*(parsed(node) for node in first))
    own = {"A2": array(3, 6), "B2": array(6, 5)}
    shape = parsed("z2 = Reshape(t2, rows)")
    inner = body(
        parsed("h2 = MatMul(x, A2)"), parsed("t2 = Tanh(h2)"), shape, parsed("o2 = MatMul(z2, B2)"),
        **own, rows=ints(-1, 6),
    )  # fmt: skip
    node = helper.make_node("If", ["condition"], ["y"], then_branch=outer, else_branch=inner)
    proto = model(node, condition=np.asarray(False), A=array(3, 6), B=array(6, 5))
    return proto


def _joined(*more: str, last: str = "y = MatMul(z, J)", axis: int = -1, **tensors: np.ndarray) -> onnx.ModelProto:
    """Return two layers of the same input, side by side in front of one linear operator."""
    nodes = [
        "h = MatMul(x, A)", "r = Relu(h)", "k = Gemm(x, G, a)", "t = Tanh(k)", parsed("c = Concat(r, t)", axis=axis),
        *(more or ("z = Identity(c)",)), last,
    ]  # fmt: skip
    return model(*nodes, **{"G": G, "J": array(12, 5), **tensors})


FORMS: dict[str, onnx.ModelProto] = {
    "reshape to a literal": model(
        "h = MatMul(x, A)", "z = Reshape(h, s)", "y = MatMul(z, B)", inputs=TABLES, s=ints(-1, 6)
    ),
    "reshape by zeros": model(
        "h = MatMul(x, A)", "z = Reshape(h, s)", "r = Relu(z)", "y = MatMul(r, B)", inputs=TABLES, s=ints(0, 0, -1)
    ),
    "reshape there and back": model(
        "h = MatMul(x, A)", "u = Reshape(h, s)", "z = Relu(u)", "v = Reshape(z, r)", "y = MatMul(v, B)",
        inputs=STACKS, s=ints(-1, 6, 1), r=ints(-1, 2, 6),
    ),
    "reshape in the middle": model(
        "h = MatMul(x, A)", parsed("t = Transpose(h)", perm=[0, 2, 1]), "v = Reshape(t, s)", "w = Mul(v, slope)",
        "u = Squeeze(w, three)", parsed("z = Transpose(u)", perm=[0, 2, 1]), "y = MatMul(z, B)",
        inputs=STACKS, s=ints(0, 6, -1, 1), slope=array(6, 1, 1), three=ints(3),
    ),
    "constant nodes": model(
        helper.make_node("Constant", [], ["s"], value_ints=[-1, 6]),
        "h = MatMul(x, A)", "u = Reshape(h, s)", "z = Relu(u)", "y = MatMul(z, B)", inputs=TABLES,
    ),
    "flatten": model("h = Gemm(x, A)", "z = Flatten(h)", "r = Relu(z)", "y = Gemm(r, B)"),
    "flatten by its own size": model(
        "h = MatMul(x, A)", "z = Relu(h)", "n = Shape(z)", "f = Gather(n, first)", "e = Unsqueeze(f, zero)",
        parsed("c = Concat(e, rest)", axis=0), "v = Reshape(z, c)", "y = Gemm(v, B, b)", zero=ints(0), rest=ints(-1),
        first=np.asarray(0),
    ),
    "its own shape": model(
        "h = MatMul(x, A)", "n = Shape(h)", "s = Sigmoid(h)", "r = Reshape(s, n)", "z = Mul(r, h)", "y = MatMul(z, B)"
    ),
    "expanded by its own shape": model(
        "h = MatMul(x, A)", "n = Shape(h)", parsed("m = Concat(two, n)", axis=0), "z = Expand(h, m)",
        "y = MatMul(z, B)", two=ints(2),
    ),
    "expanded to a literal": model(
        "h = MatMul(x, A)", "z = Expand(h, m)", "y = MatMul(z, B)", m=ints(2, 1, 6)
    ),
    "rank is read": model(
        "h = MatMul(x, A)", "z = Relu(h)", "y = MatMul(z, B)", parsed("n = Shape(h)", end=1)
    ),
    "unsqueezed and back": model(
        "h = MatMul(x, A)", "u = Unsqueeze(h, one)", "r = Relu(u)", "w = Mul(r, slope)", "z = Squeeze(w, one)",
        "y = Gemm(z, B, b)", one=ints(1), slope=array(1, 1, 6),
    ),
    "batch norm between transpositions": model(
        "h = MatMul(x, A)", parsed("t = Transpose(h)", perm=[0, 2, 1]), "n = BatchNormalization(t, a, a, a, v)",
        parsed("z = Transpose(n)", perm=[0, 2, 1]), "y = MatMul(z, B)", inputs=TABLES,
        v=array(6) ** 2 + np.float32(0.1),
    ),
    "one row of many": model(
        "h = MatMul(x, A)", "z = Relu(h)", parsed("r = Gather(z, i)", axis=1), "y = Gemm(r, B, b)", inputs=STACKS,
        i=np.asarray(0),
    ),
    "some rows": model(
        "h = MatMul(x, A)", "r = Slice(h, zero, two, one)", "z = Relu(r)", "y = MatMul(z, B)", inputs=TABLES,
        zero=ints(0), one=ints(1), two=ints(2),
    ),
    "rows apart": model(
        "h = MatMul(x, A)", "r = Relu(h)", parsed("p, q = Split(r)", axis=1), "y = MatMul(p, B)", "o = MatMul(q, B)",
        inputs=STACKS, outputs="y o",
    ),
    "flanked": model(*_flanked(False), inputs=TABLES, **FLANK),
    "gated": model("g = MatMul(x, A)", "u = MatMul(x, G)", *SWISH, G=G),
    "gated, the other first": model(
        "u = MatMul(x, G)", "g = Gemm(x, A, a)", "s = Sigmoid(g)", "f = Mul(g, s)", "z = Mul(u, f)", "y = MatMul(z, B)",
        G=G,
    ),
    "gated, scaled and dropped": model(
        "g = Gemm(x, A, a)", "u = Gemm(x, G, a)", "f = Relu(g)", "p = Mul(f, u)", "q = Mul(p, a)", "r = Div(q, four)",
        "z = Dropout(r)", "y = Gemm(z, B, b)", G=G, four=np.asarray(4, "f4"),
    ),
    "gated, each from an Identity of its own": model(
        "v = Identity(x)", "w = Identity(x)", "g = MatMul(v, A)", "u = MatMul(w, G)", *SWISH, G=G
    ),
    "gated, each from a Reshape of its own": model(
        "v = Reshape(x, m)", "w = Reshape(x, n)", "g = Gemm(v, A, a)", "u = Gemm(w, G)", *SWISH, G=G, inputs=TABLES,
        m=ints(-1, 3), n=ints(-1, 3),
    ),
    "a gate that selects": model(
        "g = MatMul(x, A)", "p = Gemm(x, G, a)", "c = Greater(g, zero)", "z = Where(c, p, zero)", "y = MatMul(z, B)",
        G=G, zero=np.zeros((), "f4"),
    ),
    "a gate that adds": model(
        "p = Gemm(x, A, a)", "g = MatMul(x, G)", "s = Sigmoid(g)", "q = Mul(p, s)", "d = Add(q, p)", "z = Mul(d, v)",
        "y = MatMul(z, B)", G=G, v=array(6),
    ),
    "the larger of two, normalised": model(
        "p = Gemm(x, A, a)", "q = Gemm(x, G)", "m = Max(p, q)", "z = BatchNormalization(m, a, a, a, v)",
        "y = MatMul(z, B)", G=G, v=array(6) ** 2 + np.float32(0.1),
    ),
    "three layers at once": model(
        "p = Gemm(x, A, a)", "q = Gemm(x, G)", "r = MatMul(x, W)", "s = Sigmoid(p)", "t = Tanh(q)", "m = Mul(s, t)",
        "z = Sub(m, r)", "y = MatMul(z, B)", "o = MatMul(t, B)", G=G, W=array(3, 6), outputs="y o",
    ),
    "fused, added": model(
        "h = MatMul(x, K)", parsed("g, u = Split(h)", axis=-1), "s = Relu(g)", "z = Sub(u, s)", "y = MatMul(z, B)", K=K
    ),
    "bilinear": model("g = MatMul(x, A)", "u = MatMul(x, G)", "z = Mul(g, u)", "y = MatMul(z, B)", G=G),
    "gated, two heads": model(
        "g = MatMul(x, A)", "u = MatMul(x, G)", *SWISH, "o = Gemm(f, S, a)", G=G, outputs="y o"
    ),
    "fused, split": model("h = MatMul(x, K)", parsed("g, u = Split(h)", axis=-1), *SWISH, inputs=TABLES, K=K),
    "fused, split in sizes": model(
        "m = MatMul(x, K)", "h = Add(m, k)", parsed("g, u = Split(h, each)", axis=1), *SWISH, K=K, k=array(12),
        each=ints(6, 6),
    ),
    "fused, split by attribute": model(
        "h = Gemm(x, K, k)", parsed("g, u = Split(h)", axis=1, split=[6, 6]), *SWISH, K=K, k=array(12), opset=11
    ),
    "fused, sliced": model(
        "h = MatMul(x, K)", "g = Slice(h, zero, six, last)", "u = Slice(h, six, end, last)", *SWISH, K=K,
        zero=ints(0), six=ints(6), end=ints(2**62), last=ints(-1),
    ),
    "fused, chunked": model("h = MatMul(x, K)", *CHUNK, *SWISH, K=K, **CHUNKED),
    "fused, squeezed before": model(
        "h = MatMul(x, K)", "t = Tanh(h)", parsed("g, u = Split(t)", axis=-1), *SWISH, K=K
    ),
    "joined": _joined(),
    "joined, then a function": _joined("d = Add(c, v)", "z = Sigmoid(d)", v=array(12)),
    "joined with the input": model(
        "h = MatMul(x, A)", "r = Relu(h)", parsed("z = Concat(x, r, x)", axis=1), "y = Gemm(z, J, b)", J=array(12, 5)
    ),
    "joined behind a Gemm": _joined(last="y = Gemm(z, J, b)"),
    "backwards": model(
        "h = MatMul(x, A)", "r = Relu(h)", parsed("z = Gather(r, i)", axis=-1), "y = MatMul(z, B)", i=np.arange(6)[::-1]
    ),
    "backwards by a slice": model(
        "h = MatMul(x, A)", "r = Slice(h, last, least, last, last)", "d = Add(r, a)", "z = Relu(d)",
        "y = Gemm(z, B, b)", last=ints(-1), least=ints(-2**62),
    ),
    "some, one of them twice": model(
        "h = MatMul(x, A)", parsed("g = Gather(h, i)", axis=1), "d = Mul(g, b)", "z = Tanh(d)", "y = MatMul(z, C)",
        i=np.asarray([4, -1, 0, 4, 3], "i4"),
    ),
    "heads of parts": model(
        "h = Gemm(x, A, a)", parsed("p, q = Split(h, sizes)", axis=-1), "r = Relu(p)", "t = Tanh(q)", "d = Mul(t, D)",
        "y = MatMul(r, P)", "o = Gemm(d, Q, b)", outputs="y o", sizes=ints(2, 4), D=array(4), P=array(2, 5),
        Q=array(4, 5),
    ),
    "heads of halves": model(
        "h = Gemm(x, A, a)", "r = Relu(h)", parsed("p, q = Split(r)", axis=1), "y = MatMul(p, P)", "o = Gemm(q, P, b)",
        outputs="y o", P=array(3, 5),
    ),
    "heads of halves, by number": model(
        "h = MatMul(x, A)", "r = Relu(h)", parsed("p, q = Split(r)", axis=-1, num_outputs=2), "y = MatMul(p, P)",
        "o = MatMul(q, P)", outputs="y o", P=array(3, 5), opset=18, inputs=TABLES,
    ),
    "heads of halves, by attribute": model(
        "h = Gemm(x, A, a)", parsed("p, q = Split(h)", axis=1), "r = Relu(p)", "y = Gemm(r, P, b)", "o = Gemm(q, P, b)",
        outputs="y o", P=array(3, 5), opset=11,
    ),
    "a part and the whole": model(
        "h = MatMul(x, A)", "z = Relu(h)", "p = Slice(z, two, minus, last)", "y = MatMul(z, B)", "o = MatMul(p, P)",
        outputs="y o", two=ints(2), minus=ints(-1), last=ints(-1), P=array(3, 5),
    ),
    "a part and the whole, by attributes": model(
        "h = Gemm(x, A, a)", "z = Relu(h)", parsed("p = Slice(z)", starts=[2], ends=[-1], axes=[1]),
        "y = Gemm(z, B, b)",
        "o = Gemm(p, P, b)", outputs="y o", P=array(3, 5), opset=9,
    ),
    "fused, sliced by attributes": model(
        "h = Gemm(x, K, k)", parsed("g = Slice(h)", starts=[0, 0], ends=[2**31 - 1, 6], axes=[0, 1]),
        parsed("u = Slice(h)", starts=[6], ends=[2**31 - 1], axes=[1]), *SWISH, K=K, k=array(12), opset=9,
    ),
    "twice": model("h = MatMul(x, A)", parsed("c = Concat(h, h)", axis=1), "z = Relu(c)", "y = Gemm(z, J, b)",
        J=array(12, 5)),
    "both signs": model(
        "h = Gemm(x, A, a)", "m = Neg(h)", parsed("c = Concat(h, m)", axis=-1), "d = Mul(c, v)", "z = Relu(d)",
        "y = MatMul(z, J)", v=array(12), J=array(12, 5),
    ),
    "parts joined again": model(
        "h = MatMul(x, A)", parsed("p, q = Split(h, sizes)", axis=-1), "r = Relu(p)", "t = Tanh(q)",
        parsed("z = Concat(t, x, r)", axis=-1), "y = Gemm(z, J, b)", sizes=ints(2, 4), J=array(9, 5),
    ),
    "rows joined again": model(
        "h = MatMul(x, A)", "r = Relu(h)", parsed("p, q = Split(r)", axis=1), parsed("z = Concat(q, p)", axis=1),
        "y = MatMul(z, B)", inputs=STACKS,
    ),
    "three parts, two of them a gate": model(
        "h = MatMul(x, W)", parsed("g, u, t = Split(h)", axis=-1, num_outputs=3), *SWISH, "e = Tanh(t)",
        "o = MatMul(e, B)", outputs="y o", W=array(3, 18), opset=18,
    ),
    "fused, read as a whole too": model(
        "h = MatMul(x, K)", parsed("g, u = Split(h)", axis=-1), *SWISH, "o = MatMul(h, J)", outputs="y o", K=K,
        J=array(12, 4),
    ),
    "branches": _branches(),
    "branches with the same names": _branches("h2", "t2", "z2"),
}  # fmt: skip
TAKEN = frozenset(
    {"heads of parts", "heads of halves", "heads of halves, by number", "heads of halves, by attribute"}
    | {"a part and the whole", "a part and the whole, by attributes", "parts joined again", "backwards by a slice"}
)
"""Forms in which an operator takes neighbouring neurons."""
"""Name -> model; every layer in it can be cut."""
SAME_NAMES = "branches with the same names"
WIDTHS = {"joined": 2, "joined, then a function": 2, "joined behind a Gemm": 2, "branches": 2, SAME_NAMES: 2}
