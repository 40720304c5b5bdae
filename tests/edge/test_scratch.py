"""Arrays on a disk are what they were, and nothing is left of them in the end."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnx_coreset.edge import scratch as module
from onnx_coreset.edge.ranges import numbers, reference
from onnx_coreset.edge.scratch import scratch
from onnx_coreset.errors import MachineError

LARGE = np.random.default_rng(0).standard_normal((512, 128))
KINDS = [np.float64, np.float32, np.float16, np.int64, np.bool_, np.uint8, ml_dtypes.bfloat16]


@dataclass(frozen=True)
class Leaf:
    values: np.ndarray
    name: str = "leaf"

    def __post_init__(self) -> None:
        assert self.values.ndim == 2

    @cached_property
    def doubled(self) -> np.ndarray:
        return 2 * self.values


@dataclass(frozen=True)
class Tree:
    left: Leaf
    right: Leaf
    more: tuple[np.ndarray, ...]
    small: np.ndarray


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(tmp_path: Path, kind: type, order: str) -> None:
    arrays = [np.asarray(LARGE * 9).astype(kind, order=order), (LARGE[:, ::3] * 7).astype(kind), LARGE[:0].astype(kind)]
    with scratch(tmp_path / "out") as room:
        held = [room.keep(array) for array in arrays]
        room.forget()
        for before, after in zip(arrays, held, strict=True):
            assert after.dtype == before.dtype and np.array_equal(after, before) and not after.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_messages_say_where_numbers_are(tmp_path: Path, kind: type) -> None:
    array = np.tile(LARGE * 9, (1, 8)).astype(kind)
    with scratch(tmp_path / "out") as room:
        message = room.message("w", array)
        assert message is not None and message.name == "w" and reference(message) is not None
        found = numbers(message)
        assert found.dtype == array.dtype and np.array_equal(found, array)
        assert room.message("w", array[:2]) is None and room.message("w", np.array(["a" * 500] * 1000)) is None


def test_what_is_shelved_keeps_its_shape_and_what_is_one_stays_one(tmp_path: Path) -> None:
    leaf = Leaf(LARGE)
    assert leaf.doubled.size
    small = np.arange(3.0)
    tree = Tree(leaf, leaf, (LARGE, LARGE + 1), small)
    with scratch(tmp_path / "out") as room:
        new = room.shelved(tree)
        assert new.left is new.right and new.left.values is new.more[0] and new.small is small
        assert new.left is not leaf and not np.shares_memory(new.left.values, LARGE)
        assert np.array_equal(new.more[1], LARGE + 1) and np.array_equal(new.left.doubled, 2 * LARGE)
        assert "doubled" in vars(leaf) and new.left.name == "leaf"
        plain = (1, "two", small, Leaf(np.ones((2, 2))))
        assert room.shelved(plain) is plain


def test_arrays_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FILE", LARGE.nbytes + 100)
    with scratch(tmp_path / "out") as room:
        held = [room.keep(LARGE + number) for number in range(3)] + [room.keep(np.tile(LARGE, (3, 1)))]
        assert len(os.listdir(room.folder)) == 4
        assert all(np.array_equal(array, LARGE + number) for number, array in enumerate(held[:3]))
        assert np.array_equal(held[3], np.tile(LARGE, (3, 1)))


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt, MachineError])
def test_nothing_is_left(tmp_path: Path, failure: type[BaseException] | None) -> None:
    def use() -> None:
        with scratch(tmp_path / "out") as room:
            room.keep(LARGE)
            assert os.listdir(tmp_path)
            if failure is not None:
                raise failure()

    if failure is None:
        use()
    else:
        with pytest.raises(failure):
            use()
    assert os.listdir(tmp_path) == [] and str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_an_array_that_somebody_kept_outlives_the_folder(tmp_path: Path) -> None:
    with scratch(tmp_path / "out") as room:
        held = room.keep(LARGE)
    assert os.listdir(tmp_path) == [] and np.array_equal(held, LARGE)


def test_without_a_place_it_is_made_where_temporary_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch(None) as room:
        assert room.folder.parent == tmp_path
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["write", "truncate"])
def test_a_full_disk_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    class Full(io.FileIO):
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    if step == "truncate":
        Full.truncate = Full.write  # type: ignore[assignment, method-assign]
    monkeypatch.setattr(module.io, "FileIO", Full)
    with pytest.raises(MachineError, match="No space left"), scratch(tmp_path / "out") as room:
        room.keep(LARGE)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="choose another folder"), scratch(tmp_path / "gone" / "out"):
        pass
