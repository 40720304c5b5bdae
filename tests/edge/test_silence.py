"""Nothing of what ONNX Runtime says reaches the terminal; what is of use in it is kept."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import pytest

from onnx_coreset.edge.silence import one_line, silenced

NOISY = """
import numpy as np
from edge_models import OPSET, WEIGHTS, small
from onnx import TensorProto, helper
from onnx_coreset.edge.runtime import *
from onnx_coreset.errors import MachineError

model = small()
model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
model.graph.initializer.add(name="unused", data_type=1, dims=[1], float_data=[1.0])
for wanted in ("auto", "cuda"):
    try:
        provider = choose(wanted)
    except MachineError:
        pass
for provider in (Provider("CPUExecutionProvider"), Provider("CUDAExecutionProvider")):
    for optimise in (True, False):
        session = Session(model, provider, optimise=optimise)
        for x in (np.ones((2, 3), np.float32), np.ones((2, 2), np.float32)):
            try:
                session.run({"x": x})
            except RuntimeRefused:
                pass
accepts(b"junk")
"""


def test_nothing_is_printed_from_the_first_import_on(request: pytest.FixtureRequest) -> None:
    tests = str(request.config.rootpath / "tests")
    code = f"import sys; sys.path.insert(0, {tests!r})\n{NOISY}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_printed_where_the_caller_uses_the_library_too(request: pytest.FixtureRequest) -> None:
    tests = str(request.config.rootpath / "tests")
    cpu_only = NOISY.replace('("auto", "cuda")', "()").replace(', Provider("CUDAExecutionProvider")', ",")
    code = f"import sys; sys.path.insert(0, {tests!r})\nimport onnxruntime\n{cpu_only}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_printed_here_either(capfd: pytest.CaptureFixture[str]) -> None:
    # Other tests have imported the library by now, so its own severity is not ours to set: CUDA is left out, as above.
    exec(NOISY.replace(', Provider("CUDAExecutionProvider")', ","), {})
    assert capfd.readouterr() == ("", "")


def test_silence_hears_both_streams_of_both_kinds_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    native = ctypes.CDLL(None).write
    with pytest.raises(KeyError), silenced() as said:
        sys.stdout.write("a")
        sys.stderr.write("b")
        for descriptor in (1, 2):
            native(descriptor, b"c", 1)
        raise KeyError
    assert sorted(said.getvalue()) == ["a", "b", "c", "c"]
    native(1, b"o", 1)
    native(2, b"e", 1)
    assert capfd.readouterr() == ("o", "e")


def test_silence_of_many_threads_ends(capfd: pytest.CaptureFixture[str]) -> None:
    def whisper() -> None:
        for _ in range(20):
            with silenced():
                ctypes.CDLL(None).write(1, b"x", 1)

    threads = [threading.Thread(target=whisper) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ctypes.CDLL(None).write(1, b"o", 1)
    assert capfd.readouterr() == ("o", "")


def test_messages_lose_what_only_the_librarys_authors_need() -> None:
    place = "/onnxruntime_src/onnxruntime/core/graph/graph.cc:1587 void onnxruntime::Graph::Init(int) const "
    assert (
        one_line(f"[ONNXRuntimeError] : 1 : FAIL : {place}This is\n an invalid model.\n") == "This is an invalid model."
    )
