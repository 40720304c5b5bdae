"""Polish in a whole run: when it happens, what it is said to have done, and what is left where a layer stays whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from api_models import LENET, mlp, run, weights, widths
from onnx_coreset import cli, optimize
from onnx_coreset.core.polish import Schedule
from onnx_coreset.edge.validation import Comparison
from onnx_coreset.errors import UsageError
from onnx_coreset.report import ChainReport
from onnx_coreset.stages import judging, polishing
from onnx_coreset.stages.narrowing import Narrowed

CPU: dict[str, Any] = {"provider": "cpu", "certify": "off"}
FEW: dict[str, Any] = {"samples": 1024, **CPU}
SMALL = mlp([6, 24, 20, 16, 4])
NAMES = ("h0", "h1", "h2")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polish takes 300 steps, whatever was asked."""
    monkeypatch.setattr(polishing, "schedule", lambda *_: Schedule(steps=300, rate=0.01))


def cut(result: Any) -> list[ChainReport]:
    return [chain for chain in result.report.chains if chain.status == "pruned"]


def ball(count: int, size: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype("f4")


@pytest.mark.parametrize("given", [False, True])
def test_polish_lowers_the_measured_error_of_a_trained_net(given: bool, tmp_path: Path) -> None:
    # A user's inputs need no word for it.
    asked: dict[str, Any] = {"polish": True}
    if given:
        np.savez(tmp_path / "some.npz", pixels=np.abs(ball(400, 784)))
        asked = {"inputs": str(tmp_path / "some.npz")}
    plain = optimize(LENET, ratio=0.2, **asked | {"polish": False}, **FEW)
    result = optimize(LENET, ratio=0.2, **asked, **FEW)
    first, second = cut(result)
    for chain in (first, second):
        assert chain.polish is not None and chain.polish.together == (first.name, second.name)
        assert chain.error.relative.rms is not None
        assert chain.error.relative.rms < chain.polish.relative_rms_before
    # Both are measured from the first one's inputs to the last one's outputs: what the model gives.
    assert first.error == replace(second.error, domain=first.error.domain, outside=first.error.outside)
    assert result.report.validation.outputs[0].rms < plain.report.validation.outputs[0].rms
    assert widths(result.report) == widths(plain.report)
    assert [chain.kept for chain in cut(result)] == [chain.kept for chain in cut(plain)]


@pytest.mark.parametrize(
    "asked",
    [
        {"ratio": 0.5},
        {"ratio": 0.5, "polish": False},
        {"eps": 0.3},
        {"output_eps": 0.5},
        {"ratio": 0.5, "validate": False},
        {"ratio": 0.5, "refit": False},
        {"ratio": 1.0, "polish": True},
    ],
)
def test_nothing_is_polished_that_need_not_be(asked: dict[str, Any]) -> None:
    result = optimize(SMALL, **asked, **FEW)
    assert all(chain.polish is None for chain in result.report.chains)


@pytest.mark.parametrize("asked", [{"refit": False}, {"validate": False}])
def test_what_polish_needs_cannot_be_left_out(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--polish needs refit and validation"):
        optimize(SMALL, ratio=0.5, polish=True, **asked, **FEW)


@pytest.mark.parametrize("norm", ["rms", "p99", "max"])
@pytest.mark.parametrize("absolute", [False, True])
def test_eps_holds_and_every_layer_is_polished_alone(norm: str, absolute: bool) -> None:
    eps = {"rms": 0.6, "p99": 2.0, "max": 6.0}[norm]
    asked: dict[str, Any] = {"eps": eps, "error": norm, "absolute": absolute, **FEW}
    plain, result = (optimize(SMALL, polish=polish, **asked) for polish in (False, True))
    assert widths(result.report) == widths(plain.report)
    polished = [chain for chain in cut(result) if chain.polish is not None]
    assert polished and all(chain.polish is not None and chain.polish.together == (chain.name,) for chain in polished)
    for chain, before in zip(cut(result), cut(plain), strict=True):
        old, new = ((c.error if absolute else c.error.relative) for c in (before, chain))
        assert getattr(new, norm) <= max(eps, getattr(old, norm))


def test_a_norm_that_eps_bounds_may_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where polish lowers the rms and raises the maximum, and eps bounds that, the layer stays as it was."""
    measured = polishing.local_errors
    calls = []

    def worse(*arguments: Any) -> Any:
        found = measured(*arguments)
        calls.append(found)
        return replace(found, max=1e3 * found.max) if len(calls) % 2 == 0 else found

    monkeypatch.setattr(polishing, "local_errors", worse)
    for norm, left in (("max", 0), ("rms", 1)):
        calls.clear()
        result = optimize(SMALL, eps={"max": 4.0, "rms": 0.6}[norm], error=norm, polish=True, **FEW)
        assert calls and bool([c for c in cut(result) if c.polish is not None]) == bool(left)


def test_the_error_said_is_that_of_the_model_written() -> None:
    result = optimize(SMALL, ratio=0.5, polish=True, **FEW)
    chain = cut(result)[-1]
    assert chain.polish is not None and chain.polish.together == NAMES
    # The whole model is one stack: its inputs are the model's. Measured anew on other draws of the same law.
    found = result.report.validation.outputs[0]
    assert found.rms == chain.error.carried_rms
    assert chain.error.rms == pytest.approx(found.rms, rel=0.5)


@pytest.mark.parametrize("names", [["h0"], ["h1"], ["h2"]])
def test_where_a_chain_fails_validation_its_stack_is_as_it_was(
    names: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first verdict is bad, and the worst chain is named by the test."""
    real, verdicts = judging.side_by_side, []

    def once_bad(*arguments: Any) -> Comparison:
        verdicts.append(real(*arguments))
        return replace(verdicts[-1], faults=("provoked",)) if len(verdicts) == 1 else verdicts[-1]

    def worst(judged: judging.Judged) -> Narrowed:
        return next(chain for chain in judged.chains if chain.space.name in names)

    monkeypatch.setattr(judging, "side_by_side", once_bad)
    monkeypatch.setattr(judging, "_worst", worst)
    result = optimize(SMALL, ratio=0.5, **FEW)
    plain = optimize(SMALL, ratio=0.5, polish=False, exclude=names, **FEW)
    assert len(verdicts) >= 2 and all(chain.polish is None for chain in result.report.chains)
    assert [c.code for c in result.report.chains if c.name in names] == ["validation"]
    assert np.array_equal(run(result.model, ball(9, 6))[0], run(plain.model, ball(9, 6))[0])


def test_where_a_cut_does_not_pay_its_stack_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut of the second chain is said not to leave fewer parameters."""
    real = judging.cut

    def without(model: onnx.ModelProto, coresets: Any, *more: Any) -> Any:
        return real(model, {k: c for k, c in coresets.items() if k != "h1"}, *more)[0], frozenset({"h1"})

    monkeypatch.setattr(judging, "cut", without)
    result = optimize(SMALL, ratio=0.5, **FEW)
    plain = optimize(SMALL, ratio=0.5, polish=False, exclude="h1", **FEW)
    assert [c.code for c in result.report.chains if c.name == "h1"] == ["no-gain"]
    assert all(chain.polish is None for chain in result.report.chains)
    assert np.array_equal(run(result.model, ball(9, 6))[0], run(plain.model, ball(9, 6))[0])


def test_a_bound_at_the_outputs_that_polish_would_break_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    real = judging.side_by_side

    def worse(opened: Any, model: onnx.ModelProto, *more: Any) -> Comparison:
        found = real(opened, model, *more)
        same = np.array_equal(run(model, ball(9, 6))[0], run(plain.model, ball(9, 6))[0])
        return found if same else replace(found, outputs=tuple(replace(e, rms=1e3 * e.rms) for e in found.outputs))

    plain = optimize(SMALL, output_eps=0.5, **FEW)
    monkeypatch.setattr(judging, "side_by_side", worse)
    result = optimize(SMALL, output_eps=0.5, polish=True, **FEW)
    assert result.report.validation.passed is True
    assert cut(result) and all(chain.polish is None for chain in result.report.chains)


def test_a_seed_decides_every_byte() -> None:
    one, two = (optimize(SMALL, ratio=0.5, **FEW).model.SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
    assert one != optimize(SMALL, ratio=0.5, seed=1, **FEW).model.SerializeToString(deterministic=True)


def test_half_precision_stays_half_and_gets_better() -> None:
    result = optimize(halved(), ratio=0.5, polish=True, **FEW)
    chain = cut(result)[-1]
    assert chain.polish is not None and chain.error.relative.rms is not None
    assert chain.error.relative.rms < chain.polish.relative_rms_before
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {onnx.TensorProto.FLOAT16}


def halved() -> onnx.ModelProto:
    """Return the perceptron with float16 throughout."""
    proto = mlp([6, 24, 20, 4], layers=weights([6, 24, 20, 4]))
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("f2"), tensor.name))
    for end in (*proto.graph.input, *proto.graph.output):
        end.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return proto


def test_a_stack_inside_a_branch_is_polished() -> None:
    """Both branches have layers of the same names, so one of them has another name in the whole model than alone."""
    branches = []
    for seed in (0, 1):
        body = mlp([6, 24, 20, 4], seed).graph
        branches.append(helper.make_graph(body.node, f"b{seed}", [], body.output, body.initializer))
    node = helper.make_node("If", ["c"], ["o"], then_branch=branches[0], else_branch=branches[1])
    ends = [helper.make_tensor_value_info("x", 1, ["N", 6]), helper.make_tensor_value_info("c", 9, [])]
    graph = helper.make_graph([node], "g", ends, [helper.make_tensor_value_info("o", 1, ["N", 4])])
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    found = cut(optimize(proto, ratio=0.5, polish=True, **FEW))
    assert len(found) == 4 and all(chain.polish is not None and len(chain.polish.together) == 2 for chain in found)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(SMALL, tmp_path / "in.onnx")
    common = [str(tmp_path / "in.onnx"), "--ratio", "0.5", "--samples", "512", "--provider", "cpu", "-q"]
    for flag, expected in (("--polish", True), ("--no-polish", False)):
        files = [str(tmp_path / f"out{flag}.onnx"), flag, "--report", str(tmp_path / f"r{flag}.json")]
        assert cli.main([*common, *files]) == 0
        report = json.loads((tmp_path / f"r{flag}.json").read_text())
        assert [c["polish"] is not None for c in report["chains"] if c["status"] == "pruned"] == [expected] * 3
        assert report["options"]["polish"] is expected
        onnx.checker.check_model(tmp_path / f"out{flag}.onnx", full_check=True)
    assert cli.main([*common, "--polish", "--no-refit", str(tmp_path / "no.onnx")]) == 2
    assert "--no-refit" in capsys.readouterr().err


def test_the_text_says_which_layers_were_polished_together() -> None:
    text = optimize(LENET, ratio=0.2, polish=True, **FEW).report.to_text()
    line = " ".join(
        text.split("polished, all weights of the neurons that stay:")[1].split("left as they are")[0].split()
    )
    assert line.startswith("/1/Relu_output_0, /3/Relu_output_0: rms 0.") and "measured together" in line
    assert "polished" not in optimize(LENET, ratio=0.2, **FEW).report.to_text()
