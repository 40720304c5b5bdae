"""ONNX Runtime, made quiet: what it runs on, what it takes and gives, what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_models import WEIGHTS, small
from onnx_coreset.edge.provider import CPU
from onnx_coreset.edge.runtime import InputSpec, Provider, RuntimeRefused, Session, accepts, with_outputs
from onnx_coreset.errors import MachineError

ON_CPU = Provider(CPU)
X = np.array([[1, -2, 3], [0, 1, -1]], np.float32)


def of_nodes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int = 17,
    weights: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])


def identity(kind: int, shape: Sequence[int | str | None] | None = ("N",), opset: int = 17) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    return of_nodes([helper.make_node("Identity", ["x"], ["y"])], values[:1], values[1:], opset)


def refused() -> onnx.ModelProto:
    model = small()
    model.graph.node[0].op_type = "NoSuchOperator"
    return model


# What it takes and gives.


def test_a_model_runs_as_numpy_does() -> None:
    session = Session(small(), ON_CPU)
    assert session.inputs == (InputSpec("x", np.dtype(np.float32), "tensor(float)", ("N", 3)),)
    assert session.outputs == (InputSpec("y", np.dtype(np.float32), "tensor(float)", ("N", 4)),)
    for given in (session, Session(small().SerializeToString(), ON_CPU, threads=1, optimise=False)):
        assert np.array_equal(given.run({"x": X})["y"], np.maximum(X @ WEIGHTS, 0))


NUMBERS = [
    kind for kind in TensorProto.DataType.values() if kind in (*range(1, 8), 9, 10, 11, 12, 13, 16, 17, 18, 19, 20)
]


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_every_type_go_in_and_come_out(kind: int, shape: tuple[int, ...]) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    session = Session(identity(kind, [None] * len(shape), 21), ON_CPU)
    x = np.arange(6).astype(dtype)[: int(np.prod(shape))].reshape(shape)
    y = session.run({"x": x})["y"]
    assert session.inputs[0].dtype == session.outputs[0].dtype == y.dtype == dtype
    assert y.shape == shape and np.array_equal(y, x)
    assert session.inputs[0].shape == (None,) * len(shape)


def test_types_that_numpy_lacks_mix_with_others() -> None:
    kinds = (TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.INT64)
    x, f, n = (helper.make_tensor_value_info(name, kind, [3]) for name, kind in zip("xfn", kinds, strict=True))
    casts = [helper.make_node("Cast", ["x"], ["f"], to=kinds[1]), helper.make_node("Identity", ["m"], ["n"])]
    m = helper.make_tensor_value_info("m", TensorProto.INT64, [3])
    b = helper.make_tensor_value_info("b", TensorProto.BFLOAT16, [3])
    model = of_nodes([*casts, helper.make_node("Cast", ["f"], ["b"], to=kinds[0])], [x, m], [f, n, b])
    values = np.array([1.5, -2, 3], ml_dtypes.bfloat16)
    given = Session(model, ON_CPU).run({"x": values, "m": np.arange(6)[::2]})
    assert list(given) == ["f", "n", "b"]
    assert given["f"].tolist() == [1.5, -2, 3] and given["n"].tolist() == [0, 2, 4]
    assert given["b"].dtype == ml_dtypes.bfloat16 and np.array_equal(given["b"], values)
    given["b"][0] = 0


def test_any_layout_in_memory_gives_the_same_numbers() -> None:
    session = Session(identity(TensorProto.FLOAT, None), ON_CPU)
    for x in (X.T, X.astype(">f4"), X[:, ::-1], np.float32(3), np.array(3, np.float32)):
        assert np.array_equal(session.run({"x": x})["y"], x)  # type: ignore[dict-item]


def test_only_the_outputs_asked_for_come_in_their_order() -> None:
    session = Session(with_outputs(small(), ["h"]), ON_CPU)
    assert list(session.run({"x": X})) == ["y", "h"]
    assert list(session.run({"x": X}, ["h", "y"])) == ["h", "y"]
    assert list(session.run({"x": X}, ["h"])) == ["h"]
    assert session.run({"x": X}, []) == {}


def test_what_is_no_array_of_numbers_is_left_out() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    text = helper.make_tensor_value_info("t", TensorProto.STRING, [2])
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["s"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Cast", ["x"], ["t"], to=TensorProto.STRING),
    ]
    session = Session(of_nodes(nodes, [x], [sequence, y, text]), ON_CPU)
    assert [spec.dtype for spec in session.outputs] == [None, np.float32, None]
    ones = np.ones(2, np.float32)
    assert list(session.run({"x": ones})) == ["y"]
    assert session.run({"x": ones}, ["s", "t"]) == {}


def test_initializers_that_could_be_overridden_are_not_asked_for() -> None:
    model = small()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    session = Session(model, ON_CPU)
    assert [spec.name for spec in session.inputs] == ["x"]
    assert not session.run({"x": X, "w": 0 * WEIGHTS})["y"].any()


# What it refuses.


def test_a_model_is_accepted_or_the_reason_is_one_line() -> None:
    assert accepts(small()) is None
    reason = accepts(refused())
    assert reason is not None and "NoSuchOperator" in reason and "\n" not in reason
    newer = small()
    newer.ir_version = 99
    assert "IR version" in (accepts(newer) or "")
    assert accepts(b"junk") is not None


@pytest.mark.parametrize(
    ("feeds", "wanted", "words"),
    [
        ({}, None, "missing"),
        ({"x": X.astype(np.float64)}, None, "Unexpected input data type"),
        ({"x": X[:, :2]}, None, "Got: 2 Expected: 3"),
        ({"x": X, "z": X}, None, "z"),
        ({"x": X}, ["nothing"], "nothing"),
        ({"x": X.astype(ml_dtypes.bfloat16)}, None, "bfloat16"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    feeds: dict[str, np.ndarray], wanted: list[str] | None, words: str
) -> None:
    with pytest.raises(RuntimeRefused, match=words) as caught:
        Session(small(), ON_CPU).run(feeds, wanted)
    assert "\n" not in str(caught.value)


def test_a_failing_operator_is_refused_and_memory_is_the_machines() -> None:
    x, s = (helper.make_tensor_value_info(n, k, [d]) for n, k, d in (("x", 1, 1), ("s", 7, "R")))
    model = of_nodes([helper.make_node("Expand", ["x", "s"], ["y"])], [x, s], [onnx.ValueInfoProto(name="y")])
    session = Session(model, ON_CPU)
    with pytest.raises(RuntimeRefused):
        session.run({"x": np.ones(1, np.float32), "s": np.array([-3, 2])})
    with pytest.raises(MachineError, match="memory"):
        session.run({"x": np.ones(1, np.float32), "s": np.array([10**9, 10**6])})


def test_a_model_that_protobuf_cannot_hold_is_refused() -> None:
    class Huge:
        def SerializeToString(self) -> bytes:
            raise ValueError("Failed to serialize proto")

    with pytest.raises(RuntimeRefused, match="2 GB"):
        Session(Huge(), ON_CPU)  # type: ignore[arg-type]


# Outputs added.


def test_any_tensor_of_the_graph_can_be_an_output() -> None:
    model = small()
    seen = with_outputs(model, ["h", "x", "w", "y", "h"])
    assert model == small()
    assert [output.name for output in seen.graph.output] == ["y", "h", "x", "w"]
    given = Session(seen, ON_CPU).run({"x": X})
    assert np.array_equal(given["h"], X @ WEIGHTS) and np.array_equal(given["y"], np.maximum(X @ WEIGHTS, 0))
    assert np.array_equal(given["x"], X) and np.array_equal(given["w"], WEIGHTS)


def test_a_tensor_that_does_not_exist_is_refused_by_name() -> None:
    assert "ghost" in (accepts(with_outputs(small(), ["ghost"])) or "")
