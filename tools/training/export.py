"""Writes a trained model as ONNX and measures, with ONNX Runtime, what was written."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

OPSET = 17
LATEST_IR = 10


def to_onnx(model: nn.Module, example: torch.Tensor, input_name: str, output_name: str) -> onnx.ModelProto:
    """Exports a model with PyTorch's TorchScript exporter, whose graphs are the plain ones; the first axis is dynamic.

    Args:
        model: The model, in evaluation mode, of one input and one output.
        example: One batch of inputs; its first axis becomes the dynamic axis "N".
        input_name: Name of the graph's input.
        output_name: Name of the graph's output.
    """
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (example,),
            f"{folder}/model.onnx",
            dynamo=False,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_axes={input_name: {0: "N"}, output_name: {0: "N"}},
        )
        proto = onnx.load(f"{folder}/model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    if proto.ir_version > LATEST_IR:
        raise SystemExit(f"the exporter wrote IR version {proto.ir_version}, and the models keep to {LATEST_IR}")
    return proto


def onnx_accuracy(path: Path, inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Returns the share of inputs (N, ...) whose largest logit, by ONNX Runtime on the CPU, is its label's (N,)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return float(np.mean(np.asarray(logits).argmax(axis=1) == labels))
