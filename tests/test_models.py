"""The trained models of `models/`: they run at every size they declare, and are what their README says they are."""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from scipy.special import log_softmax

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "models"
README = (FOLDER / "README.md").read_text("utf-8")
FIGURES: dict[str, dict[str, Any]] = json.loads((FOLDER / "accuracy.json").read_text("utf-8"))
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.onnx")))
LARGEST_FILE = 4 * 2**20
CONTEXT = 64
SIZES = {"N": (1, 3, 8), "T": (1, 2, 17, CONTEXT)}
# Logits of one sample, computed with other neighbours: sums of float32 in another order.
ROUNDING = 1e-4

every_model = pytest.mark.parametrize("name", NAMES)


@cache
def model(name: str) -> onnx.ModelProto:
    return onnx.load(FOLDER / f"{name}.onnx")


@cache
def session(name: str) -> ort.InferenceSession:
    return ort.InferenceSession(str(FOLDER / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def logits(name: str, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(session(name).run(None, {session(name).get_inputs()[0].name: inputs})[0])


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def inputs_of(name: str, sizes: dict[str, int], seed: int = 0) -> np.ndarray:
    """Random inputs of a model: pixels in [0, 1], or tokens of the vocabulary."""
    rng = np.random.default_rng(seed)
    (declared,) = model(name).graph.input
    numbers = [size if isinstance(size, int) else sizes[size] for size in shape(declared)]
    if declared.type.tensor_type.elem_type == onnx.TensorProto.INT64:
        return rng.integers(0, shape(model(name).graph.output[0])[-1], numbers)
    return rng.random(numbers, np.float32)


def occurrences(name: str, operators: str) -> int:
    """How often a model's nodes, constants left out, run through these operator types in a row."""
    kinds = [node.op_type for node in model(name).graph.node if node.op_type not in ("Constant", "Identity")]
    return f" {' '.join(kinds)} ".count(f" {operators} ")


@cache
def text() -> ModuleType:
    """The module that writes the language model's text; it needs numpy alone."""
    spec = spec_from_file_location("training_text", ROOT / "tools" / "training" / "text.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its types
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_network_is_there() -> None:
    assert set(NAMES) >= {"lenet_300_100", "lenet_300_100_fashion", "gelu_transformer", "swiglu_digits"}


def test_the_figures_are_those_of_the_models_that_are_there() -> None:
    assert tuple(sorted(FIGURES)) == NAMES


@every_model
def test_it_passes_the_checker(name: str) -> None:
    onnx.checker.check_model(model(name), full_check=True)


@every_model
def test_it_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.onnx").stat().st_size < LARGEST_FILE


@every_model
def test_it_is_of_opset_17_and_of_an_ir_that_old_runtimes_read(name: str) -> None:
    assert {entry.domain: entry.version for entry in model(name).opset_import} == {"": 17}
    assert model(name).ir_version <= 10


@every_model
def test_it_names_no_folder_of_the_machine_that_made_it(name: str) -> None:
    assert not any(node.doc_string for node in model(name).graph.node)
    assert b"/home/" not in model(name).SerializeToString() and b".py" not in model(name).SerializeToString()


@every_model
def test_the_readme_says_what_it_is_and_how_good(name: str) -> None:
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{name}.onnx`")]
    figures = FIGURES[name]
    assert f"{100 * figures['accuracy']:.2f} %" in row
    assert "loss" not in figures or f"{figures['loss']:.3f}" in row
    assert row.split("|")[-2].strip() == str(figures["seed"])


@every_model
def test_it_runs_at_every_size_it_declares(name: str) -> None:
    (declared,), (returned,) = model(name).graph.input, model(name).graph.output
    free = [size for size in shape(declared) if isinstance(size, str)]
    assert free and set(free) <= set(SIZES)
    for numbers in product(*(SIZES[size] for size in free)):
        sizes = dict(zip(free, numbers, strict=True))
        found = logits(name, inputs_of(name, sizes))
        assert list(found.shape) == [sizes.get(str(size), size) for size in shape(returned)]
        assert np.isfinite(found).all()


@every_model
def test_a_sample_has_the_logits_it_has_alone(name: str) -> None:
    inputs = inputs_of(name, {"N": 5, "T": 20}, seed=1)
    alone = np.concatenate([logits(name, inputs[place : place + 1]) for place in range(len(inputs))])
    np.testing.assert_allclose(logits(name, inputs), alone, rtol=ROUNDING, atol=ROUNDING)


def test_the_transformer_has_three_layers_with_a_decomposed_gelu() -> None:
    feed_forward = "LayerNormalization MatMul Add Div Erf Add Mul Mul MatMul Add Add"
    assert occurrences("gelu_transformer", feed_forward) == 3


def test_the_gated_network_has_three_layers_with_a_decomposed_silu() -> None:
    assert occurrences("swiglu_digits", "MatMul Sigmoid Mul MatMul Mul MatMul Add") == 3


def test_no_token_of_the_transformer_sees_a_later_one() -> None:
    tokens = inputs_of("gelu_transformer", {"N": 2, "T": 40}, seed=2)
    whole, prefix = logits("gelu_transformer", tokens), logits("gelu_transformer", tokens[:, :13])
    np.testing.assert_allclose(whole[:, :13], prefix, rtol=ROUNDING, atol=ROUNDING)


def test_the_transformer_says_what_its_tokens_are() -> None:
    assert {entry.key: entry.value for entry in model("gelu_transformer").metadata_props} == {
        "alphabet": text().ALPHABET,
        "context": str(CONTEXT),
    }


def test_the_loss_of_the_transformer_is_the_one_noted_and_far_below_that_of_single_characters() -> None:
    figures = FIGURES["gelu_transformer"]
    inputs, labels = text().windows(text().write_text(figures["seed"]).held_out)
    assert labels.size == figures["test_samples"]
    chosen = np.take_along_axis(log_softmax(logits("gelu_transformer", inputs), axis=-1), labels[..., None], axis=-1)
    assert -chosen.mean(dtype=np.float64) == pytest.approx(figures["loss"], abs=1e-3)
    assert text().unigram_entropy(labels.ravel()) == pytest.approx(figures["unigram_entropy"], abs=1e-9)
    assert figures["loss"] < 0.4 * figures["unigram_entropy"]


def test_the_text_is_the_same_every_time_and_its_held_out_part_is_new() -> None:
    text_module = text()
    written, again = text_module.write_text(0), text_module.write_text(0)
    lines = [
        "".join(text_module.ALPHABET[token] for token in part).splitlines()
        for part in (written.train, written.held_out)
    ]
    np.testing.assert_array_equal(written.train, again.train)
    assert not set(lines[0]) & set(lines[1])
    assert max(map(len, lines[0])) > CONTEXT > np.mean([len(line) for line in lines[0]])
