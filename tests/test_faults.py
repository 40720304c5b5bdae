"""What goes wrong: one or two lines, the exit code that says whose fault it is, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnx_coreset
from api_models import mlp, weights
from onnx_coreset import api, cli
from onnx_coreset.edge import files, runtime
from onnx_coreset.stages import judging, settling

SMALL = mlp([6, 20, 16, 4])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds in.onnx and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.onnx").write_bytes(SMALL.SerializeToString())
    return tmp_path


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder, links and folders named as such, with a digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = (
            "link"
            if path.is_symlink()
            else "folder"
            if path.is_dir()
            else hashlib.sha256(path.read_bytes()).hexdigest()
        )
        found[str(path.relative_to(folder))] = kind
    return found


def fails(capsys: pytest.CaptureFixture[str], code: int, words: str, *arguments: str) -> None:
    """The command line fails as it should, in a folder that it leaves as it was."""
    before = listing(Path())
    assert cli.main(list(arguments)) == code
    said = capsys.readouterr()
    assert words in said.err and said.out == ""
    assert (
        said.err.startswith("onnx-coreset: error: ") and 1 <= said.err.count("\n") <= 2 and "Traceback" not in said.err
    )
    assert listing(Path()) == before


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = mlp([6, 20, 16, 4])
    change(model)
    return bytes(model.SerializeToString())


def cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "h1"


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "nowhere"


def short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def far(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="missing.bin")


BAD = {
    "truncated": SMALL.SerializeToString()[:-100],
    "text": b"this is no model\n",
    "empty": b"",
    "zeros": bytes(300),
    "cyclic": changed(cyclic),
    "dangling": changed(dangling),
    "short tensor": changed(short),
    "missing data": changed(far),
    "no graph": onnx.ModelProto(ir_version=8).SerializeToString(),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_model_that_is_none(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.onnx").write_bytes(BAD[kind])
    fails(capsys, 3, "", "bad.onnx", "out.onnx", "--report", "r.json", "--provider", "cpu")
    fails(capsys, 3, "", "bad.onnx", "--inspect", "--report", "r.json")


def test_a_model_that_is_missing_or_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, 3, "does not exist", "no.onnx", "out.onnx")
    fails(capsys, 3, "is a folder", ".", "out.onnx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["out.onnx"], "exists"),
        (["in.onnx"], "is the input model"),
        (["in.onnx", "--overwrite"], "is the input model"),
        (["soft.onnx", "--overwrite"], "is the input model"),
        (["hard.onnx", "--overwrite"], "is the input model"),
        (["./folder/../in.onnx", "--overwrite"], "is the input model"),
        (["dead.onnx"], "exists"),
        (["folder"], "is a folder"),
        (["new/"], "is a folder"),
        (["folder", "--overwrite"], "is a folder"),
        (["nowhere/out.onnx"], "does not exist"),
        (["new.onnx", "--report", "nowhere/r.json"], "does not exist"),
        (["new.onnx", "--width", "hO=3"], "nearest: h1, h0"),
        (["new.onnx", "--include", "layer*"], "nearest: h0, h1"),
        (["new.onnx", "--exclude", "h7"], "nearest: h1, h0"),
        (["new.onnx", "--width", "h0=21"], "only 20"),
        (["new.onnx", "--eps", "0.1", "--ratio", "0.5"], "two targets"),
        (["new.onnx", "--ratio", "0"], "--ratio must be"),
        (["new.onnx", "--method", "best"], "--method"),
        (["new.onnx", "--inputs", "no.npz"], "no.npz"),
        (["new.onnx", "--inputs", "wrong.npz"], "its inputs are x"),
        (["new.onnx", "--input-shape", "q:1,6"], "the inputs are x"),
        (["new.onnx", "--radius", "1", "--inputs", "synthetic"], "--radius"),
        (["new.onnx", "--rat", "0.5"], "did you mean --ratio?"),
        (["new.onnx", "--jobs", "0"], "--jobs must be"),
        (["new.onnx", "--delta"], "expected one argument"),
        (["new.onnx", "--certify", "slow"], "--certify must be one of off, fast, tight"),
        (["new.onnx", "--radius", "hO=3"], "nearest: h1, h0"),
        (["new.onnx", "--input-range", "1:0"], "--input-range must not end below"),
        (["new.onnx", "--params", "0.0001"], "ask for that or more"),
        (["new.onnx", "--widths", "gone.json"], "cannot be read"),
        (["new.onnx", "--output-eps", "0.1", "--ratio", "0.5"], "two targets"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.onnx").write_bytes(b"precious")
    Path("folder").mkdir()
    Path("soft.onnx").symlink_to("in.onnx")
    Path("dead.onnx").symlink_to("nothing.onnx")
    os.link("in.onnx", "hard.onnx")
    np.savez("wrong.npz", z=np.zeros((3, 6)))
    report = [] if "--report" in arguments else ["--report", "r.json"]
    fails(capsys, 2, words, "in.onnx", *arguments, *report)


def test_cuda_where_there_is_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if runtime.choose("auto").reason is None:
        pytest.skip("this machine has CUDA")
    fails(capsys, 4, "CUDA cannot be used", "in.onnx", "out.onnx", "--provider", "cuda", "--report", "r.json")


def test_weights_that_are_no_numbers_are_no_fault(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = weights([6, 20, 16, 4])
    layers[0][0][2, 2] = np.nan
    Path("nan.onnx").write_bytes(mlp([6, 20, 16, 4], layers=layers).SerializeToString())
    assert cli.main(["nan.onnx", "out.onnx", "--ratio", "0.5", "--provider", "cpu"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and Path("out.onnx").exists()
    lines = [line.strip() for line in said.out.splitlines()]
    assert lines.count("1 skipped, non-finite: a weight is NaN or infinite") == lines.count("h0") == 1


def test_interrupted_in_the_middle(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    for module, name in ((settling, "measure"), (judging, "compare"), (files, "save"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupt)
            fails(capsys, 130, "interrupted", "in.onnx", "out.onnx", "--report", "r.json", "--provider", "cpu")


def test_a_report_that_cannot_be_written_leaves_no_model(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files._write

    def full(path: Path, temporary: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        write(path, temporary, content)

    monkeypatch.setattr(files, "_write", full)
    fails(capsys, 4, "No space left", "in.onnx", "out.onnx", "--report", "r.json", "--provider", "cpu")


def test_a_signal_to_the_real_program(here: Path) -> None:
    big = mlp([64, 1200, 1200, 8])
    Path("in.onnx").write_bytes(big.SerializeToString())
    before = listing(here)
    root = os.path.dirname(os.path.dirname(str(onnx_coreset.__file__)))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "onnx_coreset", "in.onnx", "out.onnx", "--eps", "0.01", "--provider", "cpu", "-v"]
    # A shell starts what it runs in the background deaf to this signal, and children inherit that.
    pipe, hear = subprocess.PIPE, partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env, cwd=here, preexec_fn=hear) as process:
        assert process.stderr is not None
        # The first line of the log comes after the imports, before the work.
        first = process.stderr.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b""), (first, errors)
    assert b"Traceback" not in errors and b"interrupted" in errors
    assert listing(here) == before


def test_a_result_that_fails_leaves_the_report_alone(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judging.judge

    def failing(*arguments: Any) -> judging.Judged:
        return replace(judge(*arguments), passed=False, faults=("y changed its shape",))

    monkeypatch.setattr(api, "judge", failing)
    arguments = ["in.onnx", "out.onnx", "--ratio", "0.5", "--report", "r.json", "--provider", "cpu"]
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") <= 2 and "y changed its shape" in said.err and "FAILED" in said.out
    assert set(listing(here)) == {"in.onnx", "r.json"}
    report = json.loads(Path("r.json").read_text())
    assert report["validation"]["passed"] is False and report["output"]["sha256"] is None


def test_new_values_that_are_not_finite_are_cured_by_keeping_layers_whole(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = judging.compare
    faulty = []

    def failing(*arguments: Any, **more: Any) -> Any:
        found = compare(*arguments, **more)
        if len(arguments[1].graph.initializer[0].raw_data) < 20 * 6 * 4:
            faulty.append(1)
            return replace(found, faults=("y has new values that are not finite",))
        return found

    monkeypatch.setattr(judging, "compare", failing)
    assert cli.main(["in.onnx", "out.onnx", "--ratio", "0.5", "--report", "r.json", "--provider", "cpu"]) == 0
    chains = {c["name"]: c for c in json.loads(Path("r.json").read_text())["chains"]}
    assert faulty and (chains["h0"]["status"], chains["h0"]["code"], chains["h0"]["width_after"]) == (
        "kept",
        "validation",
        20,
    )


def test_an_existing_file_is_replaced_on_request(here: Path) -> None:
    Path("out.onnx").write_bytes(b"old")
    assert cli.main(["in.onnx", "out.onnx", "--overwrite", "--ratio", "0.5", "--provider", "cpu", "-q"]) == 0
    assert onnx.load("out.onnx").graph.name == "mlp" and set(listing(here)) == {"in.onnx", "out.onnx"}


def test_nodes_out_of_order_are_sorted(here: Path) -> None:
    Path("in.onnx").write_bytes(changed(lambda m: m.graph.node.insert(0, m.graph.node.pop())))
    assert cli.main(["in.onnx", "out.onnx", "--ratio", "0.5", "--provider", "cpu", "-q"]) == 0
    onnx.checker.check_model("out.onnx")


def test_a_model_with_nothing_to_cut_is_copied(here: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    Path("in.onnx").write_bytes(model.SerializeToString())
    assert cli.main(["in.onnx", "out.onnx", "-q"]) == 0
    assert onnx.load("out.onnx") == model
