"""Sorting: any order of the nodes gives a model in which every node can run, or one clear line why there is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graph_oddities import ODDITIES, base, info
from onnx_coreset.errors import ModelError
from onnx_coreset.graph.model.order import in_order

SORTABLE = ["annotations", "branch", "constants", "dtypes", "functions", "loop", "old", "sparse", "types", "values"]


def shuffled(model: onnx.ModelProto, order: list[int]) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.node[:]
    copy.graph.node.extend(model.graph.node[i] for i in order)
    return copy


def captured(graph: onnx.GraphProto) -> set[str]:
    """Return every name that a graph's nodes read at any depth: what they capture is among them."""
    found = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for attribute in node.attribute:
            found |= captured(attribute.g) if attribute.HasField("g") else set()
    return found | {value.name for value in graph.output}


def assert_sorted(model: onnx.ModelProto) -> None:
    made = [set(node.output) - {""} for node in model.graph.node]
    for index, node in enumerate(model.graph.node):
        reads = set(node.input).union(*[captured(a.g) for a in node.attribute if a.HasField("g")])
        assert not reads & set().union(*made[index + 1 :]), node.output


@given(st.lists(st.sampled_from(SORTABLE), unique=True), st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_order_is_sorted_and_nothing_else_changes(names: list[str], data: st.DataObject) -> None:
    model = base()
    for name in names:
        ODDITIES[name](model)
    mixed = shuffled(model, data.draw(st.permutations(range(len(model.graph.node)))))
    before = mixed.SerializeToString(deterministic=True)
    result = in_order(mixed)
    assert_sorted(result)
    assert mixed.SerializeToString(deterministic=True) == before
    again = sorted(n.SerializeToString(deterministic=True) for n in result.graph.node)
    assert again == sorted(n.SerializeToString(deterministic=True) for n in model.graph.node)
    del result.graph.node[:], mixed.graph.node[:]
    assert result == mixed


@pytest.mark.parametrize("name", SORTABLE)
def test_a_sorted_model_is_returned_as_it_is(name: str) -> None:
    model = base()
    ODDITIES[name](model)
    assert in_order(model) is model


def test_ties_keep_the_order_they_had() -> None:
    model = base()
    for i in (3, 1, 2):
        model.graph.node.append(helper.make_node("Relu", ["x"], [f"r{i}"]))
    mixed = shuffled(model, [3, 4, 5, 6, 0, 1, 2])
    assert [n.output[0] for n in in_order(mixed).graph.node] == ["r3", "r1", "r2", "t", "u", "h", "y"]


def test_a_subgraph_is_sorted_too_and_what_it_captures_comes_first() -> None:
    nodes = [helper.make_node("Relu", ["inner"], ["out"]), helper.make_node("Neg", ["h"], ["inner"])]
    body = helper.make_graph(nodes, "body", [], [info("out")])
    model = base()
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model.graph.node.insert(0, helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body))
    result = in_order(model)
    assert [n.op_type for n in result.graph.node] == ["MatMul", "Add", "Relu", "If", "MatMul"]
    for attribute in result.graph.node[3].attribute:
        assert [n.output[0] for n in attribute.g.node] == ["inner", "out"]


def test_an_outer_tensor_may_be_the_output_of_a_branch() -> None:
    model = base()
    branch = helper.make_graph([], "b", [], [info("h")])
    model.graph.node.insert(0, helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch))
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    assert [n.op_type for n in in_order(model).graph.node] == ["MatMul", "Add", "Relu", "If", "MatMul"]


def with_nodes(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    model = base()
    model.graph.node.extend(nodes)
    return model


def branching(*nodes: onnx.NodeProto) -> onnx.NodeProto:
    body = helper.make_graph(list(nodes), "body", [], [info(nodes[-1].output[0])])
    return helper.make_node("If", ["x"], ["i"], then_branch=body, else_branch=body)


NODE = helper.make_node
REFUSED = {
    "itself": (with_nodes(NODE("Relu", ["a"], ["a"])), "cycle"),
    "two": (with_nodes(NODE("Relu", ["a"], ["b0"]), NODE("Relu", ["b0"], ["a"])), "cycle"),
    "dangling": (with_nodes(NODE("Relu", ["ghost"], ["a"])), "ghost"),
    "dangling inside": (with_nodes(branching(NODE("Relu", ["ghost"], ["o"]))), "ghost"),
    "cycle inside": (with_nodes(branching(NODE("Add", ["b1", "x"], ["a"]), NODE("Relu", ["a"], ["b1"]))), "cycle"),
    "through a subgraph": (
        with_nodes(branching(NODE("Relu", ["late"], ["o"])), NODE("Relu", ["i"], ["late"])),
        "cycle",
    ),
    "its own subgraph": (with_nodes(branching(NODE("Relu", ["i"], ["o"]))), "cycle"),
    "nameless weights": (with_nodes(NODE("MatMul", ["x", "K"], ["a"])), "K"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_cycle_or_a_loose_end_is_refused_in_one_line(name: str) -> None:
    model, word = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        in_order(model)
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_a_long_chain_in_reverse_is_sorted_without_recursion() -> None:
    model = base()
    for i in range(3000):
        model.graph.node.append(NODE("Relu", ["x" if i == 0 else f"r{i - 1}"], [f"r{i}"]))
    result = in_order(shuffled(model, list(reversed(range(len(model.graph.node))))))
    assert_heads(result)


def assert_heads(model: onnx.ModelProto) -> None:
    seen = {value.name for value in model.graph.input} | {t.name for t in model.graph.initializer}
    for node in model.graph.node:
        assert set(node.input) <= seen
        seen |= set(node.output)


def test_a_sparse_weight_is_known() -> None:
    model = base()
    values = numpy_helper.from_array(np.ones(2, "f4"), "sparse")
    indices = numpy_helper.from_array(np.arange(2), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    model.graph.node.append(NODE("Add", ["t", "sparse"], ["s"]))
    assert in_order(model) is model
