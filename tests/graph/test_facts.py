"""The multiplications of a model are those of its linear operators, however their weights are written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graph_layers import array, model, parsed
from onnx_coreset.graph.model.facts import macs

ROWS = {"x": [4, 3]}
CASES: dict[str, tuple[int, onnx.ModelProto]] = {
    "matmul": (4 * 3 * 6, model("y = MatMul(x, A)", inputs=ROWS)),
    "free rows": (3 * 6, model("y = MatMul(x, A)")),
    "gemm": (4 * 3 * 6, model(parsed("y = Gemm(x, T, a)", transB=1), inputs=ROWS, T=array(6, 3))),
    "weights on the left": (2 * 4 * 3, model("y = MatMul(L, x)", inputs=ROWS, L=array(2, 4))),
    "weights behind a transposition": (
        4 * 3 * 6,
        model(parsed("W = Transpose(T)", perm=[1, 0]), "y = MatMul(x, W)", inputs=ROWS, T=array(6, 3)),
    ),
    "weights behind a reshape": (
        4 * 3 * 6,
        model("W = Reshape(T, s)", "y = MatMul(x, W)", inputs=ROWS, T=array(18), s=np.asarray([3, 6])),
    ),
    "einsum": (
        4 * 5 * 3 * 6,
        model(parsed("y = Einsum(x, A)", equation="btd,dh->bth"), inputs={"x": [4, 5, 3]}),
    ),
    "fused": (4 * 3 * 6, model(parsed("y = FusedMatMul(x, A)", domain="com.microsoft"), inputs=ROWS, infer=False)),
    "convolution": (
        8 * 3 * 2 * 2 * 16,
        model("y = Conv(x, K)", inputs={"x": [1, 3, 5, 5]}, K=array(8, 3, 2, 2)),
    ),
    "two tensors": (0, model("y = MatMul(x, x)", inputs={"x": [3, 3]})),
}


@pytest.mark.parametrize("name", CASES)
def test_multiplications_are_counted(name: str) -> None:
    wanted, proto = CASES[name]
    if name == "fused":
        proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 6]))
    assert macs(proto) == wanted
