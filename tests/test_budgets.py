"""Targets of the whole model, as a caller sees them: parameters kept, and the error at the outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from api_models import LENET, array, built, codes, mlp, run, weights, widths
from onnx_coreset import optimize
from onnx_coreset.cli import main
from onnx_coreset.errors import UsageError, ValidationError
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.stages import settling, spending

CPU: dict[str, Any] = {"provider": "cpu", "certify": "off", "samples": 512}
MODEL = mlp([10, 40, 30, 20, 5], seed=3)
SMALL = parameters(MODEL)
FLOAT = TensorProto.FLOAT


def relative(before: onnx.ModelProto, after: onnx.ModelProto, count: int = 4000) -> float:
    """The relative rms error at the output on inputs of our own, as broad as the synthetic ones."""
    rng = np.random.default_rng(5)
    size = before.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = (rng.standard_normal((count, size)) * rng.choice([0.1, 0.3, 1.0], count)[:, None]).astype("f4")
    old, new = (run(model, x)[0].astype("f8") for model in (before, after))
    return float(np.sqrt(np.mean((new - old) ** 2) / np.mean(old.var(axis=0))))


# --- parameters ---


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5, 0.2, 0.1])
@pytest.mark.parametrize("method", ["backward", "norm"])
def test_the_model_keeps_at_most_its_share_and_uses_it(share: float, method: str) -> None:
    result = optimize(MODEL, params=share, method=method, **CPU)
    left = parameters(result.model)
    assert left <= share * SMALL and left == result.report.output.parameters
    # What is left over is less than a neuron of the dearest layer, but for methods that are asked at some widths only.
    assert method == "norm" or left > share * SMALL - (40 + 20 + 1)
    assert result.report.validation.passed is True


@pytest.mark.parametrize("more", [{"round_to": 4}, {"min_width": 7}, {"width": {"h1": 29}}, {"exclude": ["h0"]}])
def test_other_wishes_about_widths_hold_within_a_budget(more: dict[str, Any]) -> None:
    result = optimize(MODEL, params=0.7, **more, **CPU)
    kept = widths(result.report)
    assert parameters(result.model) <= 0.7 * SMALL
    if "round_to" in more:
        assert all(kept[name] % 4 == 0 or kept[name] == n for name, n in (("h0", 40), ("h1", 30), ("h2", 20)))
    elif "min_width" in more:
        assert min(kept[name] or 0 for name in ("h0", "h1", "h2")) >= 7
    elif "width" in more:
        assert kept["h1"] == 29
    else:
        assert kept["h0"] is None and codes(result.report)["h0"] == "excluded"


def test_a_budget_goes_where_it_costs_least() -> None:
    """Two layers of equal parameters; the second one's neurons are nearly repetitions: they go, the others stay."""
    layers = weights([12, 24, 12, 24, 6], seed=1)
    w, b = layers[2]
    rng = np.random.default_rng(0)
    twice = np.repeat(np.arange(6), 4)
    layers[2] = (w[twice] + 1e-3 * rng.standard_normal(w.shape), b[twice])
    kept = widths(optimize(mlp([12, 24, 12, 24, 6], layers=layers), params=0.7, **CPU).report)
    assert (kept["h0"] or 0) >= 23 and (kept["h2"] or 0) <= 12


def test_errors_under_a_budget_are_below_those_of_one_ratio_for_all() -> None:
    """The same layers as above: with as many parameters, the outputs err less than under one ratio."""
    layers = weights([12, 24, 12, 24, 6], seed=1)
    w, b = layers[2]
    twice = np.repeat(np.arange(6), 4)
    layers[2] = (w[twice] + 1e-3 * np.random.default_rng(0).standard_normal(w.shape), b[twice])
    model = mlp([12, 24, 12, 24, 6], layers=layers)
    even = optimize(model, ratio=0.7, **CPU).model
    spent = optimize(model, params=parameters(even) / parameters(model), **CPU).model
    assert parameters(spent) <= parameters(even)
    assert relative(model, spent) < 0.5 * relative(model, even)


@pytest.mark.parametrize("share", [0.9, 0.45])
def test_a_weight_that_two_layers_share_is_counted_as_it_is_written(share: float) -> None:
    rng = np.random.default_rng(0)
    tensors = {"A": rng.standard_normal((8, 16)).astype("f4"), "B": rng.standard_normal((16, 8)).astype("f4")}
    nodes = [
        helper.make_node(op, ins, [out])
        for op, ins, out in (
            ("MatMul", ["x", "A"], "h"), ("Relu", ["h"], "z"), ("MatMul", ["z", "B"], "u"), ("Tanh", ["u"], "v"),
            ("Softmax", ["v"], "s"), ("MatMul", ["s", "A"], "k"), ("Relu", ["k"], "w"), ("MatMul", ["w", "B"], "y"),
        )
    ]  # fmt: skip
    model = built(nodes, {"x": (FLOAT, ["N", 8])}, {"y": (FLOAT, ["N", 8])}, tensors)
    result = optimize(model, params=share, **CPU)
    assert parameters(result.model) <= share * parameters(model)


