"""Later layers make up for earlier cuts: the carried error falls, eps still holds, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from api_models import mlp, run, weights
from graph_layers import array, model, parsed
from onnx_coreset.core.layer import restrict
from onnx_coreset.core.methods import METHODS
from onnx_coreset.core.refit import RIDGE, Step, refit
from onnx_coreset.edge.runtime import choose
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.extract import extract
from onnx_coreset.graph.model.facts import macs
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.stages import correcting
from onnx_coreset.stages.correcting import corrected
from onnx_coreset.stages.judging import judge
from onnx_coreset.stages.narrowing import Narrowed, Prepared, prepare
from onnx_coreset.stages.opening import open_model
from onnx_coreset.stages.sampling import Sources, sources
from onnx_coreset.stages.settling import measure
from onnx_coreset.stages.summary import chain_report
from onnx_coreset.stages.walking import Analysis, narrow

PROVIDER = choose("cpu")
MODELS = Path(__file__).resolve().parents[2] / "models"
U = float(np.finfo(np.float32).eps)


def silent(stage: str, done: int, total: int, detail: str) -> None:
    """Tell nobody."""


class Case:
    """A model with narrowed chains, before and after correction."""

    def __init__(self, proto: onnx.ModelProto | Path, folder: Path, given: dict[str, np.ndarray], **fields: Any):
        np.savez(folder / "x.npz", **given)
        fields = {"inputs": str(folder / "x.npz"), "samples": 1000, "provider": "cpu", **fields}
        self.options = Options.make(**fields)
        opened = open_model(proto if isinstance(proto, onnx.ModelProto) else str(proto), None, self.options)
        self.opened = replace(opened, facts=replace(opened.facts, macs=macs(opened.model)))
        self.found: Sources = sources(self.opened, self.options, PROVIDER)

    def narrowed(self) -> list[Any]:
        return narrow(Analysis(self.opened, self.found, METHODS["backward"], PROVIDER), self.options, silent)

    def cut(self, share: float, fitted: bool = True) -> list[Narrowed]:
        """Every chain cut to its first neurons, with a refit or without."""
        chains = []
        for place in self.opened.places:
            if not isinstance(place, Space):
                continue
            chain = prepare(place, self.opened, self.found, METHODS["backward"], self.options)
            assert isinstance(chain, Prepared)
            kept = np.arange(max(1, int(place.width * share)))
            moments = chain.choice().moments if fitted and chain.choice().base.width == place.width else None
            layer = chain.layer
            coreset = restrict(layer, kept) if moments is None else refit(layer, kept, moments)
            alone = extract(self.opened.document, place, chain.inputs.fresh.rank)
            errors, _ = measure(alone, place.name, coreset, chain.inputs, PROVIDER)
            chains.append(Narrowed(place, layer, chain.inputs, coreset, errors))
        return chains

    def corrected(self, chains: list[Any]) -> list[Any]:
        return corrected(chains, self.opened, self.found, self.options, PROVIDER, silent)

    def carried(self, chains: list[Any]) -> list[float]:
        """Carried errors as the report has them."""
        judged = judge(self.opened, [c for c in chains if isinstance(c, Narrowed)], self.found, self.options, PROVIDER)
        assert judged.comparison is not None
        carried = judged.comparison.carried
        found = [chain_report(c, self.options, carried).error.carried_rms for c in judged.chains if c.narrower]
        assert all(error is not None for error in found)
        return [float(error) for error in found if error is not None]


def normal(rows: int, size: int, name: str = "x", seed: int = 0) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(seed).standard_normal((rows, size)).astype("f4")}


def images(rows: int) -> dict[str, np.ndarray]:
    """Blurred spots, a stand-in for images."""
    rng = np.random.default_rng(0)
    centres, grid = rng.uniform(4, 24, (rows, 3, 2)), np.stack(np.meshgrid(np.arange(28), np.arange(28)), -1)
    distance = ((grid[None, None] - centres[:, :, None, None]) ** 2).sum(-1)
    return {"pixels": np.exp(-distance / 12).max(1).reshape(rows, 784).astype("f4")}


def tokens(rows: int) -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(0).integers(0, 55, (rows, 32))}


def test_on_a_linear_net_it_is_exact(tmp_path: Path) -> None:
    """Behind a bad cut of three of three directions, a later layer that keeps three neurons can undo it."""
    case = Case(mlp([3, 8, 7, 4], activation="Identity", seed=2), tmp_path, normal(400, 3), ratio=0.43)
    before = case.cut(0.43, fitted=False)
    assert [chain.coreset.width for chain in before] == [3, 3]
    after = case.corrected(before)
    assert after[0] is before[0] and after[1] is not before[1]
    x = normal(300, 3, seed=9)["x"]
    exact, bad, good = (
        run(m, x)[0].astype("f8")
        for m in (case.opened.model, *(cut(case.opened.model, {c.space.name: c.coreset for c in s})[0]
                                       for s in (before, after)))
    )  # fmt: skip
    # What the later layer's neurons are inside the narrower model: three directions, told apart by this eigenvalue.
    (w0, b0), (w1, b1), _ = weights([3, 8, 7, 4], seed=2)
    hidden = (x @ w0[:3].T + b0[:3]) @ w1[:3, :3].T + b1[:3]
    least = np.linalg.eigvalsh(np.corrcoef(hidden.T))[0]
    error, was = np.abs(good - exact).max(), np.abs(bad - exact).max()
    # The ridge, and float32's rounding of features and of two products, each over that eigenvalue.
    assert error <= 10 * (RIDGE + 30 * U) / least * max(was, np.abs(exact).max()) and error < 1e-2 * was


FIRST, LAST = ["h = Gemm(x, A, a)", "r = Relu(h)"], ["t = Tanh(k)", "y = Gemm(t, C, c)"]
MORE = {"A": array(3, 24), "a": array(24), "B": array(24, 20), "b": array(20), "C": array(20, 4), "c": array(4)}
V = array(20) ** 2 + np.float32(0.1)


def graph(*nodes: str | onnx.NodeProto, outputs: str = "y", **tensors: np.ndarray) -> onnx.ModelProto:
    return model(*FIRST, *nodes, outputs=outputs, **MORE, **tensors)


FORMS: dict[str, onnx.ModelProto] = {
    "two layers": graph("k = Gemm(r, B, b)", *LAST),
    "products and sums": model(
        "l = MatMul(x, A)", "h = Add(l, a)", "r = Relu(h)", "n = MatMul(r, B)", "k = Add(b, n)", "t = Tanh(k)",
        "y = MatMul(t, C)", **MORE),
    "a product without a constant": graph("k = MatMul(r, B)", "t = Tanh(k)", "y = MatMul(t, C)"),
    "two heads": graph(
        "k = Gemm(r, B, b)", *LAST, "o = MatMul(t, E)", outputs="y o", E=100 * array(20, 2)),
    "gated": graph("g = Gemm(r, B, b)", "u = MatMul(r, B)", "s = Sigmoid(g)", "t = Mul(s, u)", "y = Gemm(t, C, c)"),
    "several functions": graph(
        "k = Gemm(r, B, b)", "p = Tanh(k)", "q = Relu(k)", parsed("t = Concat(p, q)", axis=1), "y = Gemm(t, E, c)",
        E=array(40, 4)),
    "joint": graph("g = Gemm(r, B, b)", "u = MatMul(r, E)", "t = Max(g, u)", "y = Gemm(t, C, c)", E=array(24, 20)),
    "batch norm": graph("n = Gemm(r, B, b)", "k = BatchNormalization(n, b, b, b, v)", *LAST, v=V),
    "a skip": graph(
        "i = MatMul(x, G)", "n = Gemm(r, B, b)", "m = Add(n, i)", "e = Gemm(m, E)", "k = Relu(e)", "y = Gemm(k, F, c)",
        G=array(3, 20), E=array(20, 30), F=array(30, 4)),
    "a norm between": graph("n = Gemm(r, B, b)", "m = LayerNormalization(n, b)", "e = Gemm(m, E)", "k = Relu(e)",
                            "y = Gemm(k, F, c)", E=array(20, 30), F=array(30, 4)),
    "reordered": graph("k = Gemm(r, B, b)", "t = Tanh(k)", parsed("o = Gather(t, i)", axis=1), "y = Gemm(o, C, c)",
                       i=np.arange(20)[::-1].copy()),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_whatever_the_form_less_is_carried(name: str, tmp_path: Path) -> None:
    case = Case(FORMS[name], tmp_path, normal(600, 3), ratio=0.5)
    before = case.cut(0.5)
    after = case.corrected(before)
    assert [one is two for one, two in zip(before, after, strict=True)] == [True, False]
    assert case.carried(after)[1] < case.carried(before)[1]
    # What was measured is what is there.
    assert after[1].errors is not None and after[1].ran


@pytest.mark.parametrize("name", ["two layers", "two heads", "a skip", "three layers"])
def test_what_it_did_is_in_the_report(name: str, tmp_path: Path) -> None:
    """What judged a correction and what the carried error is measured on are different samples of one law."""
    proto = FORMS.get(name) or mlp([3, 20, 18, 16, 4])
    case = Case(proto, tmp_path, normal(4000, 3), ratio=0.5)
    before = case.cut(0.5)
    after = case.corrected(before)
    first, second = (chain_report(chain, case.options, {}) for chain in after[:2])
    assert first.correction is None and all(chain.correction is None for chain in before)
    told = second.correction
    assert told is not None and told.carried_after < told.carried_before
    # Two means of some 250 squares, whose deviations are about their means: three deviations of the root of the ratio.
    near = 3 * 0.5 * np.sqrt(2 / 250)
    assert told.carried_before == pytest.approx(case.carried(before)[1], rel=near)
    assert told.carried_after == pytest.approx(case.carried(after)[1], rel=near)


def test_the_best_share_of_a_step_leaves_least() -> None:
    step = Step(power=4.0, along=1.0, square=2.0)
    assert step.share == 0.5 and step.rms(0.0) == 2.0 and step.rms(0.5) ** 2 == pytest.approx(3.5)
    assert Step(4.0, 3.0, 2.0).share == 1.0
    for useless in (Step(4.0, -1.0, 2.0), Step(4.0, 0.0, 0.0), Step(np.inf, 1.0, 2.0), Step(4.0, np.nan, 2.0)):
        assert useless.share == 0.0
    # Rounding may make what is left negative.
    assert Step(1.0, 1.0, 1.0 - 1e-15).rms(1.0) == 0.0


SIDE = [
    "h = Gemm(x, A, a)",
    "r = Relu(h)",
    "y = Gemm(r, E, c)",
    "g = Gemm(x, F, a)",
    "s = Relu(g)",
    "z = Gemm(s, E, c)",
]
LEFT: dict[str, onnx.ModelProto] = {
    "side by side": model(*SIDE, outputs="y z", **MORE, F=array(3, 24), E=array(24, 4)),
    "joined before the reader": graph(
        "k = Gemm(r, B, b)", "t = Tanh(k)", parsed("j = Concat(x, t)", axis=1), "y = Gemm(j, E, c)", E=array(23, 4)),
    "one layer": model("h = Gemm(x, A, a)", "r = Relu(h)", "y = Gemm(r, E, c)", **MORE, E=array(24, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_behind_or_not_alone_is_left(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correcting, "_no_worse", lambda *a: True)
    case = Case(LEFT[name], tmp_path, normal(600, 3), ratio=0.5)
    before = case.cut(0.5)
    assert all(one is two for one, two in zip(before, case.corrected(before), strict=True))


def test_outputs_that_the_next_cut_drops_are_left_alone(tmp_path: Path) -> None:
    case = Case(mlp([4, 20, 18, 16, 3]), tmp_path, normal(600, 4), ratio=0.5)
    before = case.cut(0.5)
    _, old, last = before
    new = case.corrected(before)[1]
    kept = np.isin(np.arange(16), last.coreset.kept)
    moved = np.any(new.coreset.outgoing[0] != old.coreset.outgoing[0], axis=(1, 2))
    assert np.array_equal(moved, kept)
    assert np.array_equal(new.coreset.constant[0] != old.coreset.constant[0], kept)


@pytest.mark.parametrize("fields", [{"refit": False}, {"validate": False}, {"inputs": "auto"}, {"samples": 16}])
def test_it_does_not_run_where_it_is_not_wanted_or_not_known(fields: dict[str, Any], tmp_path: Path) -> None:
    case = Case(FORMS["two layers"], tmp_path, normal(600, 3), ratio=0.5, **fields)
    before = case.cut(0.5, fitted=False)
    assert all(one is two for one, two in zip(before, case.corrected(before), strict=True))


def test_it_does_not_run_where_that_is_dear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(FORMS["two layers"], tmp_path, normal(600, 3), ratio=0.5)
    before = case.cut(0.5)
    assert case.opened.facts.macs == 3 * 24 + 24 * 20 + 20 * 4 and case.found.feeder is not None
    rows = len(case.found.feeder.feed(0, np.random.default_rng(0))["x"])
    run_cost = 2 * case.opened.facts.macs * rows
    for runs, moved in ((5, False), (6, True)):
        monkeypatch.setattr(correcting, "_MACS", runs * run_cost)
        assert (case.corrected(before)[1] is not before[1]) is moved
    monkeypatch.setattr(correcting, "_MACS", 10**9)
    for runs, moved in ((5, False), (6, True)):
        # Each run has a price of its own.
        monkeypatch.setattr(correcting, "_RUNS", runs)
        assert (case.corrected(before)[1] is not before[1]) is moved


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("name", "given"), [
    ("lenet_300_100", images(600)), ("lenet_300_100_fashion", images(600)), ("gelu_transformer", tokens(100)),
])  # fmt: skip
def test_on_trained_nets_later_layers_carry_less(
    name: str, given: dict[str, np.ndarray], seed: int, tmp_path: Path
) -> None:
    case = Case(MODELS / f"{name}.onnx", tmp_path, given, ratio=0.3, seed=seed)
    before = case.narrowed()
    after = case.corrected(before)
    old, new = case.carried(before), case.carried(after)
    assert new[0] == old[0] and all(b <= a for a, b in zip(old, new, strict=True)) and new != old


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(("name", "given", "eps"), [
    ("lenet_300_100", images(600), 0.1), ("gelu_transformer", tokens(100), 0.15),
])  # fmt: skip
def test_eps_still_bounds_the_local_error(
    name: str, given: dict[str, np.ndarray], eps: float, absolute: bool, tmp_path: Path
) -> None:
    case = Case(MODELS / f"{name}.onnx", tmp_path, given, eps=eps, absolute=absolute)
    before = case.narrowed()
    after = case.corrected(before)
    # One that was above eps by sampling alone is not moved.
    moved = [c for b, c in zip(before, after, strict=True) if c is not b]
    assert all(chain.errors.norm("rms", absolute) <= eps for chain in moved)
    if not absolute:
        assert moved and all(b <= a for a, b in zip(case.carried(before), case.carried(after), strict=True))


def test_a_share_of_it_is_taken_where_eps_allows_no_more(tmp_path: Path) -> None:
    proto, given = FORMS["two layers"], normal(600, 3)
    free = Case(proto, tmp_path, given, ratio=0.5)
    before = free.cut(0.5)
    after = free.corrected(before)
    low, high = (chains[1].errors.norm("rms", False) for chains in (before, after))
    assert low < high
    # On samples fitted to, the square grows with that of the share: a tenth of the growth allows a quarter or more.
    eps = float(np.sqrt(low**2 + 0.1 * (high**2 - low**2)))
    bounded = Case(proto, tmp_path, given, eps=eps)
    some = bounded.corrected(bounded.cut(0.5))
    assert some[1].errors.norm("rms", False) <= eps < high
    assert free.carried(after)[1] < bounded.carried(some)[1] < free.carried(before)[1]


def test_a_correction_that_the_outputs_do_not_like_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(FORMS["two layers"], tmp_path, normal(600, 3), ratio=0.5)
    before = case.cut(0.5)
    real = correcting.correction
    monkeypatch.setattr(correcting, "correction", lambda *a: tuple(-part for part in real(*a)))
    assert case.corrected(before)[1] is before[1]
    monkeypatch.setattr(correcting, "_step", lambda *a: Step(1.0, 1.0, 1.0))
    assert case.corrected(before)[1] is before[1]
    monkeypatch.setattr(correcting, "_no_worse", lambda *a: True)
    assert case.corrected(before)[1] is not before[1]


def test_the_same_seed_gives_the_same_correction(tmp_path: Path) -> None:
    case = Case(FORMS["gated"], tmp_path, normal(600, 3), ratio=0.5)
    before = case.cut(0.5)
    one, two = (case.corrected(before)[1].coreset for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.outgoing, two.outgoing, strict=True))
