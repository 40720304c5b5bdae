"""Both models on equal inputs: the worst of each sample, and what happens to errors at other inputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from api_models import built
from onnx_coreset.edge.inputs import Given, Synthetic
from onnx_coreset.edge.provider import CPU
from onnx_coreset.edge.runtime import Provider, RuntimeRefused, Session
from onnx_coreset.edge.trials import CHANGES, Pair, changed_errors, largest_errors

F = TensorProto.FLOAT
ON_CPU = Provider(CPU)
W = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
OFF = np.array([[0.5, 0.0], [0.0, 0.0], [0.0, -0.25]], np.float32)


def linear(weights: np.ndarray, *after: str) -> ModelProto:
    """x (N, 3) -> y = x W, and z by one more node."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    nodes += [helper.make_node(name, ["y"], ["z"]) for name in after]
    ends = dict.fromkeys(("y", "z")[: 1 + len(after)], (F, None))
    return built(nodes, {"x": (F, ["N", 3])}, ends, {"w": weights})


def pair(units: dict[str, float], *after: str) -> Pair:
    one, two = (Session(linear(w, *after), ON_CPU) for w in (W, W + OFF))
    return Pair(one, two, units)


X = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)


def test_every_sample_has_its_largest_error_over_outputs() -> None:
    errors, apart = largest_errors(
        pair({"y": 2.0}), Given(({"x": X[:25]}, {"x": X[25:]})), 2, 0, np.random.default_rng()
    )
    wanted = np.abs(X.astype(np.float64) @ OFF).max(axis=1) / 2.0
    assert apart and np.allclose(errors, wanted, rtol=0, atol=1e-6)


def test_several_outputs_are_each_in_their_unit() -> None:
    errors, _ = largest_errors(pair({"y": 1e6, "z": 0.5}, "Neg"), Given(({"x": X},)), 1, 0, np.random.default_rng())
    assert np.allclose(errors, np.abs(X @ OFF).max(axis=1) / 0.5, rtol=0, atol=1e-5)


def test_where_samples_see_each_other_a_run_is_one_draw() -> None:
    runs = Given(tuple({"x": part} for part in np.array_split(X, 4)))
    errors, apart = largest_errors(pair({"z": 1.0}, "ReduceMean"), runs, 4, 0, np.random.default_rng())
    assert not apart and errors.shape == (4,)


def test_what_is_not_finite_any_more_is_an_infinite_error() -> None:
    # The root of a sum that only one of the two models makes negative.
    x = np.array([[0.1, 9.0, 1.0], [1.0, 1.0, -0.5], [-1.0, 9.0, 9.0]], np.float32)
    with np.errstate(all="ignore"):
        before, after = (np.sqrt(x @ w) for w in (W, W - 20 * np.abs(OFF)))
    one, two = (Session(linear(w, "Sqrt"), ON_CPU) for w in (W, W - 20 * np.abs(OFF)))
    errors, _ = largest_errors(Pair(one, two, {"z": 1.0}), Given(({"x": x},)), 1, 0, np.random.default_rng())
    lost = (np.isfinite(before) & ~np.isfinite(after)).any(axis=1)
    assert np.array_equal(np.isinf(errors), lost) and lost.any()
    assert not np.isnan(errors).any()


def test_models_of_other_shapes_are_refused() -> None:
    other = Session(linear(np.ones((3, 5), np.float32)), ON_CPU)
    wrong = Pair(Session(linear(W), ON_CPU), other, {"y": 1.0})
    with pytest.raises(RuntimeRefused, match="another shape"):
        largest_errors(wrong, Given(({"x": X},)), 1, 0, np.random.default_rng())


def test_changes_are_what_they_say() -> None:
    found = changed_errors(pair({"y": 1.0}), [{"x": X[:15]}, {"x": X[15:]}], np.random.default_rng(3))
    assert found is not None and len(found) == len(CHANGES)
    x, rng = X.astype(np.float64), np.random.default_rng(3)
    unit = float(np.std(x))
    for (kind, amount), error in zip(CHANGES, found, strict=True):
        moved = {
            "none": lambda amount: x,
            "scaled": lambda amount: amount * x,
            "shifted": lambda amount: x + amount * unit,
            "noise": lambda amount: x + amount * unit * np.concatenate([rng.standard_normal((n, 3)) for n in (15, 25)]),
        }[kind](amount)
        wanted = np.sqrt(np.mean((moved @ OFF) ** 2)) / np.sqrt(np.mean(np.var(moved @ W, axis=0)))
        assert error == pytest.approx(wanted, rel=1e-5)
    # A linear model errs in proportion: scaled inputs change nothing, shifted ones do.
    assert found[1:5] == pytest.approx([found[0]] * 4, rel=1e-5) and found[8] != pytest.approx(found[0], rel=1e-2)


def test_the_worst_output_counts() -> None:
    both, one = (
        changed_errors(pair(units, "Exp"), [{"x": X}], np.random.default_rng(3))
        for units in ({"y": 1.0, "z": 1.0}, {"z": 1.0})
    )
    single = changed_errors(pair({"y": 1.0}), [{"x": X}], np.random.default_rng(3))
    assert both is not None and one is not None and single is not None
    assert both == [max(pair) for pair in zip(one, single, strict=True)]


def test_inputs_without_numbers_to_change_are_left_alone() -> None:
    nodes, ids = [helper.make_node("Gather", ["w", "ids"], ["y"])], {"ids": (TensorProto.INT64, ["N"])}
    made = built(nodes, ids, {"y": (F, None)}, {"w": W})
    session = Session(made, ON_CPU)
    rng = np.random.default_rng(0)
    assert changed_errors(Pair(session, session, {"y": 1.0}), [{"ids": np.array([0, 2])}], rng) is None
    constant = [{"x": np.ones((4, 3), np.float32)}]
    assert changed_errors(pair({"y": 1.0}), constant, rng) is None and changed_errors(pair({"y": 1.0}), [], rng) is None


def test_synthetic_runs_are_drawn_one_after_the_other() -> None:
    made = pair({"y": 1.0})
    feeder = Synthetic(made.original.inputs, {"x": (8, 3)}, {})
    errors, apart = largest_errors(made, feeder, 3, 0, np.random.default_rng(1))
    assert apart and errors.shape == (24,) and len(set(errors)) == 24
