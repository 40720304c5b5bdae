"""Write what exporters and optimisers make of small feed-forward blocks.

    python tools/export_variants.py OUT [--width N]

Every block is exported by torch's legacy exporter (opset 17) and by its dynamo exporter (opset 20), and each file again
after `onnxsim.simplify` and after ONNX Runtime's offline optimisation, basic and extended. What does not run here is
named and left out. Needs torch; the project's tests read a few small files made by it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import nn

DIM = 6
BATCH, LENGTH = 2, 3


class Block(nn.Module):
    """A norm, a feed-forward pair with an activation and dropout between, and a residual connection."""

    def __init__(self, activation: nn.Module, width: int, normalise: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.up = nn.Linear(DIM, width)
        self.inner = nn.BatchNorm1d(width) if normalise else None
        self.activation = activation
        self.dropout = nn.Dropout(0.1)
        self.down = nn.Linear(width, DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.up(self.norm(x))
        if self.inner is not None:
            hidden = self.inner(hidden.transpose(1, 2)).transpose(1, 2)
        return x + self.down(self.dropout(self.activation(hidden)))


class Gated(nn.Module):
    """A norm and a gated pair: two products of the same input, or one that is split."""

    def __init__(self, activation: nn.Module, width: int, fused: bool, bias: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.fused = nn.Linear(DIM, 2 * width, bias=bias) if fused else None
        self.gate = None if fused else nn.Linear(DIM, width, bias=bias)
        self.up = None if fused else nn.Linear(DIM, width, bias=bias)
        self.activation = activation
        self.down = nn.Linear(width, DIM, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        gate, up = self.fused(y).chunk(2, dim=-1) if self.fused is not None else (self.gate(y), self.up(y))
        return x + self.down(self.activation(gate) * up)


class Flat(nn.Module):
    """A pair on rank 2 with a BatchNorm of its own and a flattening in front."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(1),
            nn.Linear(LENGTH * DIM, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(width, 4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "gelu": lambda n: Block(nn.GELU(), n),
    "gelu_tanh": lambda n: Block(nn.GELU(approximate="tanh"), n),
    "silu": lambda n: Block(nn.SiLU(), n),
    "relu": lambda n: Block(nn.ReLU(), n),
    "mish": lambda n: Block(nn.Mish(), n),
    "hardswish": lambda n: Block(nn.Hardswish(), n),
    "batch_norm": lambda n: Block(nn.GELU(), n, normalise=True),
    "swiglu": lambda n: Gated(nn.SiLU(), n, fused=False, bias=False),
    "geglu": lambda n: Gated(nn.GELU(), n, fused=False, bias=True),
    "swiglu_fused": lambda n: Gated(nn.SiLU(), n, fused=True, bias=False),
    "flat": Flat,
}


def exported(block: nn.Module, path: Path, dynamo: bool) -> None:
    """Export one block to `path`."""
    x = torch.randn(BATCH, LENGTH, DIM)
    block = block.eval()
    flat = isinstance(block, Flat)
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            axes = {"x": {0: torch.export.Dim("batch")} | ({} if flat else {1: torch.export.Dim("length")})}
            program = torch.onnx.export(
                block, (x,), dynamo=True, opset_version=20, dynamic_shapes=axes, input_names=["x"], output_names=["y"]
            )
            program.save(path, external_data=False)
        else:
            names = {0: "batch"} | ({} if flat else {1: "length"})
            torch.onnx.export(
                block, (x,), path, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
                dynamic_axes={"x": names},
            )  # fmt: skip
    model = onnx.load(path)
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    onnx.save(model, path)


def simplified(source: Path, target: Path) -> None:
    """Run onnxsim."""
    import onnxsim

    model, checked = onnxsim.simplify(onnx.load(source))
    if not checked:
        raise RuntimeError("onnxsim's own check failed")
    onnx.save(model, target)


def optimised(level: str) -> Callable[[Path, Path], None]:
    """Return a pass of ONNX Runtime's offline optimisation."""

    def apply(source: Path, target: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return apply


PASSES: dict[str, Callable[[Path, Path], None]] = {
    "simplified": simplified,
    "basic": optimised("BASIC"),
    "extended": optimised("EXTENDED"),
}


def variants(out: Path, width: int) -> Iterator[tuple[str, str]]:
    """Write every variant; yield its name and what went wrong, or ""."""
    for name, make in BLOCKS.items():
        for exporter, dynamo in (("legacy", False), ("dynamo", True)):
            torch.manual_seed(0)
            stem = f"{name}-{exporter}"
            source = out / f"{stem}.onnx"
            try:
                exported(make(width), source, dynamo)
            except Exception as error:
                yield stem, f"{type(error).__name__}: {error}".splitlines()[0][:150]
                continue
            yield stem, ""
            for way, apply in PASSES.items():
                try:
                    apply(source, out / f"{stem}-{way}.onnx")
                except Exception as error:
                    yield f"{stem}-{way}", f"{type(error).__name__}: {error}".splitlines()[0][:150]
                else:
                    yield f"{stem}-{way}", ""


def main() -> int:
    """Write all variants to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=16, help="hidden width of every block")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, wrong in variants(arguments.out, arguments.width):
        failed += bool(wrong)
        print(f"{name}: {wrong or 'written'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
