"""A whole run as a caller sees it: what is kept, what it is said to cost, and what is left alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from api_models import LENET, array, built, codes, doubled, mlp, run, weights, widths, with_nodes
from onnx_coreset import inspect, optimize
from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict
from onnx_coreset.core.methods import METHODS, Context
from onnx_coreset.errors import Rejected, UsageError
from onnx_coreset.stages import settling

F = TensorProto.FLOAT
CPU = {"provider": "cpu", "certify": "off"}
SMALL = mlp([6, 20, 16, 4])
FLOAT32 = float(np.finfo(np.float32).eps)


def ball(count: int, size: int, radius: float, seed: int = 99) -> np.ndarray:
    """The ball law, drawn anew: uniform directions, radii mixed .1, .3, 1 of the radius."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, size))
    return x * (radius * rng.choice([0.1, 0.3, 1.0], count) / np.linalg.norm(x, axis=1))[:, None]


def first_layer(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What the first hidden layer of a perceptron hands on, in float64."""
    w0, b0, w1, b1 = (array(model, name).astype(np.float64) for name in ("w0", "b0", "w1", "b1"))
    return np.maximum(x @ w0.T + b0, 0.0) @ w1.T + b1


# --- how much ---


def test_where_nothing_is_cut_the_result_is_a_copy() -> None:
    model = mlp([5, 9, 3])
    result = optimize(model, ratio=1.0, provider="cpu").model
    assert result == model and result is not model
    result.graph.ClearField("node")
    assert len(model.graph.node) > 0


@pytest.mark.parametrize("method", ["norm", "synflow"])
def test_weights_alone_give_the_same_model_as_with_samples(method: str) -> None:
    asked = {"method": method, "refit": False, "ratio": 0.4, "provider": "cpu", "certify": "off"}
    model = mlp([5, 19, 17, 3])
    assert optimize(model, **asked, validate=False).model == optimize(model, **asked, samples=64).model


@pytest.mark.parametrize("ratio", [0.5, 0.3, 1 / 7, 1e-9, 0.1])
def test_ratio_keeps_exactly_its_share(ratio: float) -> None:
    kept = widths(optimize(SMALL, ratio=ratio, **CPU).report)
    assert (kept["h0"], kept["h1"]) == tuple(math.ceil(ratio * n - 1e-9) or 1 for n in (20, 16))


def test_ratio_of_a_trained_model() -> None:
    result = optimize(LENET, ratio=0.5, **CPU)
    assert [tuple(t.dims) for t in result.model.graph.initializer if len(t.dims) == 2] == [
        (150, 784),
        (50, 150),
        (10, 50),
    ]
    assert result.report.validation.passed is True


def test_duplicates_cost_nothing() -> None:
    twice = doubled(onnx.load(LENET))
    cut = optimize(twice, ratio=0.5, **CPU).model
    x = np.random.default_rng(1).standard_normal((200, 784)).astype(np.float32)
    assert array(cut, "0.weight").shape == (300, 784)
    assert np.abs(run(cut, x)[0] - run(twice, x)[0]).max() <= 1e-4


def test_ratio_one_changes_nothing() -> None:
    result = optimize(SMALL, ratio=1.0, **CPU)
    x = np.random.default_rng(1).standard_normal((9, 6)).astype(np.float32)
    assert result.model == SMALL
    assert np.array_equal(run(result.model, x)[0], run(SMALL, x)[0])
    assert codes(result.report) == {"h0": "requested", "h1": "requested", "y": "output"}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("error", ["rms", "p99", "max"])
def test_eps_holds_when_measured_anew(error: str, absolute: bool) -> None:
    eps, radius, count = 0.3, 3.0, 100_000
    result = optimize(SMALL, eps=eps, error=error, absolute=absolute, radius=radius, exclude="h1", **CPU)
    facts = result.report.chains[0].error
    x = ball(count, 6, radius)
    before = first_layer(SMALL, x)
    table = np.abs(first_layer(result.model, x) - before)
    limit = eps * (1.0 if absolute else float(np.sqrt(before.var(axis=0).mean())))
    seen = facts.samples
    assert result.report.chains[0].width_after < 20
    if error == "rms":
        # Accepted where three standard errors explain it; five more for the sample that was not drawn by us.
        squares = (table**2).mean(axis=1)
        assert squares.mean() <= limit**2 + 8 * squares.std() / np.sqrt(seen)
    elif error == "p99":
        shares = (table > limit).mean(axis=1)
        assert shares.mean() <= 0.01 + 8 * shares.std() / np.sqrt(seen) + 3 / seen
    else:
        # Up to three rows above are accepted; a share q of such rows shows at most three of n
        # with probability below 3e-4 from q n = 15.
        assert (table.max(axis=1) > limit).mean() <= 15 / seen


def test_reported_errors_are_those_of_the_written_weights() -> None:
    result = optimize(SMALL, ratio=0.5, radius=3.0, exclude="h1", **CPU)
    facts, x = result.report.chains[0].error, ball(200_000, 6, 3.0)
    before = first_layer(SMALL, x)
    table = np.abs(first_layer(result.model, x) - before)
    squares, above = (table**2).mean(axis=1), (table > facts.p99).mean(axis=1)
    assert abs(facts.rms**2 - squares.mean()) <= 5 * squares.std() / np.sqrt(facts.samples)
    assert abs(above.mean() - 0.01) <= 5 * above.std() / np.sqrt(facts.samples) + 1 / facts.samples
    # A share q of rows above the largest of n samples has probability (1 - q)^n: below 1e-4 from q n = 10.
    assert (table.max(axis=1) > facts.max).mean() <= 10 / facts.samples and facts.max <= table.max() * (1 + 1e-3)
    variances = (before - before.mean(axis=0)) ** 2
    assert abs(facts.spread**2 - variances.mean()) <= 5 * variances.mean(axis=1).std() / np.sqrt(facts.samples)
    worst = (table**2).mean(axis=0)
    spreads = (table**2).std(axis=0)
    top = int(worst.argmax())
    found = (facts.worst_output * facts.spread) ** 2
    assert abs(found - worst[top]) <= 5 * spreads.max() / np.sqrt(facts.samples)


def test_relative_errors_are_over_the_spread() -> None:
    facts = optimize(SMALL, ratio=0.5, absolute=True, **CPU).report.chains[0].error
    assert facts.unit == "absolute"
    for name in ("rms", "p99", "max"):
        assert getattr(facts.relative, name) == pytest.approx(getattr(facts, name) / facts.spread, rel=1e-12)


def test_widths_are_rounded_upwards_and_never_above_n() -> None:
    report = optimize(SMALL, ratio=0.5, round_to=12, **CPU).report
    assert widths(report)["h0"] == 12 and widths(report)["h1"] == 12
    report = optimize(SMALL, ratio=0.7, round_to=12, **CPU).report
    assert widths(report)["h0"] == 20 and widths(report)["h1"] == 12


def test_no_layer_gets_narrower_than_min_width() -> None:
    kept = widths(optimize(SMALL, eps=100.0, min_width=7, **CPU).report)
    assert (kept["h0"], kept["h1"]) == (7, 7)


def test_an_exact_name_wins_over_a_glob_and_both_over_the_target() -> None:
    for pairs in ((("h0", 3), ("h*", 5)), (("h*", 5), ("h0", 3))):
        report = optimize(SMALL, ratio=0.9, round_to=8, width=pairs, **CPU).report
        assert (widths(report)["h0"], widths(report)["h1"]) == (3, 5)
        assert report.chains[0].eps is None


def test_no_eps_holds_under_a_named_width() -> None:
    report = optimize(SMALL, eps=0.2, width={"h0": 2}, **CPU).report
    assert (report.chains[0].eps, report.chains[1].eps) == (None, 0.2)
    assert report.chains[0].error.relative.rms > 0.2 and report.validation.passed is True


@pytest.mark.parametrize(("asked", "left"), [({"include": "h1"}, "h0"), ({"exclude": "*1"}, "h1")])
def test_include_and_exclude(asked: dict[str, str], left: str) -> None:
    result = optimize(SMALL, ratio=0.5, **asked, **CPU)
    assert codes(result.report)[left] == "excluded"
    assert [c.name for c in result.report.chains if c.status == "pruned"] == [{"h0": "h1", "h1": "h0"}[left]]


# --- how ---


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_by_name(method: str, refit: bool) -> None:
    result = optimize(SMALL, ratio=0.5, method=method, refit=refit, polish=False, **CPU)
    chain = result.report.chains[0]
    assert (chain.method, chain.width_after, result.report.validation.passed) == (method, 10, True)
    kept = array(SMALL, "w0")[list(chain.kept)]
    assert np.array_equal(array(result.model, "w0"), kept)


@dataclass(frozen=True)
class Last:
    """A stranger's method: the last neurons."""

    name: str = "last"
    requires: frozenset[str] = frozenset()

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        return restrict(layer, np.arange(layer.width - width, layer.width), self.name)


@pytest.mark.parametrize("refit", [True, False])
def test_a_method_of_the_callers_own(refit: bool) -> None:
    report = optimize(SMALL, ratio=0.5, method=Last(), refit=refit, **CPU).report
    assert report.chains[0].kept == tuple(range(10, 20)) and report.options["method"] == "last"


def test_what_is_no_method_is_refused() -> None:
    for method in ("nope", object()):
        with pytest.raises(UsageError, match="method"):
            optimize(SMALL, method=method, **CPU)


def test_a_method_that_needs_what_a_layer_lacks_skips_it() -> None:
    report = optimize(SMALL, ratio=0.5, method=Last(requires=frozenset({"monotone"})), **CPU).report
    assert codes(report)["h0"] == "requires" and "monotone" in report.chains[0].reason


# --- seeds, and what is left alone ---


@pytest.mark.parametrize("method", ["backward", "uniform"])
def test_a_seed_decides_every_byte(method: str) -> None:
    one, same, other = (
        optimize(SMALL, ratio=0.5, method=method, seed=s, **CPU).model.SerializeToString() for s in (1, 1, 2)
    )
    assert one == same and one != other


def deep(**shape: object) -> onnx.ModelProto:
    """Inputs (N, S, 6): a run gives more rows than are wanted of it, so that rows are chosen."""
    model = mlp([6, 1500, 16, 12, 4], bias=False)
    for value, size in ((model.graph.input[0], 6), (model.graph.output[0], 4)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, F, ["N", 32, size]))
    return model


