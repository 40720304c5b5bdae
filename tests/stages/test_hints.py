"""What the first layer suggests reaches the samples that a model is fitted to."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from api_models import built
from onnx_coreset.options import Options
from onnx_coreset.stages.hints import hints
from onnx_coreset.stages.opening import open_model

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)
PLACE = RNG.standard_normal(6) + 3.0


def model() -> onnx.ModelProto:
    """x -> (norm) -> MatMul, Add, BatchNormalization, Relu -> MatMul -> y, zero at PLACE."""
    weights = RNG.standard_normal((6, 40))
    mean = RNG.standard_normal(40)
    tensors = {
        "W": weights.astype("f4"),
        "b": (mean - PLACE @ weights).astype("f4"),
        "V": RNG.standard_normal((40, 3)).astype("f4"),
        "gamma": np.full(40, 2.0, "f4"),
        "zero": np.zeros(40, "f4"),
        "mean": mean.astype("f4"),
        "one": np.ones(40, "f4"),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["t"]),
        helper.make_node("Add", ["t", "b"], ["s"]),
        helper.make_node("BatchNormalization", ["s", "gamma", "zero", "mean", "one"], ["n"], epsilon=0.0),
        helper.make_node("Relu", ["n"], ["h"]),
        helper.make_node("MatMul", ["h", "V"], ["y"]),
    ]
    return built(nodes, {"x": (FLOAT, ["N", 6])}, {"y": (FLOAT, ["N", 3])}, tensors)


def test_biases_behind_the_product_count_those_of_a_batch_normalisation_too() -> None:
    found = hints(open_model(model(), None, Options.make(certify="off")))
    assert np.allclose(found["x"].centre, PLACE, rtol=1e-2)


def test_a_layer_that_is_left_out_suggests_what_it_did() -> None:
    made = model()
    all_in = hints(open_model(made, None, Options.make()))
    (name,) = (space.name for space in open_model(made, None, Options.make()).spaces)
    left_out = hints(open_model(made, None, Options.make(exclude=(name,))))
    assert np.array_equal(all_in["x"].centre, left_out["x"].centre)
    assert np.array_equal(all_in["x"].root, left_out["x"].root)
