"""A user's samples: arrays by name, or one clear error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_models import WEIGHTS
from onnx_coreset.edge.npz import load_arrays
from onnx_coreset.errors import MachineError, UsageError


def test_samples_are_read_in_the_machines_byte_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=WEIGHTS.astype(">f4"), n=np.int64(3))
    arrays = load_arrays(tmp_path / "s.npz")
    assert list(arrays) == ["x", "n"]
    assert np.array_equal(arrays["x"], WEIGHTS) and arrays["x"].dtype.isnative
    assert arrays["n"] == 3


def bad_samples(path: Path) -> Iterator[Path]:
    np.save(path / "single.npy", WEIGHTS)
    yield path / "single.npy"
    np.savez(path / "objects.npz", x=np.array([{}], object))
    yield path / "objects.npz"
    np.savez(path / "empty.npz")
    yield path / "empty.npz"
    np.savez(path / "cut.npz", x=WEIGHTS)
    os.truncate(path / "cut.npz", 150)
    yield path / "cut.npz"
    (path / "text.npz").write_text("1 2 3")
    yield path / "text.npz"
    (path / "nothing.npz").touch()
    yield path / "nothing.npz"
    yield path / "missing.npz"
    yield path


def test_what_is_no_npz_is_a_usage_error(tmp_path: Path) -> None:
    for path in bad_samples(tmp_path):
        with pytest.raises(UsageError) as caught:
            load_arrays(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_samples_never_raise_anything_but_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    np.savez_compressed(path, x=WEIGHTS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        load_arrays(path)
    except (UsageError, MachineError) as error:
        assert "\n" not in str(error)