def test_leaving_one_chain_out_moves_no_other() -> None:
    whole = optimize(deep(), ratio=0.5, polish=False, exclude="h2", method="greedy", **CPU).report.chains[1]
    alone = optimize(deep(), ratio=0.5, polish=False, include="h1", method="greedy", **CPU).report.chains[1]
    assert whole.name == alone.name == "h1" and whole.kept == alone.kept
    assert (whole.error.rms, whole.error.samples) == (alone.error.rms, alone.error.samples)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_the_callers_model_is_never_changed(ratio: float) -> None:
    model = mlp([6, 20, 16, 4])
    before = model.SerializeToString()
    result = optimize(model, ratio=ratio, accept=lambda m: m.graph.ClearField("name") is None, **CPU)
    result.model.graph.ClearField("node")
    assert model.SerializeToString() == before


def test_a_result_that_the_pipeline_rejects_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        optimize(SMALL, tmp_path / "o.onnx", ratio=0.5, accept=lambda m: False, report=tmp_path / "r.json", **CPU)
    assert os.listdir(tmp_path) == ["r.json"]
    assert caught.value.report is not None and widths(caught.value.report)["h0"] == 10


def test_a_dry_run_writes_the_report_alone(tmp_path: Path) -> None:
    optimize(SMALL, tmp_path / "o.onnx", ratio=0.5, dry_run=True, report=tmp_path / "r.json", **CPU)
    assert os.listdir(tmp_path) == ["r.json"]


