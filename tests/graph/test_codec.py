"""The codec: what is not edited comes back byte for byte, and an edit changes what it says and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper

from graph_oddities import ODDITIES, base, info, models, weights
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document, Scope

NEW = np.full((3, 4), 7, "f4")
every_oddity = pytest.mark.parametrize("name", sorted(ODDITIES))


def odd(*names: str) -> onnx.ModelProto:
    model = base()
    for name in names:
        ODDITIES[name](model)
    return model


def exact(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def node(document: Document, output: str) -> gs.Node:
    return next(n for _, n in document.nodes() if any(t.name == output for t in n.outputs))


def scope(document: Document, output: str) -> Scope:
    return next(s for s, n in document.nodes() if any(t.name == output for t in n.outputs))


def message(graph: onnx.GraphProto, output: str) -> onnx.NodeProto:
    return next(n for n in graph.node if output in n.output)


def initializer(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    (found,) = [t for t in graph.initializer if t.name == name]
    return found


def numbers(graph: onnx.GraphProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(initializer(graph, name))


@given(models())
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_is_decoded_is_encoded_to_the_same_bytes(model: onnx.ModelProto) -> None:
    before = exact(model)
    after = encode(decode(model))
    assert exact(after) == before
    assert exact(model) == before


@every_oddity
def test_every_oddity_alone_survives(name: str) -> None:
    model = odd(name)
    assert exact(encode(decode(model))) == exact(model)
    assert exact(encode(decode(model, constant_inputs=True))) == exact(model)


@every_oddity
def test_a_document_that_is_spent_gives_the_same_model(name: str) -> None:
    model = odd(name)
    found = []
    for spent in (False, True):
        document = decode(model)
        document.assign(document.graph.nodes[0], 1, NEW)
        found.append(exact(encode(document, spent)))
    assert found[0] == found[1]
    assert exact(model) == exact(odd(name))


@pytest.mark.parametrize("place", ["model", "graph", "initializer"])
def test_fields_of_a_later_onnx_survive_an_edit(place: str) -> None:
    model = base()
    part = {"model": model, "graph": model.graph, "initializer": model.graph.initializer[-1]}[place]
    later = b"\xc0\x3e\x01"  # field 1000 is 1
    part.MergeFromString(later)
    document = decode(model)
    document.assign(document.graph.nodes[0], 1, NEW)
    assert exact(encode(decode(model))) == exact(model)
    assert later in exact(encode(document))


@every_oddity
def test_an_edit_changes_one_tensor_and_no_other_byte(name: str) -> None:
    model = odd(name)
    before = exact(model)
    document = decode(model)
    first = document.graph.nodes[0]
    document.assign(first, 1, NEW)
    after = encode(document)
    assert exact(model) == before
    stored = [t for t in after.graph.initializer if t.name == first.inputs[1].name]
    assert all(np.array_equal(numpy_helper.to_array(t), NEW) for t in stored) and stored
    for tensor in stored:
        tensor.CopyFrom(next(t for t in model.graph.initializer if t.name == "W"))
    if name != "duplicates":
        assert exact(after) == before


@every_oddity
def test_nothing_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    encode(decode(odd(name)))
    assert capfd.readouterr() == ("", "")


def test_an_edited_tensor_keeps_its_doc_string_and_metadata() -> None:
    model = odd("annotations")
    model.graph.initializer[0].doc_string = "weights"
    document = decode(model)
    document.assign(node(document, "t"), 1, NEW[:, :2])
    stored = initializer(encode(document).graph, "W")
    assert (stored.doc_string, stored.metadata_props[0].key, list(stored.dims)) == ("weights", "k", [3, 2])


def test_a_shared_tensor_is_copied_for_the_reader_that_changes() -> None:
    model = base()
    model.graph.node.append(helper.make_node("MatMul", ["x", "W"], ["second"]))
    document = decode(model)
    document.assign(node(document, "t"), 1, NEW)
    after = encode(document)
    assert list(message(after.graph, "t").input) == ["x", "W_1"]
    assert list(message(after.graph, "second").input) == ["x", "W"]
    assert np.array_equal(numbers(after.graph, "W_1"), NEW)
    assert np.array_equal(numbers(after.graph, "W"), numbers(model.graph, "W"))


def test_when_every_reader_has_a_copy_the_original_goes() -> None:
    model = base()
    model.graph.node.append(helper.make_node("MatMul", ["x", "W"], ["second"]))
    document = decode(model)
    document.assign(node(document, "t"), 1, NEW)
    document.assign(node(document, "second"), 1, NEW + 1)
    after = encode(document)
    assert np.array_equal(numbers(after.graph, "W_1"), NEW)
    assert np.array_equal(numbers(after.graph, "W"), NEW + 1)
    assert len(after.graph.initializer) == 4


def test_a_tensor_that_is_an_output_is_left_alone() -> None:
    model = base()
    model.graph.output.append(info("W", 3, 4))
    document = decode(model)
    document.assign(node(document, "t"), 1, NEW)
    after = encode(document)
    assert np.array_equal(numbers(after.graph, "W"), numbers(model.graph, "W"))
    assert np.array_equal(numbers(after.graph, "W_1"), NEW)


def test_an_initializer_that_lost_its_reader_goes_with_its_declarations() -> None:
    model = odd("old", "values", "duplicates")
    document = decode(model)
    removed = node(document, "y")
    removed.inputs[1] = gs.Constant("other", np.ones((4, 2), "f4"))
    after = encode(document)
    for field in (after.graph.initializer, after.graph.input, after.graph.value_info):
        assert "V" not in [entry.name for entry in field]
    # What nobody ever read is not ours to remove.
    assert "unused" in [t.name for t in after.graph.initializer]
    assert np.array_equal(numbers(after.graph, "other"), np.ones((4, 2)))


def test_a_new_initializer_of_an_old_model_is_an_input_too() -> None:
    model = odd("old")
    model.graph.node.append(helper.make_node("MatMul", ["x", "W"], ["second"]))
    document = decode(model)
    document.assign(node(document, "t"), 1, NEW)
    after = encode(document)
    (value,) = [v for v in after.graph.input if v.name == "W_1"]
    assert value == helper.make_tensor_value_info("W_1", TensorProto.FLOAT, [3, 4])


def test_the_declared_shape_of_an_old_models_weights_follows_them() -> None:
    document = decode(odd("old"))
    document.assign(node(document, "t"), 1, NEW[:, :3])
    (value,) = [v for v in encode(document).graph.input if v.name == "W"]
    assert value == info("W", 3, 3)


def test_declarations_beside_a_name_follow_a_tensor_along_every_axis() -> None:
    model = base()
    model.graph.value_info.extend(info("u", *shape) for shape in (("N", "w"), ("N", 4), (9, 4), (2, 9, 4)))
    document = decode(model)
    tensor = document.scopes[0].tensors["u"]
    for axis, size in ((-1, 3), (-2, 5)):
        document.shapes.narrow(tensor, axis, size)
    found = [value for value in encode(document).graph.value_info if value.name == "u"]
    # What has another rank contradicts the others, and is nobody's to correct.
    assert found[-4:] == [info("u", *shape) for shape in (("N", "w"), ("N", 3), (5, 3), (2, 9, 4))]


@pytest.mark.parametrize("ir, constant_inputs, changes", [(10, False, True), (10, True, False), (3, False, False)])
def test_what_a_caller_may_override_is_not_constant(ir: int, constant_inputs: bool, changes: bool) -> None:
    model = odd("old")
    model.ir_version = ir
    document = decode(model, constant_inputs)
    assert (document.constant(node(document, "t").inputs[1]) is None) == changes
    assert (document.constant_shape(node(document, "t").inputs[1]) is None) == changes


@pytest.mark.parametrize(
    "attribute",
    [{"value": weights("inside")}, {"value_floats": [1.0, 2.0, 3.0]}, {"value_ints": [1, 2, 3]}, {"value_float": 2.0}],
)
def test_a_constant_node_takes_new_numbers(attribute: dict[str, object]) -> None:
    model = base()
    del model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["W"], name="held", doc_string="d", **attribute))
    document = decode(model)
    first = node(document, "t")
    old = document.constant(first.inputs[1])
    assert old is not None and old.shape == document.constant_shape(first.inputs[1])
    document.assign(first, 1, NEW)
    assert np.array_equal(document.constant(first.inputs[1]), NEW)
    after = encode(document)
    held = after.graph.node[0]
    assert (held.name, held.doc_string, len(held.attribute)) == ("held", "d", 1)
    assert np.array_equal(numpy_helper.to_array(held.attribute[0].t), NEW)
    assert held.attribute[0].t.name == ("inside" if "value" in attribute else "")
    assert after.graph.node[1:] == model.graph.node[1:] and after.graph.initializer == model.graph.initializer


def test_a_shared_constant_node_is_left_to_its_other_readers() -> None:
    model = base()
    del model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=weights()))
    model.graph.node.append(helper.make_node("MatMul", ["x", "W"], ["second"]))
    document = decode(model)
    document.assign(node(document, "second"), 1, NEW)
    after = encode(document)
    assert after.graph.node[0] == model.graph.node[0]
    assert np.array_equal(numbers(after.graph, message(after.graph, "second").input[1]), NEW)


def test_many_constant_nodes_and_new_tensors_keep_their_own_numbers() -> None:
    # A node's old constant is dropped by the edit; what is made later must not be taken for it.
    model = base()
    for i in range(40):
        model.graph.node.append(helper.make_node("Constant", [], [f"c{i}"], value=weights()))
        model.graph.node.append(helper.make_node("MatMul", ["x", f"c{i}"], [f"p{i}"]))
        model.graph.node.append(helper.make_node("MatMul", ["x", "W"], [f"q{i}"]))
    document = decode(model)
    for i in range(40):
        document.assign(node(document, f"p{i}"), 1, NEW + i)
        document.assign(node(document, f"q{i}"), 1, NEW - i)
    after = encode(document)
    for i in range(40):
        held = message(after.graph, f"c{i}").attribute[0].t
        assert np.array_equal(numpy_helper.to_array(held), NEW + i)
        assert np.array_equal(numbers(after.graph, message(after.graph, f"q{i}").input[1]), NEW - i)


def test_a_subgraph_edits_what_it_captures_where_it_is_held() -> None:
    model = odd("loop")
    document = decode(model)
    assert document.shared(node(document, "next"), 1)
    document.assign(node(document, "u"), 1, np.full(4, 2, "f4"))
    document.assign(node(document, "next"), 1, np.full(4, 3, "f4"))
    after = encode(document)
    body = message(after.graph, "looped").attribute[0].g
    assert np.array_equal(numbers(after.graph, message(after.graph, "u").input[1]), np.full(4, 2))
    assert list(message(body, "next").input) == ["carried", "b"]
    assert np.array_equal(numbers(after.graph, "b"), np.full(4, 3))


def test_a_copy_for_a_reader_in_a_subgraph_lives_in_the_subgraph() -> None:
    model = odd("loop")
    document = decode(model)
    document.assign(node(document, "next"), 1, np.full(4, 3, "f4"))
    after = encode(document)
    body = message(after.graph, "looped").attribute[0].g
    assert np.array_equal(numbers(body, message(body, "next").input[1]), np.full(4, 3))
    assert np.array_equal(numbers(after.graph, "b"), np.ones(4))
    assert body.node[1:] == message(model.graph, "looped").attribute[0].g.node[1:]


def test_an_edit_inside_a_subgraph_survives_a_node_inserted_outside() -> None:
    document = decode(odd("branch"))
    document.assign(node(document, "else"), 1, NEW)
    _insert(document, "u")
    after = encode(document)
    (other,) = [a.g for a in message(after.graph, "i").attribute if a.name == "else_branch"]
    assert np.array_equal(numbers(other, "K"), NEW)


def _insert(document: Document, after: str) -> None:
    nodes = scope(document, after).graph.nodes
    source = node(document, after)
    added = gs.Node("Neg", name="new", inputs=[source.outputs[0]], outputs=[gs.Variable("negative")])
    nodes.insert(next(i for i, n in enumerate(nodes) if n is source) + 1, added)


def test_a_new_node_stands_where_it_was_put() -> None:
    model = odd("attributes", "constants")
    document = decode(model)
    _insert(document, "u")
    after = encode(document)
    place = [n.output[0] for n in after.graph.node].index("negative")
    assert after.graph.node[place - 1].output[0] == "u"
    del after.graph.node[place]
    assert exact(after) == exact(model)


def test_a_changed_attribute_leaves_the_others_as_they_were() -> None:
    model = odd("attributes")
    document = decode(model)
    node(document, "odd").attrs["nan"] = 1.5
    after = message(encode(document).graph, "odd")
    before = message(model.graph, "odd")
    assert [a for a in after.attribute if a.name != "nan"] == [a for a in before.attribute if a.name != "nan"]
    assert next(a.f for a in after.attribute if a.name == "nan") == 1.5


def test_a_new_shape_keeps_symbols_and_denotations() -> None:
    model = odd("values")
    document = decode(model)
    tensor = node(document, "h").outputs[0]
    tensor.shape = ["N", 3]
    after = encode(document)
    (old,) = [v for v in model.graph.value_info if v.name == "h"]
    (new,) = [v for v in after.graph.value_info if v.name == "h"]
    assert new.type.tensor_type.shape.dim[0].dim_param == "N"
    assert new.type.tensor_type.shape.dim[1].dim_value == 3
    old.type.tensor_type.shape.dim[1].dim_value = 3
    assert new == old
    assert next(v for v in after.graph.value_info if v.name == "u") == info("u", None, "width")


@pytest.mark.parametrize("index, names", [(2, ["u", "W", "odd_constant"]), (1, ["u", "odd_constant"])])
def test_a_missing_input_is_filled_and_those_before_it_stay_empty(index: int, names: list[str]) -> None:
    model = base()
    model.graph.node.append(
        helper.make_node("Odd", ["u", "W", ""][: index + 1 if index == 2 else 1], ["odd"], domain="own")
    )
    document = decode(model)
    document.assign(node(document, "odd"), index, NEW)
    after = encode(document)
    assert list(message(after.graph, "odd").input) == names
    assert np.array_equal(numbers(after.graph, "odd_constant"), NEW)


def test_an_input_far_past_the_end_leaves_empty_ones_before_it() -> None:
    document = decode(base())
    document.assign(node(document, "h"), 3, NEW)
    assert list(message(encode(document).graph, "h").input) == ["u", "", "", "h_constant"]


def test_an_input_that_is_no_constant_is_replaced_for_this_reader_alone() -> None:
    document = decode(base())
    document.assign(node(document, "u"), 0, NEW)
    after = encode(document)
    assert list(message(after.graph, "u").input) == ["u_constant", "b"]
    assert message(after.graph, "t") == message(base().graph, "t")


def test_fresh_names_avoid_every_name_in_the_model() -> None:
    model = odd("branch", "values", "constants")
    document = decode(model)
    for name in ("W", "x", "y", "then", "deep", "K", "never", "first", "constant_value"):
        assert document.fresh(name) == f"{name}_1"
        assert document.fresh(name) == f"{name}_2"
    assert document.fresh("free") == "free"


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_arrays_that_are_not_contiguous_are_stored_as_they_read(dtype: str) -> None:
    document = decode(base())
    values = np.arange(24, dtype=dtype).reshape(4, 6)[:, ::2].T
    document.assign(node(document, "t"), 1, values)
    assert np.array_equal(numbers(encode(document).graph, "W"), values)
    document.assign(node(document, "u"), 1, np.asarray(2, dtype))
    assert numbers(encode(document).graph, "b").shape == ()


def test_brain_floats_are_read_and_written() -> None:
    model = odd("dtypes")
    document = decode(model)
    reader = node(document, "o_bfloat16")
    values = document.constant(reader.inputs[0])
    assert values.dtype.name == "bfloat16" and values.astype("f4")[2, 3] == 11
    document.assign(reader, 0, values[:2])
    stored = initializer(encode(document).graph, "t_bfloat16")
    assert stored.data_type == TensorProto.BFLOAT16 and list(stored.dims) == [2, 4]
