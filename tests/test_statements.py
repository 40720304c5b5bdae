"""What a report says of inputs that were not seen, from whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api_models import built, mlp, with_nodes
from onnx_coreset import optimize
from onnx_coreset.core.laws import Ball
from onnx_coreset.core.statistics import draws_for, exceedance
from onnx_coreset.report import Statement
from onnx_coreset.stages import statements as stage

F = TensorProto.FLOAT
SMALL = mlp([6, 20, 16, 4])
FAST: dict[str, Any] = {"provider": "cpu", "certify": "off"}
DELTA = 0.001


def npz(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "inputs.npz", **arrays)
    return str(folder / "inputs.npz")


def errors_of(result: onnx.ModelProto, x: np.ndarray, original: onnx.ModelProto = SMALL) -> np.ndarray:
    """Largest error of each sample at the output y, in its own numbers."""
    import onnxruntime as ort

    values = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
        for m in (original, result)
    ]
    return np.abs(np.subtract(*values)).reshape(len(x), -1).max(axis=1)


def test_a_layer_of_independent_samples_is_spoken_of_by_its_inputs() -> None:
    report = optimize(SMALL, ratio=0.5, **FAST).report
    for chain in report.chains[:2]:
        found = chain.error.statement
        assert (found.kind, found.about, found.law) == ("order", "an input of the layer", "synthetic")
        assert found.samples == draws_for(0.001, DELTA) and found.delta == DELTA and found.reason is None
        assert found.probability is not None and found.probability <= 0.001
        # The error is that of the same layer, on other samples.
        assert found.exceeds is not None and chain.error.max is not None and chain.error.p99 is not None
        assert chain.error.p99 < found.exceeds < 2 * chain.error.max
        assert [level.exceeds for level in found.levels] == sorted(
            (level.exceeds for level in found.levels), reverse=True
        )
        assert found.share is None
    found = report.validation.statement
    assert (found.kind, found.about, found.law) == ("order", "a sample of the model's inputs", "synthetic")
    assert found.probability is not None and found.probability <= 0.001


def test_the_law_of_a_ball_is_drawn_from_anew() -> None:
    result = optimize(SMALL, ratio=0.5, radius=3.0, delta=0.05, samples=1000, exclude="h1", **FAST)
    chain = result.report.chains[0]
    found = chain.error.statement
    assert (found.law, found.samples, found.delta) == (chain.law, 250, 0.05)
    assert found.probability == exceedance(250, 0.05)
    # The statement holds for far more draws than it was made from.
    x = Ball(3.0, 6).sample(20_000, np.random.default_rng(9)).astype(np.float32)
    hidden = {"y": (F, ["N", 16])}
    local = [
        built([*m.graph.node[:2], helper.make_node("Gemm", ["h0", "w1", "b1"], ["y"], transB=1)],
              {"x": (F, ["N", 6])}, hidden, {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer})
        for m in (SMALL, result.model)
    ]  # fmt: skip
    errors = errors_of(local[1], x, local[0])
    assert found.exceeds is not None and np.mean(errors > found.exceeds) <= exceedance(250, 0.05)
    (level,) = found.levels
    assert level.probability == 0.1 and 0 < np.mean(errors > level.exceeds) <= 0.1


@pytest.mark.parametrize("inputs", ["synthetic", "ball"])
def test_what_is_said_is_not_from_what_was_measured(inputs: str) -> None:
    # As many samples as those that decided, so that equal draws would have one largest error.
    report = optimize(SMALL, ratio=0.5, samples=1000, inputs=inputs, **FAST).report
    for chain in report.chains[:2]:
        found = chain.error.statement
        assert found.samples == chain.error.samples == 250 and found.exceeds != chain.error.max


@pytest.mark.parametrize("asked", [{"eps": 0.3}, {"eps": 2.0, "absolute": True, "error": "max"}])
def test_the_share_above_eps_is_told(asked: dict[str, Any]) -> None:
    chain = optimize(SMALL, **asked, **FAST).report.chains[0]
    share, found = chain.error.statement.share, chain.error.statement
    assert share is not None and found.samples is not None and chain.error.spread is not None
    unit = 1.0 if asked.get("absolute") else chain.error.spread
    assert share.error == asked["eps"] * unit
    assert share.low <= share.count / found.samples <= share.high
    assert (share.count > 0) == (found.exceeds is not None and found.exceeds > share.error)
    named = optimize(SMALL, eps=0.3, width={"h0": 10}, **FAST).report.chains[0]
    assert named.error.statement.kind == "order" and named.error.statement.share is None


def moved(model: onnx.ModelProto, axes: int) -> onnx.ModelProto:
    """The model without biases, on inputs of more axes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value, size in ((copy.graph.input[0], 6), (copy.graph.output[0], 4)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, F, ["N", *["S"] * (axes - 2), size]))
    return copy