def test_inspect_decides_nothing() -> None:
    chains = {c.name: c for c in inspect(SMALL).chains}
    assert [(chains[n].width_before, chains[n].width_after, chains[n].status) for n in ("h0", "h1")] == [
        (20, None, None),
        (16, None, None),
    ]
    assert (chains["h0"].activation, chains["h0"].inputs, chains["h0"].outputs) == ("Relu", 6, 16)


# --- kinds of layers ---


def test_two_heads_are_measured_in_units_of_their_own_spreads() -> None:
    far = 100 * np.random.default_rng(7).standard_normal((5, 20)).astype(np.float32)
    head = helper.make_node("Gemm", ["h0", "v"], ["y2"], transB=1)
    model = with_nodes(mlp([6, 20, 4]), head, outputs={"y2": F})
    model.graph.initializer.append(numpy_helper.from_array(far, "v"))
    result = optimize(model, ratio=0.5, radius=3.0, **CPU)
    facts = result.report.chains[0].error
    x = ball(100_000, 6, 3.0)

    def heads(m: onnx.ModelProto) -> list[np.ndarray]:
        w0, b0, w1, b1, v = (array(m, n).astype(np.float64) for n in ("w0", "b0", "w1", "b1", "v"))
        h = np.maximum(x @ w0.T + b0, 0.0)
        bias = next((array(m, t.name) for t in m.graph.initializer if list(t.dims) == [5]), np.zeros(5))
        return [h @ w1.T + b1, h @ v.T + bias]

    before, after = heads(model), heads(result.model)
    table = np.concatenate(
        [(a - b) / np.sqrt(b.var(axis=0).mean()) for a, b in zip(after, before, strict=True)], axis=1
    )
    squares = (table**2).mean(axis=1)
    assert facts.spread == 1.0 and len(result.report.chains[0].consumers) == 2
    # Each head is divided by a spread that was itself sampled: another relative error of the same order.
    assert abs(facts.rms**2 - squares.mean()) <= 10 * squares.std() / np.sqrt(facts.samples)


