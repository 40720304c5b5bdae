"""A short run of the fuzzer, and what its long runs found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import fuzz_cases
from api_models import mlp
from fuzz_cases import Case, case, judged
from fuzz_models import Seeded
from fuzz_mutants import ATTACKS
from graph_oddities import base
from onnx_coreset.cli import main
from onnx_coreset.edge import patience

_T = TypeVar("_T")
SEEDS = [seed for seed in range(13) if seed != 9]  # which takes as long as all others
PLAIN = ("--ratio=0.5", "--samples=64", "--provider=cpu", "--certify=off")


class Drawn:
    """Decisions of Hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def integer(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def one(self, options: Sequence[_T]) -> _T:
        return options[self.integer(0, len(options) - 1)]

    def chance(self, share: float) -> bool:
        return self.integer(0, 99) < 100 * share


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_LOOP_SECONDS", 0.5)
    monkeypatch.setattr(fuzz_cases, "_PATIENCE", 0.5)


def fine(made: Case, folder: Path) -> int:
    """The exit code of a run with which nothing is wrong."""
    for path in folder.iterdir():
        path.unlink()
    outcome = judged(made, folder, main)
    assert outcome.problem is None, (made.label, made.arguments, outcome.problem)
    return outcome.code


@settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_is_drawn_ends_well(tmp_path: Path, data: st.DataObject) -> None:
    fine(case(Drawn(data)), tmp_path)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_a_seed_makes_ends_well(seed: int, tmp_path: Path) -> None:
    fine(case(Seeded(np.random.default_rng(seed))), tmp_path)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_end_well(name: str, tmp_path: Path) -> None:
    for seed in range(3):
        model = mlp([6, 20, 16, 4])
        ATTACKS[name](Seeded(np.random.default_rng(seed)), model)
        fine(Case(name, {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path)


def replaced(model: onnx.ModelProto, old: str) -> bytes:
    """The bytes of a model, an ASCII text in it made to be no UTF-8."""
    return model.SerializeToString().replace(old.encode(), b"\xff" * len(old))


@pytest.mark.parametrize("place", ["producer", "words", "graph", "constant"])
def test_words_that_are_not_utf8_are_copied(place: str, tmp_path: Path) -> None:
    model = mlp([6, 20, 16, 4])
    model.producer_name = model.doc_string = model.graph.doc_string = "abcdefgh"
    if place == "graph":
        model.graph.name = "abcdefgh"
    if place == "constant":
        value = helper.make_tensor("abcdefgh", TensorProto.FLOAT, [6, 20], [0.1] * 120)
        model = mlp([6, 20, 16, 4], bias=False)
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w0"], value=value))
        del model.graph.initializer[0]
    if place == "words":
        model.graph.initializer[0].doc_string = "abcdefgh"
    assert fine(Case(place, {"in.onnx": replaced(model, "abcdefgh")}, PLAIN), tmp_path) == 0


def test_two_attributes_of_one_name_hold_different_graphs(tmp_path: Path) -> None:
    model = base()
    graphs = [
        helper.make_graph([helper.make_node("Identity", [k], [f"o{k}"])], k, [], [onnx.ValueInfoProto(name=f"o{k}")])
        for k in "ab"
    ]
    for graph, name in zip(graphs, "ab", strict=True):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [1]))
    node = helper.make_node("Odd", ["x"], ["odd"], domain="own", body=graphs[0])
    node.attribute.append(helper.make_attribute("body", graphs[1]))
    model.graph.node.append(node)
    assert fine(Case("twice", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path) in (0, 3)


def test_declarations_that_contradict_each_other_go_where_the_tensor_is_narrowed(tmp_path: Path) -> None:
    model = base()
    for shape in ([4], ["M", 4]):
        model.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, shape))
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    assert fine(Case("contrary", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path) == 0


def test_a_size_that_is_declared_beside_a_name_for_it_follows_the_tensor(tmp_path: Path) -> None:
    model = base()
    for shape in (["N", "V"], ["M", 4]):
        model.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, shape))
    assert fine(Case("both", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path) == 0
    declared = [value for value in onnx.load(tmp_path / "out.onnx").graph.value_info if value.name == "t"]
    assert [value.type.tensor_type.shape.dim[1] for value in declared] == [
        onnx.TensorShapeProto.Dimension(dim_param="V"),
        onnx.TensorShapeProto.Dimension(dim_value=2),
    ]


def test_an_operator_with_more_outputs_than_it_has_is_no_way(tmp_path: Path) -> None:
    model = base()
    moved = helper.make_node("Transpose", ["h"], ["h2", "h3"], perm=[0, 1])
    model.graph.node.insert(3, moved)
    model.graph.node[4].input[0] = "h2"
    assert fine(Case("outputs", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path) in (0, 3)


def test_an_order_of_axes_that_is_none_is_no_way(tmp_path: Path) -> None:
    model = base()
    model.graph.node.insert(3, helper.make_node("Transpose", ["h"], ["h2"], perm=[0, 0]))
    model.graph.node[4].input[0] = "h2"
    assert fine(Case("order", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path) in (0, 3)


def test_a_bias_that_holds_nothing_is_no_constant(tmp_path: Path) -> None:
    model = mlp([6, 20, 4])
    model.graph.initializer[3].CopyFrom(helper.make_tensor("b1", TensorProto.FLOAT, [4, 0], []))
    assert fine(Case("bias", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path) in (0, 3)


@pytest.mark.parametrize("index", [1, 3], ids=["of the neurons", "of the outputs"])
def test_a_bias_of_another_length_is_no_layers(index: int, tmp_path: Path) -> None:
    model = mlp([6, 20, 4])
    name = model.graph.initializer[index].name
    model.graph.initializer[index].CopyFrom(helper.make_tensor(name, TensorProto.FLOAT, [3], [1, 2, 3]))
    # Nothing runs the model, so nobody else refuses it.
    arguments = ("--ratio=0.3", *PLAIN[1:], "--no-validate")
    assert fine(Case("bias", {"in.onnx": model.SerializeToString()}, arguments), tmp_path) in (0, 3)


def test_an_einsum_runs_on_one_number_where_it_reads_many(tmp_path: Path) -> None:
    model = mlp([6, 20, 4], bias=False)
    model.graph.node[0].CopyFrom(helper.make_node("Einsum", ["x", "w0"], ["t0"], equation="nd,df->nf"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "D"
    arguments = ("--eps=0.2", *PLAIN[1:], "--no-validate", "--no-refit", "--method=norm")
    for more in (arguments, PLAIN):
        assert fine(Case("einsum", {"in.onnx": model.SerializeToString()}, more), tmp_path) == 0


@pytest.mark.parametrize("size", [2**40, 2**62])
def test_an_input_beyond_all_memory_is_not_drawn(size: int, tmp_path: Path) -> None:
    model = mlp([6, 20, 16, 4])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    assert fine(Case("large", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path) == 0


def test_a_target_shape_without_an_axis_ends_well(tmp_path: Path) -> None:
    model = mlp([6, 20, 16, 4])
    model.graph.initializer.append(helper.make_tensor("flat", TensorProto.INT64, [], [-1]))
    bias = model.graph.node[0].input[2]
    model.graph.node[0].input[2] = "moved"
    model.graph.node.insert(0, helper.make_node("Reshape", [bias, "flat"], ["moved"]))
    fine(Case("scalar target", {"in.onnx": model.SerializeToString()}, PLAIN), tmp_path)
