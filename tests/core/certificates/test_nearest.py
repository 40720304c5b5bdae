"""Slopes that follow the nearest terms alone: which these are, that nothing else moves, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from certificate_cases import RELU, layer, of, shrunk
from onnx_coreset.core.certificates import BallDomain, BoxDomain, certify, nearest
from onnx_coreset.core.certificates.attack import surely
from onnx_coreset.core.certificates.domains import place
from onnx_coreset.core.certificates.nearest import free
from onnx_coreset.core.certificates.relaxed import Relaxed, Signs


def state(rows: np.ndarray, weights: list[float], filled: int = 0) -> Relaxed:
    """One function with some positive terms, then negative ones; the last `filled` positive ones weigh nothing."""
    single = np.asarray(rows, dtype=np.float32)
    up = np.array([[w for w in weights if w > 0] + [0.0] * filled])
    down = np.array([[-w for w in weights if w < 0]])
    positive = np.arange(up.shape[1])[None]
    negative = up.shape[1] + np.arange(down.shape[1])[None]
    offset = np.zeros(len(rows), dtype=np.float32)
    lin = np.zeros((1, len(rows)), dtype=np.float32)
    sides = Signs(positive, negative, up, down)
    return Relaxed(lin, offset, single, sides, up.astype(np.float32), down.astype(np.float32), True)


def test_all_entries_are_free_up_to_a_number_of_terms() -> None:
    assert free(state(np.eye(3), [1.0, 1.0, -1.0])).index is None


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_free_are_the_constant_and_the_rows_of_the_least_angles(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_ENOUGH", 0)
    monkeypatch.setattr(nearest, "_NEAREST", 2)
    monkeypatch.setattr(nearest, "_BLOCK", block)
    # Angles in degrees; 190 is the mirror of 10, and length plays no part. The last positive term is filled up with.
    angles, lengths = np.radians([0, 40, 80, 190, 21, 20, 81]), np.array([5.0, 1, 1, 0.1, 1, 1, 1])
    rows = lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = free(state(rows, [1.0, 2.0, 3.0, 4.0, -1.0, -1.0], filled=1))
    assert found.index is not None
    # 20 degrees is nearest to 190 and then to 0 and 40 alike; 81 to 80 and then to 40.
    assert set(found.index[0, 1]) == {0, 1 + 2, 1 + 1}
    assert set(found.index[0, 0]) > {0, 1 + 3}


def test_entries_that_are_not_free_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_ENOUGH", 0)
    monkeypatch.setattr(nearest, "_NEAREST", 1)
    found = free(state(np.eye(4), [1.0, 1.0, 1.0, -1.0]))
    entries = np.array([[[0.25, -0.5]]], dtype=np.float32)
    full = found.place(entries, np.zeros((1, 1, 4), dtype=np.float32))
    assert np.count_nonzero(full) == 2 and full[0, 0, 0] == 0.25
    assert np.array_equal(found.of(full), entries)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("kind", ["plain", "copies", "mirrored", "zeros", "long"])
def test_no_input_exceeds_a_bound_with_few_free(kind: str, box: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_ENOUGH", 0)
    monkeypatch.setattr(nearest, "_NEAREST", 1)
    rng = np.random.default_rng(3)
    for _ in range(5):
        before = layer(kind, 14, 3, 3, rng, RELU)
        after = shrunk(before, rng)
        domain = BoxDomain(-np.ones(3), np.ones(3)) if box else BallDomain(np.zeros(3), 1.0)
        found = certify(before, after, domain, "fast", rng)
        assert found is not None and np.all(found.attacked <= found.certified)
        x = place(domain, rng.uniform(-1, 1, (2000, 3)) / (1.0 if box else np.sqrt(3)))
        assert np.all(surely(of(before, after, domain), domain, x).max(axis=0) <= found.certified)


def test_bounds_with_the_nearest_are_nearly_those_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    before = layer("plain", 160, 40, 2, rng, RELU)
    after, domain = shrunk(before, rng), BallDomain(np.zeros(40), 3.0)
    every = certify(before, after, domain, "tight", np.random.default_rng(0))
    monkeypatch.setattr(nearest, "_ENOUGH", 0)
    monkeypatch.setattr(nearest, "_NEAREST", 31)
    few = certify(before, after, domain, "tight", np.random.default_rng(0))
    assert every is not None and few is not None
    ratio = few.bounds["affine even"] / every.bounds["affine even"]
    assert np.all(ratio <= 1.05) and np.any(ratio != 1.0)
