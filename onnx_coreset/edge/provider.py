"""Whether models can run on CUDA, and why not: what ONNX Runtime claims to have is not what it can start."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Any

import numpy as np
import onnx

from onnx_coreset.edge.silence import one_line, silenced

__all__ = ["CPU", "CUDA", "Provider", "obstacle"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """What runs a model.

    Attributes:
        name: ``CUDAExecutionProvider`` or ``CPUExecutionProvider``.
        reason: One line that says why it is not CUDA; None where it is.
    """

    name: str
    reason: str | None = None


def obstacle(ort: Any) -> tuple[str, str] | None:
    """Finds out whether a session really runs on CUDA, by running one.

    Args:
        ort: The module ``onnxruntime``.

    Returns:
        None where it does, else why not and how to mend it, one line each.
    """
    if CUDA not in ort.get_available_providers():
        owners = sorted(set(packages_distributions().get("onnxruntime", ())))
        mend = f"Mend it: pip uninstall {' '.join(owners) or 'onnxruntime'}, then pip install onnxruntime-gpu"
        if len(owners) > 1:
            return f"{' and '.join(owners)} are installed side by side and share one folder", mend
        return "the installed ONNX Runtime is built without CUDA", mend
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    if not _loads(driver):
        return f"there is no NVIDIA driver ({driver} cannot be loaded)", "Install the driver of the graphics card"
    with silenced() as said:
        failure = _attempt(ort)
    if failure is None:
        return None
    return _spoken(f"{failure}\n{said.getvalue()}"), 'Install the libraries of CUDA: pip install "onnx-coreset[cuda]"'


def _attempt(ort: Any) -> str | None:
    """Runs one node on CUDA; what went wrong, or None."""
    try:
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(_one_node(), options, providers=[CUDA, CPU], enable_fallback=0)
        if session.get_providers()[0] != CUDA:
            return ""
        session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:
        return str(error)
    return None


def _spoken(said: str) -> str:
    """The one useful line in what the library says when CUDA does not start."""
    missing = re.search(r"([^\s:/]+): cannot open shared object file|Failed to load (\S+):", said)
    if missing:
        return f"{missing[1] or missing[2]} is missing"
    failure = re.search(r"CU(?:DA|DNN|BLAS) failure \d+[^;\n]*", said)
    return one_line(failure[0]) if failure else "it does not start, though it is installed"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _one_node() -> bytes:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    data: bytes = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]
    ).SerializeToString()
    return data