SAMPLE = "the layer's inputs that a sample of the model's inputs makes"
ROWS = moved(mlp([6, 20, 16, 4], bias=False), 3)


@pytest.mark.parametrize(
    ("samples", "about"), [(2000, f"the worst of {SAMPLE}"), (2008, f"one of {SAMPLE}, at random")]
)
def test_rows_of_one_sample_are_one_draw(samples: int, about: str) -> None:
    # Of 500 rows, 32 a run and 4 a sample, all are there of each sample; of 502, two of the last one.
    report = optimize(ROWS, ratio=0.5, samples=samples, input_shape={"x": (8, 4, 6)}, **FAST).report
    said = report.chains[0].error.statement
    assert (said.about, said.samples) == (about.format(SAMPLE), 125)
    assert report.validation.statement.about == "a sample of the model's inputs"


def test_few_rows_of_many_are_each_a_draw() -> None:
    said = (
        optimize(ROWS, ratio=0.5, samples=2000, input_shape={"x": (8, 64, 6)}, **FAST).report.chains[0].error.statement
    )
    # 63 of the 512 rows of a run, from 8 samples, and the last one of them cut off.
    assert (said.about, said.samples) == (f"one of {SAMPLE}, at random", 63)


def test_samples_that_see_each_other_are_one_draw() -> None:
    nodes = [
        *SMALL.graph.node[:-1],
        helper.make_node("ReduceMean", ["h1"], ["m"], axes=[0]),
        helper.make_node("Sub", ["h1", "m"], ["c"]),
        helper.make_node("Gemm", ["c", "w2", "b2"], ["t2"], transB=1),
        helper.make_node("Relu", ["t2"], ["h2"]),
        helper.make_node("Gemm", ["h2", "w3"], ["y"], transB=1),
    ]
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in SMALL.graph.initializer}
    tensors["w3"] = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    model = built(nodes, {"x": (F, ["N", 6])}, {"y": (F, ["N", 3])}, tensors)
    report = optimize(
        model, width={"h0": 10, "h2": 2}, samples=2000, delta=0.1, input_shape={"x": (20, 6)}, **FAST
    ).report
    by_name = {chain.name: chain.error.statement for chain in report.chains}
    assert (by_name["h0"].about, by_name["h0"].samples) == ("an input of the layer", 500)
    about = "the worst of the layer's inputs that a run of the model makes"
    assert (by_name["h2"].about, by_name["h2"].samples) == (about, 25)
    assert report.validation.statement.about == "a run of the model"


# --- a user's inputs ---


def test_half_of_what_is_held_back_of_many_inputs_decides_nothing(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1000, 6))
    report = optimize(SMALL, ratio=0.5, inputs=npz(tmp_path, x=x), **FAST).report
    assert report.chains[0].error.samples == report.validation.samples == 100
    for found in (report.chains[0].error.statement, report.validation.statement):
        assert (found.kind, found.law, found.samples, found.delta) == ("conformal", "inputs", 100, None)
        assert found.probability == 1 / 101 and [level.probability for level in found.levels] == [0.01, 0.1]
        assert found.share is None


def test_the_last_tenth_is_spoken_of_and_nothing_else(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1000, 6)).astype(np.float32)
    result = optimize(SMALL, ratio=0.5, samples=1000, inputs=npz(tmp_path, x=x), **FAST)
    found = result.report.validation.statement
    (output,) = result.report.validation.outputs
    assert output.rms is not None and output.relative_rms is not None and found.exceeds is not None
    wanted = errors_of(result.model, x[900:]).max()
    assert found.exceeds * output.rms / output.relative_rms == pytest.approx(wanted, rel=1e-4)
    # What decides nothing changes nothing.
    x[900:] *= -3.0
    other = optimize(SMALL, ratio=0.5, samples=1000, inputs=npz(tmp_path, x=x), **FAST)
    assert other.model == result.model and other.report.validation.statement != found
    assert other.report.validation.outputs == result.report.validation.outputs