def test_a_product_without_bias_gets_one() -> None:
    result = optimize(mlp([6, 20, 4], bias=False), ratio=0.5, **CPU)
    assert [n.op_type for n in result.model.graph.node] == ["MatMul", "Relu", "MatMul", "Add"]
    assert [o.name for o in result.model.graph.output] == ["y"]


def constant_outputs() -> onnx.ModelProto:
    """A perceptron that multiplies its input by zero."""
    model = mlp([6, 20, 4])
    model.graph.node[0].input[0] = "z"
    model.graph.node.insert(0, helper.make_node("Mul", ["x", "zero"], ["z"]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    return model


def test_a_spread_of_zero_makes_the_unit_absolute() -> None:
    chain = optimize(constant_outputs(), eps=0.1, **CPU).report.chains[0]
    assert (chain.error.unit, chain.error.spread, chain.error.relative.rms) == ("absolute", 0.0, chain.error.rms)
    assert chain.width_after == 1


@pytest.mark.parametrize("where", ["w0", "b1", "w2"])
def test_weights_that_are_no_numbers_skip_their_chains(where: str) -> None:
    layers = weights([6, 20, 16, 4])
    layers[int(where[1])][where[0] == "b"].flat[3] = np.nan
    result = optimize(mlp([6, 20, 16, 4], layers=layers), ratio=0.5, **CPU)
    bad = {"w0": {"h0"}, "b1": {"h0", "h1"}, "w2": {"h1"}}[where]
    assert {name for name, code in codes(result.report).items() if code == "non-finite"} == bad
    assert np.isnan(array(result.model, where)).any()


def custom() -> onnx.ModelProto:
    """A perceptron and, behind it, an operator that ONNX Runtime does not have."""
    model = with_nodes(SMALL, helper.make_node("Odd", ["y"], ["z"], domain="my.ops"), outputs={"z": F})
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    return model


def test_what_onnx_runtime_cannot_run_is_shrunk_under_a_ball() -> None:
    report = optimize(custom(), ratio=0.5, **CPU).report
    assert widths(report)["h0"] == 10 and report.chains[0].law.startswith("ball of radius 2.449 ")
    assert report.validation.passed is None and report.chains[0].error.rms > 0
    assert len(report.validation.notes) == 1 and "my.ops" in report.validation.notes[0]


def test_bfloat16_is_cut_and_its_error_is_of_the_stored_weights() -> None:
    model = mlp([6, 20, 4], dtype=ml_dtypes.bfloat16)
    result = optimize(model, ratio=0.5, **CPU)
    facts, x = result.report.chains[0].error, ball(100_000, 6, math.sqrt(6)).astype(ml_dtypes.bfloat16).astype(float)
    squares = ((first_layer(result.model, x) - first_layer(model, x)) ** 2).mean(axis=1)
    assert array(result.model, "w0").dtype == ml_dtypes.bfloat16 and result.report.validation.passed is None
    assert abs(facts.rms**2 - squares.mean()) <= 5 * squares.std() / np.sqrt(facts.samples)
    assert any("float64" in note for note in result.report.validation.notes)


def test_random_outputs_are_named_and_not_judged() -> None:
    noise = [helper.make_node("RandomNormalLike", ["y"], ["r"], dtype=1), helper.make_node("Add", ["y", "r"], ["z"])]
    checked = optimize(with_nodes(SMALL, *noise, outputs={"z": F}), ratio=0.5, **CPU).report.validation
    assert (checked.passed, checked.random_outputs, [o.name for o in checked.outputs]) == (True, ("z",), ["y"])


TENSORS = {"w": weights([6, 20])[0][0].T.astype(np.float32), "v": weights([20, 3], 1)[0][0].T.astype(np.float32)}
BODY = [
    helper.make_node("MatMul", ["a", "w"], ["t"]),
    helper.make_node("Relu", ["t"], ["h"]),
    helper.make_node("MatMul", ["h", "v"], ["y"]),
]


@pytest.mark.parametrize("asked", [{"ratio": 0.9}, {"eps": 0.1}, {"width": {"h": 19}}])
def test_a_cut_that_copies_more_than_it_drops_is_not_made(asked: dict[str, object]) -> None:
    ends = {"y": (F, ["N", 3]), "q": (F, ["N", 20])}
    shared = built([*BODY, helper.make_node("MatMul", ["a", "w"], ["q"])], {"a": (F, ["N", 6])}, ends, TENSORS)
    result = optimize(shared, **asked, **CPU)
    assert codes(result.report)["h"] == "no-gain" and result.model == shared


def test_an_inserted_bias_counts_as_parameters() -> None:
    tensors = {"w": TENSORS["w"], "v": TENSORS["v"][:, :1].repeat(30, axis=1)}
    nodes = [*BODY, helper.make_node("MatMul", ["a", "w"], ["q"]), helper.make_node("MatMul", ["q", "v"], ["p"])]
    model = built(nodes, {"a": (F, ["N", 6])}, {"y": (F, ["N", 30]), "p": (F, ["N", 30])}, tensors)
    result = optimize(model, width={"h": 19}, **CPU)
    assert codes(result.report)["h"] == "no-gain" and result.model == model


# --- files ---


def test_external_data_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "work").mkdir()
    onnx.save(
        mlp([6, 20, 16, 4]),
        tmp_path / "model" / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    monkeypatch.chdir(tmp_path / "work")
    result = optimize(os.path.join("..", "model", "m.onnx"), "o.onnx", ratio=0.5, **CPU)
    assert os.listdir() == ["o.onnx"]
    assert onnx.load("o.onnx") == result.model == optimize(SMALL, ratio=0.5, **CPU).model


# --- inputs ---


def npz(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "inputs.npz", **arrays)
    return str(folder / "inputs.npz")


RNG = np.random.default_rng(3)


# Of many samples about half of that fifth decides nothing: statements are made of it.
@pytest.mark.parametrize(("shape", "held"), [((100, 6), 20), ((3000, 6), 400), ((7, 5, 6), 5), ((25, 8, 6), 40)])
def test_a_fifth_of_the_users_samples_is_held_back(shape: tuple[int, ...], held: int, tmp_path: Path) -> None:
    report = optimize(SMALL, ratio=0.5, inputs=npz(tmp_path, x=RNG.standard_normal(shape)), **CPU).report
    assert report.chains[0].error.samples == held
    assert (report.chains[0].law, report.validation.law) == ("inputs, augmented", "inputs")


def test_the_last_fifth_is_what_is_measured_on(tmp_path: Path) -> None:
    x = RNG.standard_normal((100, 6))
    x[80:] = 1.0
    report = optimize(SMALL, ratio=0.5, inputs=npz(tmp_path, x=x), **CPU).report
    assert report.chains[0].error.spread == 0.0 and report.chains[0].error.samples == 20


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((5, 6))}, "no input 'z'"),
        ({"x": np.zeros((5, 6)), "z": np.zeros(3)}, "no input 'z'"),
        ({"x": np.zeros((5, 7))}, r"shape \[5, 7\]"),
        ({"x": np.zeros(6)}, "rank 1"),
        ({"x": np.zeros((0, 6))}, "no sample"),
        ({"x": np.zeros((3, 0, 6))}, "no sample"),
        ({"x": np.full((5, 6), "a")}, "<U1"),
        ({"x": np.zeros((5, 6), complex)}, "complex128"),
        ({"x": np.full((5, 6), 1e300)}, "too large"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        optimize(SMALL, inputs=npz(tmp_path, **arrays), **CPU)


def words(batch: str | int = "B") -> onnx.ModelProto:
    """Integers (B, S) look up rows of 6 numbers in a table of 11."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["a"]), *BODY]
    table = {"table": RNG.standard_normal((11, 6)).astype(np.float32)}
    return built(nodes, {"ids": (TensorProto.INT64, [batch, "S"])}, {"y": (F, [batch, "S", 3])}, TENSORS | table)


def test_integers_come_from_the_table_they_index() -> None:
    report = optimize(words(), ratio=0.5, **CPU).report
    assert (report.chains[0].law, report.validation.passed) == ("synthetic", True)


@pytest.mark.parametrize("ids", [np.full((5, 4), 11), np.full((5, 4), 0.5)])
def test_integers_that_index_nothing_are_refused(ids: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--inputs"):
        optimize(words(), inputs=npz(tmp_path, ids=ids), **CPU)


def test_a_given_shape_is_used() -> None:
    checked = optimize(words(), ratio=0.5, input_shape={"ids": (7, 3)}, **CPU).report.validation
    assert checked.passed is True and checked.samples % 7 == 0


@pytest.mark.parametrize(
    ("shape", "said"), [({"q": (1, 2)}, "q: the inputs are x"), ({"x": (2, 6, 1)}, "does not run")]
)
def test_a_shape_that_does_not_fit_is_refused(shape: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(UsageError, match=f"--input-shape.*{said}"):
        optimize(SMALL, input_shape=shape, **CPU)


def test_a_radius_implies_the_ball_and_no_sample_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    measure = settling.measure

    def spy(
        alone: object, name: str, coreset: object, inputs: settling.LayerInputs, *rest: object, **more: object
    ) -> object:
        seen[name] = inputs
        return measure(alone, name, coreset, inputs, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(settling, "measure", spy)
    report = optimize(SMALL, ratio=0.5, radius=2.5, **CPU).report
    assert report.options["inputs"] == "ball"
    first, second = report.chains[:2]
    assert (first.error.domain.kind, first.error.domain.radius, first.error.outside) == ("ball", 2.5, 0)
    assert "2.5" in first.law and "propagated" in second.law
    for chain in (first, second):
        inputs = seen[chain.name]
        for rows in (inputs.fit, inputs.hold, inputs.fresh.rows):
            norms = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=1)
            assert norms.max() <= chain.error.domain.radius and norms.max() >= 0.99 * chain.error.domain.radius
            assert {0.1, 0.3, 1.0} == set(np.round(norms / chain.error.domain.radius, 3))
    # What is propagated bounds what the first layer can give, and is no larger than its row norms allow.
    w, b = (array(SMALL, n).astype(np.float64) for n in ("w0", "b0"))
    reach = float(np.linalg.norm(np.maximum(b + 2.5 * np.linalg.norm(w, axis=1), 0.0)))
    # Single precision may add a little.
    assert reach <= second.error.domain.radius <= reach * (1 + 1e-4)


def test_without_a_radius_the_ball_has_the_root_of_d_and_the_report_says_so() -> None:
    chains = optimize(SMALL, ratio=0.5, inputs="ball", **CPU).report.chains
    for chain, size in zip(chains[:2], (6, 20), strict=True):
        assert chain.error.domain.radius == pytest.approx(math.sqrt(size)) and "no radius is known" in chain.law


def test_a_radius_goes_through_a_layer_that_is_left_out() -> None:
    every = optimize(SMALL, ratio=0.5, radius=2.5, **CPU).report.chains[1]
    some = optimize(SMALL, ratio=0.5, radius=2.5, exclude="h0", **CPU).report.chains
    assert some[0].code == "excluded" and some[1].law == every.law and some[1].error.rms == every.error.rms
    assert some[1].error.domain == every.error.domain


def test_a_radius_that_proves_nothing_further_in_is_not_passed_on() -> None:
    chains = optimize(mlp([6, 20, 16, 4], activation="Reciprocal"), ratio=0.5, radius=2.0, **CPU).report.chains
    assert chains[1].error.domain.radius == pytest.approx(math.sqrt(20))


# --- the report ---

ERROR = frozenset(
    [
        "unit",
        "spread",
        "rms",
        "p99",
        "max",
        "relative",
        "worst_output",
        "carried_rms",
        "samples",
        "outside",
        "attacked",
        "attacked_mean",
        "certified",
        "certified_mean",
        "domain",
        "statement",
    ]
)
CHAIN = frozenset(
    [
        "name",
        "activation",
        "features",
        "consumers",
        "law",
        "inputs",
        "outputs",
        "width_before",
        "width_after",
        "kept",
        "method",
        "eps",
        "status",
        "code",
        "reason",
        "error",
        "polish",
        "correction",
        "curve",
        "lossless",
    ]
)


@pytest.mark.parametrize("asked", [{"eps": 0.3}, {"ratio": 0.5}, {"ratio": 1.0}, {"ratio": 0.5, "validate": False}])
def test_the_report_has_every_key_always(asked: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    optimize(SMALL, out, exclude="h1", report=tmp_path / "r.json", **asked, **CPU)
    report = json.loads((tmp_path / "r.json").read_text())
    assert {"onnx_coreset", "input", "output", "options", "chains", "validation", "seconds"} == set(report)
    for side in ("input", "output"):
        assert {"path", "bytes", "parameters", "macs", "sha256"} == set(report[side])
    assert report["output"]["bytes"] == out.stat().st_size
    assert report["output"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert {"provider", "law", "samples", "passed", "outputs"} <= set(report["validation"])
    assert all({"name", "max", "rms", "relative_rms"} == set(o) for o in report["validation"]["outputs"])
    for chain in report["chains"]:
        assert set(chain) == CHAIN and set(chain["error"]) == ERROR
        assert set(chain["error"]["relative"]) == {"rms", "p99", "max"}
        assert set(chain["error"]["domain"]) == {"kind", "centre", "radius", "low", "high", "proven", "source"}
        assert chain["status"] in ("pruned", "kept", "skipped")
        assert (chain["status"] == "pruned") == (chain["code"] is None) == (chain["reason"] is None)
        assert (chain["status"] == "skipped") == (chain["width_after"] is None) == (chain["law"] is None)
    assert set(report["seconds"]) >= {"open", "sample", "narrow", "validate", "save"}


def test_what_is_kept_and_counted_is_what_was_written() -> None:
    result = optimize(SMALL, ratio=0.5, **CPU)
    for index, chain in enumerate(result.report.chains[:2]):
        kept, columns = list(chain.kept), [range(6), result.report.chains[0].kept][index]
        assert kept == sorted(set(kept)) and len(kept) == chain.width_after
        if index == 0:
            assert np.array_equal(array(result.model, "w0"), array(SMALL, "w0")[kept][:, list(columns)])
        assert np.array_equal(array(result.model, f"b{index}").shape, (len(kept),))
    stored = sum(int(np.prod(t.dims)) for t in result.model.graph.initializer)
    assert result.report.output.parameters == stored == 10 * 6 + 10 + 8 * 10 + 8 + 4 * 8 + 4
    assert result.report.output.macs == 10 * 6 + 8 * 10 + 4 * 8


def test_the_carried_error_is_that_inside_the_shrunk_model() -> None:
    result = optimize(SMALL, ratio=0.5, **CPU)
    last, output = result.report.chains[1], result.report.validation.outputs[0]
    # The last layer's output is the model's own: both are the same table, measured once.
    assert last.error.carried_rms == pytest.approx(output.rms, rel=1e-6) and output.rms > last.error.rms


def test_samples_that_are_never_finite_have_no_error() -> None:
    layers = weights([6, 20, 16, 4])
    layers[0][0][3, 2] = np.nan
    report = json.loads(optimize(mlp([6, 20, 16, 4], layers=layers), ratio=0.5, **CPU).report.to_json())
    assert [o["rms"] for o in report["validation"]["outputs"]] == [None]
