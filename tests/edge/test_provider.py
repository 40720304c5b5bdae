"""What models run on: what ONNX Runtime can really start, and in one line why not CUDA."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
from onnx import numpy_helper

from edge_models import small
from onnx_coreset.edge import provider as providers
from onnx_coreset.edge import runtime
from onnx_coreset.edge.provider import CPU, CUDA, obstacle
from onnx_coreset.edge.runtime import Provider, Session, accepts, choose
from onnx_coreset.errors import MachineError, UsageError


def test_the_provider_is_what_a_session_really_runs_on() -> None:
    provider = choose("auto")
    assert Session(small(), provider).provider == provider
    assert (provider.reason is None) == (provider.name == CUDA)
    assert provider.reason is None or "\n" not in provider.reason


def test_the_cpu_can_be_asked_for_without_looking_for_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "obstacle", None)
    assert choose("cpu") == Provider(CPU, "the CPU was asked for")


def test_an_unknown_provider_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="tpu"):
        choose("tpu")  # type: ignore[arg-type]


def test_cuda_that_cannot_be_had_is_the_machines_fault_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "obstacle", lambda _: ("the moon is full", "Wait a week"))
    assert choose("auto") == Provider(CPU, "the moon is full")
    with pytest.raises(MachineError, match=r"the moon is full\nWait a week, or choose --provider cpu"):
        choose("cuda")


class Claims:
    """A library that claims to have CUDA, and what it says and does when it is to start."""

    def __init__(self, *, claimed: Sequence[str] = (CUDA, CPU), says: str = "", gives: str = CPU) -> None:
        self.claimed, self.says, self.gives = claimed, says, gives

    def get_available_providers(self) -> Sequence[str]:
        return self.claimed

    def preload_dlls(self) -> None:
        sys.stdout.write(self.says)

    def SessionOptions(self) -> Claims:
        return self

    def InferenceSession(self, *_: object, **__: object) -> Claims:
        if self.gives == "failure":
            raise RuntimeError(self.says)
        return self

    def get_providers(self) -> list[str]:
        return [self.gives]

    def run(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (Claims(gives=CUDA), None),
        (Claims(), "it does not start"),
        (
            Claims(says="Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file"),
            "libcublas.so.13 is",
        ),
        (
            Claims(says="[E] with error: libcudnn.so.9: cannot open shared object file: No such"),
            "libcudnn.so.9 is",
        ),
        (Claims(says="Failed to load cudart64_13.dll: no module", gives="failure"), "cudart64_13.dll is missing"),
        (Claims(says="x.cc:1 CUDA failure 100: no device ; GPU=0", gives="failure"), "CUDA failure 100: no device"),
        (Claims(says="??", gives="failure"), "it does not start"),
    ],
)
def test_what_keeps_cuda_from_starting_is_one_line(
    library: Claims, words: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(providers, "_loads", lambda _: True)
    found = obstacle(library)
    assert (found is None) == (words is None)
    if found is not None and words is not None:
        assert words in found[0] and "\n" not in found[0] and "onnx-coreset[cuda]" in found[1]
    assert capfd.readouterr() == ("", "")


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_loads", lambda _: False)
    assert "driver" in (obstacle(Claims(gives=CUDA)) or ("", ""))[0]


def test_two_distributions_in_one_folder_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Claims(claimed=[CPU])
    monkeypatch.setattr(providers, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    assert "built without CUDA" in (obstacle(library) or ("", ""))[0]
    both = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime"]}
    monkeypatch.setattr(providers, "packages_distributions", lambda: both)
    reason, remedy = obstacle(library) or ("", "")
    assert "onnxruntime and onnxruntime-gpu are installed side by side" in reason
    assert "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu" in remedy


@pytest.mark.parametrize("broken", [None, type(sys)("onnxruntime")])
def test_a_missing_or_emptied_library_is_the_machines_fault(broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", broken)
    with pytest.raises(MachineError, match="pip install"):
        accepts(small())


@pytest.mark.skipif(choose().name != CUDA, reason="no CUDA here")
def test_cuda_computes_in_full_precision() -> None:
    rng = np.random.default_rng(0)
    model = small()
    x, w = rng.standard_normal((64, 512), np.float32), rng.standard_normal((512, 4), np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 512
    y = Session(model, choose("cuda")).run({"x": x})["y"]
    # 512 products of size one in float32: rounding is below 512 times its unit; TF32's is 8192 times as large.
    assert np.abs(y - np.maximum(x.astype(np.float64) @ w, 0)).max() < 512 * 2.0**-23