def test_the_parameters_of_the_written_model_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tally that counts too few is corrected by what the model would hold."""
    counted = spending.tally
    monkeypatch.setattr(spending, "tally", lambda *rest: replace(counted(*rest), total=SMALL - 150))
    result = optimize(MODEL, params=0.5, **CPU)
    assert 0.45 * SMALL < parameters(result.model) <= 0.5 * SMALL


@pytest.mark.parametrize("more", [{"min_width": 15}, {"exclude": ["h0", "h1"]}, {"width": {"h0": 40}}])
def test_a_budget_out_of_reach_is_refused_with_the_least_share(more: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    with pytest.raises(UsageError, match="as narrow as is allowed") as caught:
        optimize(MODEL, out, params=0.05, **more, **CPU)
    assert not out.exists() and "\n" not in str(caught.value)
    least = float(str(caught.value).split(" of the parameters")[0].rsplit(" ", 1)[1])
    assert parameters(optimize(MODEL, params=least, **more, **CPU).model) <= least * SMALL
    with pytest.raises(UsageError):
        optimize(MODEL, params=least - 0.002, **more, **CPU)


def test_a_layer_that_fails_is_made_up_for_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = settling.measure

    def failing(alone: Any, name: str, coreset: Any, *rest: Any, **more: Any) -> Any:
        found, ran = measure(alone, name, coreset, *rest, **more)
        if name == "h2":
            object.__setattr__(found, "max", np.inf)
        return found, ran

    monkeypatch.setattr(settling, "measure", failing)
    result = optimize(MODEL, params=0.5, **CPU)
    assert (widths(result.report)["h2"], codes(result.report)["h2"]) == (20, "budget")
    assert parameters(result.model) <= 0.5 * SMALL and result.report.validation.passed is True


# --- error at the outputs ---


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.4])
def test_the_error_at_the_outputs_is_bounded_and_the_bound_is_used(eps: float) -> None:
    result = optimize(MODEL, output_eps=eps, **CPU)
    (output,) = result.report.validation.outputs
    assert result.report.validation.passed is True and output.relative_rms <= eps
    # Inputs drawn by others, of which half have no correlations: what the bound promises holds nearly.
    assert 0.3 * eps < relative(MODEL, result.model) < 1.3 * eps
    assert parameters(result.model) < SMALL
    assert all(chain.eps is None for chain in result.report.chains)


def test_a_looser_bound_leaves_fewer_parameters() -> None:
    left = [parameters(optimize(MODEL, output_eps=eps, **CPU).model) for eps in (0.01, 0.1, 0.5)]
    assert left[0] > left[1] > left[2]


def test_a_bound_that_no_width_meets_leaves_the_model_as_it_is() -> None:
    model = mlp([10, 12, 8, 5], seed=4)
    result = optimize(model, output_eps=1e-9, **CPU)
    assert result.model == model and result.report.validation.passed is True
    assert {codes(result.report)[name] for name in ("h0", "h1")} == {"budget"}


def test_a_bound_that_a_named_width_breaks_is_a_failed_validation(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    with pytest.raises(ValidationError, match=r"above --output-eps 0\.01") as caught:
        optimize(MODEL, out, output_eps=0.01, width={"h1": 1}, **CPU)
    report = caught.value.report
    assert not out.exists() and report is not None and report.validation.passed is False
    assert widths(report) == {"h0": 40, "h1": 1, "h2": 20, "y": None}


def test_without_validation_the_bound_is_a_prediction_and_the_report_says_so() -> None:
    result = optimize(MODEL, output_eps=0.1, validate=False, **CPU)
    assert parameters(result.model) < SMALL and result.report.validation.passed is None
    assert any("predict" in note for note in result.report.validation.notes)


def test_a_model_that_cannot_be_run_is_cut_by_prediction() -> None:
    model = mlp([10, 40, 5])
    model.graph.node.append(helper.make_node("Mystery", ["y"], ["m"], domain="nowhere"))
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    model.graph.output.append(helper.make_tensor_value_info("m", FLOAT, ["N", 5]))
    result = optimize(model, output_eps=0.1, **CPU)
    assert 1 <= (widths(result.report)["h0"] or 0) < 40 and result.report.validation.passed is None


# --- by the command line ---


@pytest.mark.parametrize("target", [["--params", "0.3"], ["--output-eps", "0.1"]])
def test_a_target_of_the_whole_model_by_the_command_line(target: list[str], tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    assert main([str(LENET), str(out), *target, "--provider", "cpu", "--samples", "1024"]) == 0
    small, large = onnx.load(out), onnx.load(LENET)
    assert array(small, "0.weight").shape[0] < 300
    if target[0] == "--params":
        assert 0.29 < parameters(small) / parameters(large) <= 0.3


def test_a_budget_out_of_reach_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "r.json"
    arguments = [str(LENET), str(tmp_path / "o.onnx"), "--params", "0.001", "--report", str(report)]
    assert main([*arguments, "--provider", "cpu", "--samples", "512"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "ask for that or more" in said.err
    assert list(tmp_path.iterdir()) == []
