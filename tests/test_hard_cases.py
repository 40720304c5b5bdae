"""Graphs on which a pruner of ONNX models is easily silent or wrong, end to end.

Every hidden neuron stands twice in these layers, so half of them can go at no cost: a cut that reads an axis, a factor
or a constant wrongly does not give the outputs of the original again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_coreset
from api_models import array, built, codes, run, widths
from onnx_coreset.errors import ValidationError
from onnx_coreset.stages import judging

D, N, K = 5, 16, 3
HALF = N // 2
FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
Arrays = dict[str, np.ndarray]
make = helper.make_node


def layers(seed: int = 0) -> Arrays:
    """W1 (D, N) and b1 with every neuron twice, W2 (N, K) and b2."""
    rng = np.random.default_rng(seed)
    first, bias = rng.standard_normal((D, HALF)), 0.3 * rng.standard_normal(HALF)
    return {
        "W1": np.concatenate([first, first], axis=1).astype("f4"),
        "b1": np.concatenate([bias, bias]).astype("f4"),
        "W2": (rng.standard_normal((N, K)) / 4).astype("f4"),
        "b2": rng.standard_normal(K).astype("f4"),
    }


def twice(seed: int, spread: float = 1.0, middle: float = 0.0) -> np.ndarray:
    """One number a neuron."""
    values = middle + spread * np.random.default_rng(seed).standard_normal(HALF)
    return np.concatenate([values, values]).astype("f4")


def number(value: float) -> np.ndarray:
    return np.array(value, "f4")


def integers(*values: int) -> np.ndarray:
    return np.array(values, "i8")


def block(
    between: Iterable[onnx.NodeProto],
    tensors: Arrays | None = None,
    axes: tuple[str | int, ...] = ("N",),
    gemm: bool = False,
    result: tuple[str | int, ...] | None = None,
) -> onnx.ModelProto:
    """x -> W1, b1 -> p -> `between` -> h -> W2, b2 -> y."""
    if gemm:
        first, last = [make("Gemm", ["x", "W1", "b1"], ["p"])], [make("Gemm", ["h", "W2", "b2"], ["y"])]
    else:
        first = [make("MatMul", ["x", "W1"], ["p0"]), make("Add", ["p0", "b1"], ["p"])]
        last = [make("MatMul", ["h", "W2"], ["y0"]), make("Add", ["y0", "b2"], ["y"])]
    shape = (*axes, K) if result is None else result
    return built(
        [*first, *between, *last], {"x": (FLOAT, (*axes, D))}, {"y": (FLOAT, shape)}, layers() | (tensors or {})
    )


def feeds(model: onnx.ModelProto, size: int, seed: int = 0) -> Arrays:
    """Inputs of the model; the first named size is `size`, the next one more."""
    rng = np.random.default_rng(seed + size)
    fed: Arrays = {}
    named: dict[str, int] = {}
    held = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [d.dim_value or named.setdefault(d.dim_param, size + len(named)) for d in dims]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if value.name not in held:
            fed[value.name] = (
                rng.standard_normal(shape).astype(kind) if np.dtype(kind) != np.dtype(bool) else np.array(size % 2 == 0)
            )
    return fed


def agree(before: onnx.ModelProto, after: onnx.ModelProto, tolerance: float | None, sizes: Iterable[int]) -> None:
    """Check that both models give outputs of the same shape, and the same up to `tolerance` where there is one."""
    onnx.checker.check_model(after, full_check=True)
    assert [o.name for o in before.graph.output] == [o.name for o in after.graph.output]
    for size in sizes:
        fed = feeds(before, size)
        for one, other in zip(run(before, fed), run(after, fed), strict=True):
            assert one.shape == other.shape and one.dtype == other.dtype
            assert np.all(np.isfinite(other))
            if tolerance is not None:
                assert np.allclose(one, other, rtol=tolerance, atol=tolerance)


def halved(
    model: onnx.ModelProto, tolerance: float | None = 1e-4, sizes: Iterable[int] = (2, 7), **options: Any
) -> onnx_coreset.Result:
    """The result of --ratio 0.5, checked."""
    result = onnx_coreset.optimize(model, ratio=0.5, samples=256, **options)
    assert result.report.validation.passed
    agree(model, result.model, tolerance, sizes)
    return result


def hidden(result: onnx_coreset.Result) -> list[Any]:
    """The chains and places of the report but the last layers, which are outputs."""
    return [chain for chain in result.report.chains if chain.code != "output"]


def sizes_of(model: onnx.ModelProto) -> list[tuple[str, list[int | str]]]:
    """Names and sizes of inputs and outputs."""
    return [
        (v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*model.graph.input, *model.graph.output)
    ]


GELU = [
    make("Div", ["p", "root"], ["s"]),
    make("Erf", ["s"], ["e"]),
    make("Add", ["e", "one"], ["e1"]),
    make("Mul", ["p", "e1"], ["m"]),
    make("Mul", ["m", "half"], ["h"]),
]
GELU_NUMBERS = {"root": number(np.sqrt(2)), "one": number(1), "half": number(0.5)}
SILU = [make("Sigmoid", ["p"], ["s"]), make("Mul", ["p", "s"], ["h"])]
RELU = [make("Relu", ["p"], ["h"])]
NORM = {"scale": twice(1, 0.3, 1), "shift": twice(2), "mean": twice(3), "var": twice(4, 0.1, 1)}


def gelu_3d() -> onnx.ModelProto:
    return block(GELU, GELU_NUMBERS, ("N", "L"))


def silu_3d() -> onnx.ModelProto:
    return block(SILU, {}, ("N", "L"))


def constant_nodes() -> onnx.ModelProto:
    model = block(RELU, {}, ("N", "L"))
    held = [make("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    nodes = [*held, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    return model


def transposed() -> onnx.ModelProto:
    tensors = layers()
    turned = {"V1": tensors.pop("W1").T.copy(), "V2": tensors.pop("W2").T.copy()}
    nodes = [make("Transpose", [f"V{i}"], [f"W{i}"], perm=[1, 0]) for i in (1, 2)]
    model = block(SILU, turned, ("N", "L"))
    rest = [t for t in model.graph.initializer if t.name not in ("W1", "W2")]
    all_nodes = [*nodes, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(all_nodes)
    model.graph.initializer.extend(rest)
    return model


def scaled_gemm() -> onnx.ModelProto:
    model = block(RELU, gemm=True)
    for node, alpha in ((model.graph.node[0], 0.5), (model.graph.node[-1], -2.0)):
        node.attribute.extend([helper.make_attribute("alpha", alpha), helper.make_attribute("beta", 1.5)])
    return model


def dropout() -> onnx.ModelProto:
    nodes = [make("Relu", ["p"], ["r"]), make("Dropout", ["r", "rate", "training"], ["h"])]
    return block(nodes, {"rate": number(0.5), "training": np.array(False)}, ("N", "L"))


def batch_norm() -> onnx.ModelProto:
    nodes = [
        make("Relu", ["p"], ["r"]),
        make("BatchNormalization", ["r", "scale", "shift", "mean", "var"], ["h"], epsilon=1e-3),
    ]
    return block(nodes, NORM, gemm=True)


def batch_norm_in_front() -> onnx.ModelProto:
    nodes = [make("BatchNormalization", ["p", "scale", "shift", "mean", "var"], ["r"]), make("Tanh", ["r"], ["h"])]
    return block(nodes, NORM, gemm=True)


def reshaped() -> onnx.ModelProto:
    nodes = [make("Relu", ["p"], ["r"]), make("Reshape", ["r", "rows"], ["h"])]
    return block(nodes, {"rows": integers(-1, N)}, ("N", "L"), result=("R", K))


def flanked() -> onnx.ModelProto:
    nodes = [
        make("Reshape", ["x", "in"], ["x2"]),
        make("Gemm", ["x2", "W1", "b1"], ["p2"]),
        make("Reshape", ["p2", "mid"], ["p"]),
        *GELU[:4],
        make("Mul", ["m", "half"], ["h3"]),
        make("Reshape", ["h3", "flat"], ["h"]),
        make("Gemm", ["h", "W2", "b2"], ["y2"]),
        make("Reshape", ["y2", "out"], ["y"]),
    ]
    shapes = {"in": integers(-1, D), "mid": integers(-1, 4, N), "flat": integers(-1, N), "out": integers(-1, 4, K)}
    return built(nodes, {"x": (FLOAT, ("N", 4, D))}, {"y": (FLOAT, ("N", 4, K))}, layers() | GELU_NUMBERS | shapes)


def flanked_by_shapes() -> onnx.ModelProto:
    """The same where the sizes of batch and sequence are only known at run time."""
    nodes = [
        make("Shape", ["x"], ["size"]),
        make("Slice", ["size", "from", "to"], ["lead"]),
        make("Concat", ["lead", "n"], ["mid"], axis=0),
        make("Concat", ["lead", "k"], ["out"], axis=0),
        make("Reshape", ["x", "in"], ["x2"]),
        make("Gemm", ["x2", "W1", "b1"], ["p2"]),
        make("Reshape", ["p2", "mid"], ["p"]),
        make("Relu", ["p"], ["h3"]),
        make("Reshape", ["h3", "flat"], ["h"]),
        make("Gemm", ["h", "W2", "b2"], ["y2"]),
        make("Reshape", ["y2", "out"], ["y"]),
    ]
    shapes = {"in": integers(-1, D), "n": integers(N), "flat": integers(-1, N), "k": integers(K)}
    shapes |= {"from": integers(0), "to": integers(2)}
    return built(nodes, {"x": (FLOAT, ("N", "L", D))}, {"y": (FLOAT, ("N", "L", K))}, layers() | shapes)


def maximum() -> onnx.ModelProto:
    nodes = [make("LeakyRelu", ["p"], ["r"], alpha=0.2), make("Max", ["r", "c"], ["h"])]
    return block(nodes, {"c": number(-0.1)}, ("N", "L"))


def polynomial() -> onnx.ModelProto:
    return block([make("Mul", ["p", "p"], ["q"]), make("Add", ["q", "p"], ["h"])], {}, ("N", "L"))


def prelu() -> onnx.ModelProto:
    return block([make("PRelu", ["p", "slope"], ["h"])], {"slope": twice(5)}, ("N", "L"))


def linear() -> onnx.ModelProto:
    nodes = [make("Gemm", ["x", "W1", "b1"], ["h"]), make("Gemm", ["h", "W2", "b2"], ["y"])]
    return built(nodes, {"x": (FLOAT, ("N", D))}, {"y": (FLOAT, ("N", K))}, layers())


CUT: dict[Callable[[], onnx.ModelProto], str] = {
    gelu_3d: "Gelu",
    silu_3d: "Silu",
    constant_nodes: "Relu",
    transposed: "Silu",
    scaled_gemm: "Relu",
    dropout: "Relu",
    batch_norm: "composite",
    batch_norm_in_front: "Tanh",
    reshaped: "Relu",
    flanked: "Gelu",
    flanked_by_shapes: "Relu",
    maximum: "composite",
    polynomial: "Polynomial",
    prelu: "PRelu",
    linear: "Identity",
}


@pytest.mark.parametrize("form", CUT, ids=lambda form: form.__name__)
def test_half_of_the_neurons_go_at_no_cost_and_sizes_stay_free(form: Callable[[], onnx.ModelProto]) -> None:
    model = form()
    result = halved(model, sizes=(1, 2, 7))
    (chain,) = hidden(result)
    assert (chain.status, chain.width_before, chain.width_after) == ("pruned", N, HALF), chain
    assert chain.activation == CUT[form]
    assert sizes_of(result.model) == sizes_of(model)
    assert onnx_coreset.optimize(result.model, ratio=1.0).model == result.model


def test_a_hidden_tensor_with_two_consumers_is_narrowed_for_both() -> None:
    model = block(RELU, {"W3": layers(1)["W2"]}, ("N", "L"))
    model.graph.node.append(make("MatMul", ["h", "W3"], ["z"], name="second"))
    model.graph.output.append(helper.make_tensor_value_info("z", FLOAT, ["N", "L", K]))
    result = halved(model)
    (chain,) = hidden(result)
    assert len(chain.consumers) == 2 and chain.width_after == HALF
    assert array(result.model, "W2").shape == array(result.model, "W3").shape == (HALF, K)


def two_chains(shared: str) -> onnx.ModelProto:
    """x -> a and v -> b, the first layers or the last ones of which have the same weights."""
    first, last = ("W1", "V1") if shared != "W1" else ("W1", "W1"), ("W2", "V2") if shared != "W2" else ("W2", "W2")
    nodes = []
    for index, (source, act) in enumerate((("x", "Relu"), ("v", "Tanh"))):
        nodes += [
            make("MatMul", [source, first[index]], [f"p{index}"]),
            make("Add", [f"p{index}", f"b{index}"], [f"q{index}"]),
            make(act, [f"q{index}"], [f"h{index}"]),
            make("MatMul", [f"h{index}", last[index]], [f"y{index}"]),
        ]
    one, other = layers(), layers(1)
    tensors = {"W1": one["W1"], "W2": one["W2"], "b0": one["b1"], "b1": twice(7), "V1": other["W1"], "V2": other["W2"]}
    for name in set(tensors) - {n for node in nodes for n in node.input}:
        del tensors[name]
    ends: dict[str, tuple[int, tuple[str, int]]] = dict.fromkeys(("x", "v"), (FLOAT, ("N", D)))
    return built(nodes, dict(ends), {f"y{i}": (FLOAT, ("N", K)) for i in range(2)}, tensors)


@pytest.mark.parametrize("shared", ["W1", "W2"])
@pytest.mark.parametrize("asked", [{}, {"include": ("h0",)}], ids=["both", "one"])
def test_weights_of_two_chains_stay_with_the_reader_that_keeps_them(shared: str, asked: dict[str, Any]) -> None:
    model = two_chains(shared)
    result = halved(model, **asked)
    new = widths(result.report)
    if asked:
        # Copying what the other chain still reads would make the file larger.
        assert result.model.ByteSize() <= model.ByteSize()
        if new["h0"] == N:
            assert codes(result.report)["h0"] == "no-gain" and result.model == model
    else:
        assert (new["h0"], new["h1"]) == (HALF, HALF)
        assert result.model.ByteSize() < model.ByteSize()


@pytest.mark.parametrize("transposed_too", [False, True])
def test_another_output_of_the_same_weights_keeps_every_bit(transposed_too: bool) -> None:
    model = block([make("Relu", ["p"], ["h"])], {"W2": np.tile(layers()["W2"], (1, 20))}, result=("N", 20 * K))
    del model.graph.node[-1]
    model.graph.node[-1].output[0] = "y"
    if transposed_too:
        model.graph.node.append(make("Transpose", ["W1"], ["other"]))
        shape: list[int | str] = [N, D]
    else:
        model.graph.node.append(make("MatMul", ["z", "W1"], ["other"]))
        model.graph.input.append(helper.make_tensor_value_info("z", FLOAT, ["M", D]))
        shape = ["M", N]
    model.graph.output.append(helper.make_tensor_value_info("other", FLOAT, shape))
    result = halved(model)
    assert widths(result.report)["h"] == HALF
    fed = feeds(model, 3)
    assert np.array_equal(run(model, fed)[1], run(result.model, fed)[1])


def listed(version: int) -> onnx.ModelProto:
    """The weights are graph inputs, too."""
    model = block(RELU, gemm=True)
    model.ir_version = version
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, FLOAT, list(tensor.dims)))
    return model


@pytest.mark.parametrize(("version", "asked"), [(3, {}), (8, {"constant_inputs": True})])
def test_weights_that_are_listed_as_inputs_are_cut_and_listed_so(version: int, asked: dict[str, Any]) -> None:
    model = listed(version)
    result = halved(model, **asked)
    assert widths(result.report)["h"] == HALF
    held = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert [v.name for v in result.model.graph.input] == [v.name for v in model.graph.input]
    assert {name: shape for name, shape in sizes_of(result.model) if name in held} == held
    assert held["W1"] == [D, HALF] and held["b1"] == [HALF] and held["W2"] == [HALF, K]


def test_weights_that_a_caller_may_replace_are_left_alone() -> None:
    model = listed(8)
    result = halved(model)
    assert {chain.code for chain in result.report.chains} == {"overridable"}
    assert result.model == model


def test_external_data_belong_to_the_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gelu_3d()
    home, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    onnx.save(stored, home / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (elsewhere / "m.data").write_bytes(b"another file")
    monkeypatch.chdir(elsewhere)
    for given in (Path("../model/m.onnx"), home / "m.onnx"):
        result = onnx_coreset.optimize(given, "out.onnx", ratio=0.5, samples=256, overwrite=True)
        assert widths(result.report)["h"] == HALF
        agree(model, onnx.load("out.onnx"), 1e-4, (2, 7))
    assert (elsewhere / "m.data").read_bytes() == b"another file"


def functional() -> onnx.ModelProto:
    """The block as a model-local function of its weights."""
    names = ["W1", "b1", "W2", "b2"]
    inner = block(SILU)
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_function("own", "Block", ["x", *names], ["y"], list(inner.graph.node), opsets)
    call = make("Block", ["x", *names], ["y"], domain="own")
    model = built([call], {"x": (FLOAT, ("N", D))}, {"y": (FLOAT, ("N", K))}, layers(), ("own",))
    model.functions.append(body)
    return model


def test_a_function_is_named_and_cut_once_inlined() -> None:
    model = functional()
    left = halved(model)
    assert [chain.code for chain in left.report.chains] == ["function"]
    assert left.model == model
    result = halved(model, inline_functions=True)
    (chain,) = hidden(result)
    assert (chain.status, chain.width_after) == ("pruned", HALF)
    assert not result.model.functions


def graph(name: str, nodes: Iterable[onnx.NodeProto], inputs: Iterable[Any], outputs: Iterable[Any]) -> onnx.GraphProto:
    info = helper.make_tensor_value_info
    return helper.make_graph(list(nodes), name, [info(*v) for v in inputs], [info(*v) for v in outputs])


def body(source: str, target: str, stem: str, act: str = "Relu") -> list[onnx.NodeProto]:
    """A block whose weights are those of the main graph."""
    return [
        make("Gemm", [source, f"{stem}W1", f"{stem}b1"], [f"{stem}p"]),
        make(act, [f"{stem}p"], [f"{stem}h"]),
        make("Gemm", [f"{stem}h", f"{stem}W2", f"{stem}b2"], [target]),
    ]


def named(stem: str, seed: int, outputs: int = K) -> Arrays:
    tensors = layers(seed)
    tensors["W2"] = np.resize(tensors["W2"], (N, outputs))
    tensors["b2"] = np.resize(tensors["b2"], outputs)
    return {stem + name: value for name, value in tensors.items()}


def branches(inside: bool) -> onnx.ModelProto:
    """A block in each branch of an If; the weights are in the branches, or outside of them."""
    parts = []
    for stem, act in (("a", "Relu"), ("c", "Tanh")):
        part = graph(stem, body("x", f"{stem}y", stem, act), [], [(f"{stem}y", FLOAT, ("N", K))])
        if inside:
            tensors = named(stem, ord(stem))
            part.initializer.extend(numpy_helper.from_array(v, n) for n, v in tensors.items())
        parts.append(part)
    node = make("If", ["which"], ["y"], then_branch=parts[0], else_branch=parts[1])
    held = {} if inside else named("a", 97) | named("c", 99)
    return built([node], {"which": (BOOL, ()), "x": (FLOAT, ("N", D))}, {"y": (FLOAT, ("N", K))}, held)


def loop() -> onnx.ModelProto:
    """Three times x + block(x)."""
    nodes = [
        *body("state", "delta", "a", "Tanh"),
        make("Add", ["state", "delta"], ["next"]),
        make("Identity", ["go"], ["on"]),
    ]
    inputs = [("i", INT64, ()), ("go", BOOL, ()), ("state", FLOAT, ("N", D))]
    inner = graph("body", nodes, inputs, [("on", BOOL, ()), ("next", FLOAT, ("N", D))])
    node = make("Loop", ["trips", "", "x"], ["y"], body=inner)
    tensors = named("a", 0, D) | {"trips": np.array(3, "i8")}
    return built([node], {"x": (FLOAT, ("N", D))}, {"y": (FLOAT, ("N", D))}, tensors)


def scan() -> onnx.ModelProto:
    """A block on every step of a sequence, and the sum of what it gave."""
    nodes = [*body("step", "out", "a"), make("Add", ["total", "out"], ["sum"])]
    inputs = [("total", FLOAT, ("N", K)), ("step", FLOAT, ("N", D))]
    inner = graph("body", nodes, inputs, [("sum", FLOAT, ("N", K)), ("out", FLOAT, ("N", K))])
    node = make("Scan", ["start", "x"], ["last", "all"], body=inner, num_scan_inputs=1)
    ends = {"start": (FLOAT, ("N", K)), "x": (FLOAT, ("S", "N", D))}
    outs = {"last": (FLOAT, ("N", K)), "all": (FLOAT, ("S", "N", K))}
    model = built([node], dict(ends), dict(outs), named("a", 0))
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "N"
    return model


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda: branches(True), {"ah": HALF, "ch": HALF}),
        (lambda: branches(False), {"ah": HALF, "ch": HALF}),
        (loop, {"ah": HALF}),
        (scan, {"ah": HALF}),
    ],
    ids=["branches", "captured-weights", "loop", "scan"],
)
def test_chains_inside_subgraphs_are_cut(form: Callable[[], onnx.ModelProto], found: dict[str, int]) -> None:
    model = form()
    result = halved(model)
    assert {name: width for name, width in widths(result.report).items() if name in found} == found
    assert sizes_of(result.model) == sizes_of(model)


def test_a_hidden_tensor_that_a_subgraph_captures_stays() -> None:
    part = graph("g", [make("MatMul", ["h", "W2"], ["inner"])], [], [("inner", FLOAT, ("N", K))])
    node = make("If", ["which"], ["z"], then_branch=part, else_branch=part)
    model = block(RELU)
    model.graph.node.append(node)
    model.graph.input.append(helper.make_tensor_value_info("which", BOOL, []))
    model.graph.output.append(helper.make_tensor_value_info("z", FLOAT, ["N", K]))
    result = halved(model)
    assert "subgraph" in codes(result.report).values()
    assert result.model == model


def test_a_layer_of_a_branch_on_a_tensor_of_the_main_graph_is_cut_and_the_tensor_stays() -> None:
    nodes = [make("Identity", ["x"], ["seen"])]
    part = graph("g", body("seen", "inner", "a"), [], [("inner", FLOAT, ("N", K))])
    other = graph("o", [make("MatMul", ["seen", "W"], ["plain"])], [], [("plain", FLOAT, ("N", K))])
    nodes.append(make("If", ["which"], ["z"], then_branch=part, else_branch=other))
    ends = {"which": (BOOL, ()), "x": (FLOAT, ("N", D))}
    weight = np.random.default_rng(0).standard_normal((D, K)).astype("f4")
    model = built(nodes, dict(ends), {"z": (FLOAT, ("N", K))}, named("a", 0) | {"W": weight})
    result = halved(model)
    assert widths(result.report)["ah"] == HALF


def test_the_same_names_in_both_branches_are_two_layers() -> None:
    parts = []
    for seed, act in ((1, "Relu"), (2, "Tanh")):
        part = graph("g", body("x", "ay", "a", act), [], [("ay", FLOAT, ("N", K))])
        part.initializer.extend(numpy_helper.from_array(v, n) for n, v in named("a", seed).items())
        parts.append(part)
    node = make("If", ["which"], ["y"], then_branch=parts[0], else_branch=parts[1])
    model = built([node], {"which": (BOOL, ()), "x": (FLOAT, ("N", D))}, {"y": (FLOAT, ("N", K))}, {})
    assert onnx_coreset.optimize(model, ratio=1.0).model == model
    assert widths(halved(model).report) == {"ah": HALF, "ah (then_branch)": HALF, "ay": None}


def test_what_is_said_about_a_model_is_kept() -> None:
    model = silu_3d()
    model.doc_string, model.domain, model.model_version = "a model", "some.where", 7
    model.producer_name, model.producer_version = "p", "1"
    model.graph.name, model.graph.doc_string = "a graph", "of a block"
    holders = [model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input]
    for index, holder in enumerate(holders):
        holder.metadata_props.add(key="number", value=str(index))
    for index, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"node {index}", f"the {index}th"
    model.graph.initializer[0].doc_string = "said"
    after = halved(model).model
    fields = ("doc_string", "domain", "model_version", "producer_name", "producer_version", "ir_version")
    for name in (*fields, "opset_import", "metadata_props"):
        assert getattr(after, name) == getattr(model, name), name
    assert list(after.graph.node) == list(model.graph.node)
    assert after.graph.input == model.graph.input and after.graph.output == model.graph.output
    assert (after.graph.name, after.graph.doc_string) == ("a graph", "of a block")
    assert after.graph.metadata_props == model.graph.metadata_props
    for old, new in zip(model.graph.initializer, after.graph.initializer, strict=True):
        assert (old.name, old.doc_string, old.metadata_props) == (new.name, new.doc_string, new.metadata_props)


def test_half_precision_with_a_batch_normalization_is_cut() -> None:
    model = batch_norm()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("f2"), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    result = halved(model, tolerance=3e-2)
    assert widths(result.report)["h"] == HALF
    assert {t.data_type for t in result.model.graph.initializer} == {TensorProto.FLOAT16}


def layer_norm() -> onnx.ModelProto:
    nodes = [make("LayerNormalization", ["p", "scale", "shift"], ["n"]), make("Relu", ["n"], ["h"])]
    return block(nodes, {name: NORM[name] for name in ("scale", "shift")}, gemm=True)


def layer_norm_written_out() -> onnx.ModelProto:
    nodes = [
        make("ReduceMean", ["p"], ["u"], axes=[-1]),
        make("Sub", ["p", "u"], ["c"]),
        make("Pow", ["c", "two"], ["q"]),
        make("ReduceMean", ["q"], ["v"], axes=[-1]),
        make("Add", ["v", "tiny"], ["w"]),
        make("Sqrt", ["w"], ["r"]),
        make("Div", ["c", "r"], ["n"]),
        make("Mul", ["n", "scale"], ["s"]),
        make("Add", ["s", "shift"], ["a"]),
        make("Relu", ["a"], ["h"]),
    ]
    tensors = {"two": number(2), "tiny": number(1e-5), "scale": NORM["scale"], "shift": NORM["shift"]}
    return block(nodes, tensors, ("N", "L"))


def softmax() -> onnx.ModelProto:
    return block([make("Softmax", ["p"], ["h"], axis=-1)])


def heads() -> onnx.ModelProto:
    nodes = [
        make("Reshape", ["p", "split"], ["r"]),
        make("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
        make("Relu", ["t"], ["a"]),
        make("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3]),
        make("Reshape", ["b", "join"], ["h"]),
    ]
    return block(nodes, {"split": integers(0, 0, 4, 4), "join": integers(0, 0, N)}, ("N", "L"))


@pytest.mark.parametrize(
    ("form", "code"),
    [(layer_norm, "norm"), (layer_norm_written_out, "norm"), (softmax, "norm"), (heads, "reshape")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_mixes_the_neurons_is_named_and_left_alone(form: Callable[[], onnx.ModelProto], code: str) -> None:
    model = form()
    result = halved(model)
    (chain,) = hidden(result)
    assert (chain.status, chain.code, chain.width_before) == ("skipped", code, N)
    assert result.model == model


@pytest.mark.parametrize("branch", [0, 1])
def test_a_fault_in_either_branch_is_seen(branch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = branches(inside=True)
    real = judging.cut

    def broken(*arguments: Any) -> tuple[onnx.ModelProto, frozenset[str]]:
        result, useless = real(*arguments)
        for tensor in result.graph.node[0].attribute[branch].g.initializer:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, "f4"), tensor.name))
        return result, useless

    monkeypatch.setattr(judging, "cut", broken)
    with pytest.raises(ValidationError, match="not finite"):
        onnx_coreset.optimize(model, ratio=0.5)


def test_layers_joined_by_a_concat_are_measured_without_the_runtime_too() -> None:
    nodes = [
        make("MatMul", ["x", "W1"], ["p"]),
        make("Relu", ["p"], ["left"]),
        make("MatMul", ["x", "V1"], ["q"]),
        make("Tanh", ["q"], ["right"]),
        make("Concat", ["left", "right"], ["both"], axis=-1),
        make("MatMul", ["both", "W2"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    shapes = {"W1": (D, N), "V1": (D, HALF), "W2": (N + HALF, K)}
    tensors = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    model = built(nodes, {"x": (FLOAT, ("N", D))}, {"y": (FLOAT, ("N", K))}, tensors)
    ran, computed = (onnx_coreset.optimize(model, ratio=0.5, validate=flag).report.chains for flag in (True, False))
    for one, other in zip(ran[:2], computed[:2], strict=True):
        assert one.status == other.status == "pruned"
        assert other.error.rms == pytest.approx(one.error.rms, rel=1e-4)
