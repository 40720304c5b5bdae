"""Writes a trained model as ONNX and measures, with ONNX Runtime, what was written."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from scipy.special import logsumexp
from torch import nn

OPSET = 17
LATEST_IR = 10


def to_onnx(
    model: nn.Module, example: torch.Tensor, input_name: str, output_name: str, axes: Sequence[str] = ("N",)
) -> onnx.ModelProto:
    """Exports a model with PyTorch's TorchScript exporter, whose graphs are the plain ones; leading axes are dynamic.

    Args:
        model: The model, in evaluation mode, of one input and one output.
        example: One batch of inputs.
        input_name: Name of the graph's input.
        output_name: Name of the graph's output.
        axes: Names of the dynamic axes, the first ones of input and output.
    """
    dynamic = dict(enumerate(axes))
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
            dynamic_axes={input_name: dynamic, output_name: dynamic},
        )
        proto = onnx.load(f"{folder}/model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    if proto.ir_version > LATEST_IR:
        raise SystemExit(f"the exporter wrote IR version {proto.ir_version}, and the models keep to {LATEST_IR}")
    return proto


def run(path: Path, inputs: npt.NDArray[np.generic], batch_size: int = 256) -> npt.NDArray[np.float32]:
    """Returns a model's logits (N, ..., classes) of inputs (N, ...), by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Returns the share of labels (N, ...) that are the place of the largest of their logits (N, ..., classes)."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def cross_entropy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Returns the mean over labels (N, ...) of -log of the probability their logits (N, ..., classes) give, in nats."""
    wide = logits.astype(np.float64)
    chosen = np.take_along_axis(wide, labels[..., None], axis=-1)[..., 0]
    return float(np.mean(logsumexp(wide, axis=-1) - chosen))
