"""Models whose tensors stay in their files come out as others do; whole models are run only where memory allows it."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from api_models import mlp, with_nodes
from onnx_coreset import inspect, optimize, sweep
from onnx_coreset.edge import files, machine, runtime
from onnx_coreset.edge.ranges import mapped
from onnx_coreset.errors import MachineError, Rejected, UsageError
from onnx_coreset.stages import judging, narrowing, opening, settling

SIZES = [64, 320, 280, 260, 6]
CPU: dict[str, Any] = {"provider": "cpu", "certify": "off"}
BLIND: dict[str, Any] = {"method": "norm", "refit": False, "validate": False, "ratio": 0.5}
Where = tuple[Path, Path]


def model() -> onnx.ModelProto:
    """A perceptron, and a table that no layer reads."""
    proto = with_nodes(
        mlp(SIZES), helper.make_node("Gather", ["table", "ids"], ["row"]), outputs={"row": TensorProto.FLOAT}
    )
    table = np.random.default_rng(1).standard_normal((500, 200)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(table, "table"))
    proto.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["K"]))
    return proto


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Where:
    """A folder with the model and its data, and an empty one; whatever is large enough for a file stays in it."""
    inside, outside, temporary = (tmp_path / name for name in ("in", "out", "temporary"))
    for folder in (inside, outside, temporary):
        folder.mkdir()
    onnx.save(model(), inside / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    monkeypatch.setattr(opening.files, "load", partial(files.load, many=0))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return inside / "in.onnx", outside / "out.onnx"


def plain(report: Any) -> dict[str, Any]:
    """A report without what differs between files and runs."""
    found = json.loads(report.to_json())
    for key in ("seconds", "input", "options"):
        found.pop(key)
    for key in ("path", "bytes", "sha256"):
        found["output"].pop(key)
    return dict(found)


def tidy(folder: Path, *names: str) -> None:
    assert sorted(os.listdir(folder)) == sorted(names)
    assert os.listdir(folder.parent / "temporary") == []
    assert sorted(os.listdir(folder.parent / "in")) == ["in.data", "in.onnx"]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "asked", [{"ratio": 0.5}, {"eps": 0.3, "samples": 600}, {"params": 0.7, "samples": 600}, BLIND], ids=str
)
def test_where_tensors_are_makes_no_difference(where: Where, asked: dict[str, Any], external: bool) -> None:
    path, out = where
    expected = optimize(model(), **asked, **CPU)
    assert any(chain.status == "pruned" for chain in expected.report.chains)
    result = optimize(path, out, **asked, **CPU, external_data=external)
    assert files.load(out, many=1 << 40).model == expected.model
    assert plain(result.report) == plain(expected.report)
    size = sum(file.stat().st_size for file in out.parent.iterdir())
    assert result.report.output.bytes == size
    # Its tensors are where they were written to, beside OUT or in it.
    out.with_name("again.onnx").write_bytes(result.model.SerializeToString())
    assert files.load(out.with_name("again.onnx"), many=1 << 40).model == expected.model
    out.with_name("again.onnx").unlink()
    tidy(out.parent, "out.onnx", *(["out.onnx.data"] if external else []))


def test_without_a_place_to_go_the_model_stands_alone(where: Where) -> None:
    expected = optimize(model(), **BLIND, **CPU).model
    assert optimize(where[0], **BLIND, **CPU).model == expected
    halves = list(sweep(where[0], [0.5, 0.25], **{k: v for k, v in BLIND.items() if k != "ratio"}, **CPU))
    assert halves[0].model == expected and halves[1].report.output.bytes < halves[0].report.output.bytes
    tidy(where[1].parent)


def test_nothing_to_cut_is_a_copy(where: Where) -> None:
    path, out = where
    optimize(path, out, ratio=1.0, **CPU, external_data=True)
    assert files.load(out, many=1 << 40).model == model()
    optimize(out, path.with_name("again.onnx"), ratio=1.0, **CPU)
    assert onnx.load(path.with_name("again.onnx")) == model()


def test_inspecting_and_trying_write_nothing(where: Where) -> None:
    path, out = where
    assert [place.name for place in inspect(path).chains] == [place.name for place in inspect(model()).chains]
    report = optimize(path, out, **BLIND, **CPU, dry_run=True).report
    assert report.output.bytes and report.output.bytes < files.load(path).bytes
    tidy(out.parent)


def test_a_model_of_two_gigabytes_needs_a_place_to_go(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_LARGEST", 1 << 20)
    with pytest.raises(UsageError, match="where the result is written"):
        optimize(where[0], **BLIND, **CPU)
    optimize(*where, **BLIND, **CPU)


def test_a_pipelines_own_test_gets_the_whole_model(where: Where) -> None:
    seen = []

    def accept(found: onnx.ModelProto) -> bool:
        seen.append(found)
        return False

    with pytest.raises(Rejected):
        optimize(*where, **BLIND, **CPU, accept=accept)
    assert seen == [optimize(model(), **BLIND, **CPU).model]
    tidy(where[1].parent)


@pytest.mark.parametrize("step", ["narrow", "judge", "save"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, MachineError])
def test_a_failure_leaves_nothing(
    where: Where, step: str, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure("stopped")

    module, name = {"narrow": (settling, "measure"), "judge": (judging, "check"), "save": (files, "save")}[step]
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(failure):
        optimize(*where, ratio=0.5, **CPU, external_data=True)
    tidy(where[1].parent)


def test_progress_is_told_in_bytes(where: Where) -> None:
    told = []
    optimize(*where, **BLIND, **CPU, external_data=True, progress=lambda *what: told.append(what))
    saved = [(done, total) for stage, done, total, detail in told if stage == "save" and detail == "out.onnx"]
    size = where[1].with_name("out.onnx.data").stat().st_size
    assert saved[0] == (0, size) and saved[-1] == (size, size) and saved == sorted(saved)


# The runtime.


def test_sessions_get_maps_and_give_them_back(where: Where) -> None:
    proto = files.load(where[0], many=0).model
    session = runtime.Session(proto, runtime.Provider(runtime.CPU))
    maps = Path("/proc/self/maps")
    assert not maps.exists() or "in.data" not in maps.read_text()
    feed = {"x": np.ones((3, SIZES[0]), np.float32), "ids": np.arange(4)}
    other = runtime.Session(model(), runtime.Provider(runtime.CPU))
    for name, value in other.run(feed).items():
        assert np.array_equal(session.run(feed)[name], value)
    with mapped(str(where[0])) as whole:
        assert whole[:2] == where[0].read_bytes()[:2]
    assert whole.closed


def test_a_runtime_that_takes_no_maps_gets_the_tensors(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        """Session options of an older library."""

    given = runtime._lend(Bare(), files.load(where[0], many=0).model, None)  # type: ignore[arg-type]
    assert given == model()


# Memory.


def test_above_the_memory_limit_whole_models_are_not_run(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    size = files.load(where[0]).bytes
    made = []
    real = runtime.Session.__init__

    def spy(session: Any, proto: Any, *arguments: Any, **more: Any) -> None:
        made.append(any(tensor.name == "table" for tensor in proto.graph.initializer))
        real(session, proto, *arguments, **more)

    monkeypatch.setattr(runtime.Session, "__init__", spy)
    report = optimize(*where, ratio=0.5, samples=600, **CPU, memory_limit=4 * size - 2000).report
    assert made and not any(made)
    assert report.validation.passed is None and report.validation.outputs == ()
    assert any("--memory-limit" in note and "outputs were not compared" in note for note in report.validation.notes)
    assert all(chain.error.rms is not None for chain in report.chains if chain.status == "pruned")
    made.clear()
    optimize(*where, ratio=0.5, samples=600, **CPU, memory_limit=5 * size, overwrite=True)
    assert any(made)


def test_inputs_that_cannot_be_used_for_lack_of_memory_are_refused(where: Where) -> None:
    samples = where[0].parent.parent / "x.npz"
    np.savez(samples, x=np.ones((5, SIZES[0]), np.float32), ids=np.arange(5))
    with pytest.raises(UsageError, match="memory-limit"):
        optimize(*where, inputs=str(samples), memory_limit=1, **CPU)


def test_a_fair_share_is_half_of_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.fair_share() == machine.memory() // 2 > 0
    group = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_GROUPS", (str(tmp_path / "none"), str(group)))
    group.write_text("max\n")
    physical = machine.memory()
    group.write_text("4096\n")
    assert machine.memory() == 4096 < physical
    monkeypatch.delattr(os, "sysconf")
    group.write_text("max\n")
    assert machine.memory() == 8 << 30


# Nothing to look at.


@pytest.mark.parametrize("method", ["norm", "synflow"])
def test_where_nothing_depends_on_inputs_nothing_is_run(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = BLIND | {"method": method}
    seeing = optimize(model(), **asked | {"validate": True}, samples=600, **CPU)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("this was not needed")

    monkeypatch.setattr(runtime.Session, "__init__", fail)
    monkeypatch.setattr(narrowing, "layer_inputs", fail)
    monkeypatch.setattr(settling, "measure", fail)
    blind = optimize(model(), **asked, provider="cpu")
    assert blind.model == seeing.model
    assert blind.report.validation.passed is None and any("sampled" in n for n in blind.report.validation.notes)
    narrower = [chain for chain in blind.report.chains if chain.status != "skipped"]
    assert len(narrower) == 3
    for chain in narrower:
        assert chain.law is None and chain.error.rms is None and chain.error.certified is None
        assert chain.status == "pruned"


@pytest.mark.parametrize("more", [{"refit": True}, {"validate": True}, {"ratio": None}, {"method": "uniform"}], ids=str)
def test_where_something_does_layers_are_measured(more: dict[str, Any]) -> None:
    report = optimize(mlp([6, 20, 16, 4]), **BLIND | more, samples=100, **CPU).report
    layers = [chain for chain in report.chains if chain.status != "skipped"]
    assert layers and all(chain.law is not None for chain in layers)
    assert all(chain.error.rms is not None for chain in layers if chain.status == "pruned")
