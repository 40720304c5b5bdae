"""What exporters and optimisers make of feed-forward blocks: every one is found, named and cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_coreset
from onnx_coreset.edge.runtime import Session, choose
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.space import Space, spaces

FOLDER = Path(__file__).parent / "data" / "variants"
PATHS = sorted(FOLDER.glob("*.onnx"))
WIDTH = 16
ACTIVATIONS = {
    "gelu": "Gelu",
    "gelu_tanh": "GeluTanh",
    "silu": "Silu",
    "relu": "Relu",
    "mish": "Mish",
    "hardswish": "HardSwish",
    "batch_norm": "Gelu",
    "swiglu": "Silu",
    "geglu": "Gelu",
    "swiglu_fused": "Silu",
    "flat": "Relu",
}
every_variant = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def only(model: onnx.ModelProto) -> tuple[Space, str, str]:
    document = decode(model)
    (space,) = [s for s in spaces(document) if isinstance(s, Space)]
    features = read(document, space).readouts[0].features
    activation = features.gate.activation if features.name == "gated" else features.activation  # type: ignore[attr-defined]
    return space, features.name, activation.name


def test_the_folder_holds_small_files_of_every_kind() -> None:
    assert {path.stem.split("-")[0] for path in PATHS} == set(ACTIVATIONS)
    assert all(path.stat().st_size < 20_000 for path in PATHS)


@every_variant
def test_the_hidden_layer_is_found_and_its_activation_named(path: Path) -> None:
    kind = path.stem.split("-")[0]
    space, features, activation = only(onnx.load(path))
    assert (space.width, activation) == (WIDTH, ACTIVATIONS[kind])
    assert features == ("gated" if "glu" in kind else "neurons")


@every_variant
def test_half_of_the_layer_goes_and_sizes_stay_free(path: Path) -> None:
    result = onnx_coreset.optimize(path, ratio=0.5, samples=256)
    (chain,) = [c for c in result.report.chains if c.status == "pruned"]
    assert (chain.width_before, chain.width_after) == (WIDTH, WIDTH // 2)
    assert result.report.validation.passed
    onnx.checker.check_model(result.model, full_check=True)
    before, after = onnx.load(path), result.model
    assert [o.name for o in before.graph.output] == [o.name for o in after.graph.output]
    assert before.graph.input == after.graph.input
    sessions = [Session(model, choose("cpu"), threads=1) for model in (before, after)]
    for rows, length in ((2, 3), (5, 1), (1, 7)):
        x = np.zeros((rows, 3 if "flat" in path.stem else length, 6), "f4")
        shapes = [[v.shape for v in session.run({"x": x}).values()] for session in sessions]
        assert shapes[0] == shapes[1]


@every_variant
def test_what_was_cut_is_one_layer_of_half_the_width(path: Path) -> None:
    once = onnx_coreset.optimize(path, ratio=0.5, samples=256).model
    space, _, _ = only(once)
    assert space.width == WIDTH // 2
    again = onnx_coreset.optimize(once, ratio=1.0)
    assert again.model == once
