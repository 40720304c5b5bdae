"""A domain that is handed to the plan reaches the lossless rules, and what they leave is selected from."""

from __future__ import annotations

import numpy as np

from hidden_layers import readout
from onnx_coreset.core.activations import ACTIVATIONS
from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.certificates.domains import BallDomain, place
from onnx_coreset.core.laws import Ball
from onnx_coreset.core.layer import HiddenLayer, Neurons, shrink
from onnx_coreset.core.methods import METHODS
from onnx_coreset.options import Options
from onnx_coreset.plan import candidates

RELU = Named(next(record for record in ACTIVATIONS if record.name == "Relu"))


def test_neurons_that_are_stable_on_the_domain_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 4))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    bias = np.concatenate([np.full(5, -3.0), np.full(9, 3.0), np.full(6, 0.2)])
    layer = HiddenLayer(20, (readout(Neurons(rows, bias, RELU), 3, rng),))
    ball = BallDomain(np.zeros(4), 2.0)
    x = place(ball, rng.standard_normal((400, 4)))
    arguments = layer, x, METHODS["backward"], Ball(2.0, 4), 2.0, Options(), np.random.default_rng
    assert candidates(*arguments).lossless == 0
    found = candidates(*arguments, domain=ball)
    assert found.lossless == 5 + (9 - 4)
    assert found.path is not None and found.path[9] == 0.0 < found.path[8]
    for width in (20, 15, 10):
        np.testing.assert_allclose(shrink(layer, found.at(width)).evaluate(x)[0], layer.evaluate(x)[0], atol=1e-9)
    assert np.abs(shrink(layer, found.at(8)).evaluate(x)[0] - layer.evaluate(x)[0]).max() < 10.0