@pytest.mark.parametrize("shape", [(300, 6), (9, 40, 6), (1, 50, 6)])
def test_few_inputs_all_decide(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal(shape)
    report = optimize(SMALL, ratio=0.5, inputs=npz(tmp_path, x=x), **FAST).report
    many = shape == (9, 40, 6)
    for found in (report.chains[0].error.statement, report.validation.statement):
        assert (found.kind is None) == (found.reason is not None)
        assert many or found.reason == "too few inputs were held back to keep any from what was decided"


# --- the text, the keys, and when there is nothing to say ---


def test_nothing_is_said_where_nothing_was_validated_or_cut() -> None:
    report = optimize(SMALL, ratio=0.5, validate=False, **FAST).report
    assert report.chains[0].error.statement == report.validation.statement == Statement(reason="nothing was validated")
    report = optimize(SMALL, ratio=1.0, **FAST).report
    assert report.chains[0].error.statement == report.validation.statement == Statement()
    assert report.validation.shifts is None


def test_every_seed_says_the_same_twice() -> None:
    one, two = (optimize(SMALL, ratio=0.5, seed=4, **FAST).report for _ in range(2))
    assert one.validation == two.validation and one.chains == two.chains


def test_chains_that_were_polished_together_are_spoken_of_together() -> None:
    first, second = optimize(SMALL, ratio=0.5, polish=True, samples=1000, **FAST).report.chains[:2]
    assert first.polish is not None and first.polish.together == ("h0", "h1")
    assert first.error.statement == second.error.statement and first.error.max is not None
    assert first.error.p99 is not None and first.error.statement.exceeds is not None
    assert first.error.p99 < first.error.statement.exceeds < 2 * first.error.max


def test_errors_at_other_inputs_are_a_table() -> None:
    shifts = optimize(SMALL, ratio=0.5, **FAST).report.validation.shifts
    assert shifts is not None and len(shifts) == 10
    assert (shifts[0].kind, shifts[0].ratio) == ("none", 1.0)
    assert {shift.kind for shift in shifts} == {"none", "scaled", "noise", "shifted"}
    for shift in shifts:
        assert shift.relative_rms is not None and shift.ratio is not None and shifts[0].relative_rms is not None
        assert shift.ratio == pytest.approx(shift.relative_rms / shifts[0].relative_rms)
    # Biases matter less for larger inputs, which is all that the kind of an input changes here.
    assert len({shift.ratio for shift in shifts}) == 10


def test_random_outputs_are_spoken_of_nowhere() -> None:
    noise = [helper.make_node("RandomNormalLike", ["y"], ["r"], dtype=1), helper.make_node("Add", ["y", "r"], ["z"])]
    plain = optimize(SMALL, ratio=0.5, **FAST).report.validation
    checked = optimize(with_nodes(SMALL, *noise, outputs={"z": F}), ratio=0.5, **FAST).report.validation
    assert (checked.statement, checked.shifts) == (plain.statement, plain.shifts)


def test_a_statement_needs_a_run_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx_coreset.edge.runtime import RuntimeRefused

    def refused(*_: object, **__: object) -> None:
        raise RuntimeRefused("no")

    monkeypatch.setattr(stage, "collect", refused)
    report = optimize(SMALL, ratio=0.5, **FAST).report
    assert report.chains[0].error.statement.reason == "the model does not run: no"
    monkeypatch.setattr(stage, "layer_outputs", refused)
    report = optimize(SMALL, ratio=0.5, inputs="ball", **FAST).report
    # Without the runtime's kernels errors are computed from what is stored.
    assert report.chains[0].error.statement.kind == "order"


def test_the_json_has_every_key() -> None:
    plain = json.loads(optimize(SMALL, ratio=0.5, **FAST).report.to_json())
    for found in (plain["chains"][0]["error"]["statement"], plain["validation"]["statement"]):
        assert set(found) == {
            "kind", "about", "law", "samples", "delta", "probability", "exceeds", "levels", "share", "reason",
        }  # fmt: skip
        assert set(found["levels"][0]) == {"probability", "exceeds"}
    assert set(plain["validation"]["shifts"][0]) == {"kind", "amount", "relative_rms", "ratio"}
