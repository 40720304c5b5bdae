"""A language model's own text: written by it where its outputs show that it is one, and by nobody else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_coreset.edge import generate
from onnx_coreset.edge.generate import generated
from onnx_coreset.edge.inputs import Synthetic
from onnx_coreset.edge.runtime import Session, choose

V, T = 5, 8
# Token i is followed by i + 1, hardly ever by another.
LOGITS = 12.0 * np.roll(np.eye(V), 1, axis=1)


def chain(table: np.ndarray, tail: str = "", batch: int | str = "N", length: int | str = "T") -> onnx.ModelProto:
    """Return a model whose logits are the row of `table` that a token names; `tail` changes what it is."""
    nodes = [helper.make_node("Gather", ["table", "tokens"], ["found"])]
    if tail == "sees later ones":
        nodes.append(helper.make_node("ReduceMean", ["found"], ["mean"], axes=[1], keepdims=1))
        nodes.append(helper.make_node("Add", ["found", "mean"], ["logits"]))
    else:
        nodes.append(helper.make_node("Softmax" if tail == "odds" else "Identity", ["found"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, [batch, length])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, length, table.shape[1]])],
        [numpy_helper.from_array(table.astype(np.float32), "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(model: onnx.ModelProto, wanted: int = 600, affordable: float = 1e9, shape: tuple[int, int] = (64, T)):
    session = Session(model, choose("cpu"))
    feeder = Synthetic(session.inputs, {"tokens": shape}, {"tokens": (0, V)})
    return generated(session, feeder, wanted, affordable, np.random.default_rng(0))


@pytest.mark.parametrize("tail", ["", "odds"])
@pytest.mark.parametrize(("batch", "length"), [("N", "T"), (64, T), ("N", T), (1, "T")])
def test_sequences_follow_the_models_own_odds(tail: str, batch: int | str, length: int | str) -> None:
    shape = (batch if isinstance(batch, int) else 64, T)
    found = written(chain(LOGITS, tail, batch, length), shape=shape)
    assert found is not None and found.name == "the model's own text"
    text = np.concatenate([feed["tokens"] for feed in found.feeds])
    assert text.dtype == np.int64 and text.size >= 600
    # Softmax gives the wanted token e^12 / (e^12 + 4), odds e^1 / (e + 4) of it: five standard errors below.
    odds = np.exp(12.0) / (np.exp(12.0) + V - 1)
    pairs = text[:, :-1].size
    follows = np.mean((text[:, :-1] + 1) % V == text[:, 1:])
    assert follows >= odds - 5 * np.sqrt(odds * (1 - odds) / pairs) - 1.0 / pairs
    assert len(found.feeds) >= 2 and set(text[:, 0]) <= set(range(V))


def test_every_first_token_is_met() -> None:
    found = written(chain(np.zeros((V, V))), wanted=4000)
    assert found is not None
    text = np.concatenate([feed["tokens"] for feed in found.feeds])
    # Uniform odds: each token's share is within five standard errors of 1 / V, first place and later ones alike.
    shares = np.bincount(text.ravel(), minlength=V) / text.size
    assert np.abs(shares - 1 / V).max() <= 5 * np.sqrt(1 / V / text.size)


@pytest.mark.parametrize(
    "model",
    [chain(LOGITS, "sees later ones"), chain(np.zeros((V, V + 1)))],
    ids=["sees later tokens", "as many outputs as no table has rows"],
)
def test_other_models_write_nothing(model: onnx.ModelProto) -> None:
    assert written(model) is None


def test_too_dear_a_model_writes_nothing() -> None:
    assert written(chain(LOGITS), affordable=31 * T**2 / 2) is None
    assert written(chain(LOGITS), affordable=33 * T**2 / 2) is not None


def test_a_model_whose_loops_are_slow_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def looping(self: Session) -> bool:
        return True

    monkeypatch.setattr(Session, "loops", property(looping, lambda *_: None), raising=False)
    assert written(chain(LOGITS)) is not None
    monkeypatch.setattr(generate, "_SECONDS", 0.0)
    assert written(chain(LOGITS)) is None
