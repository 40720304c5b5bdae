"""A model on its way to a disk, in one file or with its weights in a second one beside it.

Tensors that are still in other files are copied from there as they are, by the system where it can do that on its own.
The second file, if there is one, is written first, under a name that nothing has, and the model that names it takes
OUT's place afterwards; data of the model that was there before are removed last. A crash leaves the old model with its
data or the new one with its own, and at worst a file that nobody names, which the next run removes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from itertools import count
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import numpy_helper

from onnx_coreset.edge.files import AnyPath, serialised
from onnx_coreset.edge.leftovers import clear, data_of, note
from onnx_coreset.edge.light import copied
from onnx_coreset.edge.ranges import Range, files, refer, reference, take_in, weight
from onnx_coreset.edge.temporary import held, new_file
from onnx_coreset.edge.tensors import walk
from onnx_coreset.edge.wire import in_pieces
from onnx_coreset.errors import MachineError, ModelError

__all__ = ["Staged", "staged"]

Tell = Callable[[str, int, int, str], None]

_TOO_LARGE = 2**31
_SMALL = 1024
_ALIGNED = 4096
_CHUNK = 1 << 26
_BUFFER = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@dataclass(frozen=True)
class Staged:
    """A model ready to be written.

    Attributes:
        model: The model as it will lie on the disk. Large tensors that were in other files, and all data where they
            have a file of their own, are where they were written to, named as beside OUT.
        content: The bytes of the model file, or the temporary file that holds them.
        bytes: The size of the model file and of its data together.
        sha256: Of the model file alone, in hexadecimal.
    """

    model: onnx.ModelProto
    content: bytes | Path
    bytes: int
    sha256: str


@contextmanager
def staged(out: AnyPath, model: onnx.ModelProto, external: bool, spare: Iterable[Path], tell: Tell) -> Iterator[Staged]:
    """Write the data of a model, if they go to a file of their own, and remove what is then of no use.

    Args:
        out: Where the model will go; the caller writes it, as the last thing inside the context.
        model: The model; it is not changed.
        external: Whether data go to a file of their own; they do in any case from 2 GB on.
        spare: Files that are not removed, whoever names them.
        tell: Called with ("save", bytes written, bytes in all, name of the file).

    Yields:
        The model file. An exception inside the context removes the data again.

    Raises:
        MachineError: The disk is full, or memory is.
        ModelError: A file that holds tensors went away or became shorter.
    """
    place = Path(out)
    clear(place.parent)
    old = [path for path in data_of(place) if not any(_same(path, other) for other in spare)]
    made: list[Path] = []
    try:
        with ExitStack() as stack:
            beside = external or weight(model) >= _TOO_LARGE
            notes = _temporary(place, stack, made) if old or beside else None
            for path in old:
                assert notes is not None
                note(notes, path, path.name)
            if beside:
                assert notes is not None
                yield _beside(place, model, _temporary(place, stack, made), made, notes, tell)
            elif files(model):
                yield _in_one(place, model, _temporary(place, stack, made), tell)
            else:
                content = serialised(model, out)
                yield Staged(model, content, len(content), sha256(content).hexdigest())
    except BaseException as error:
        for leftover in made:
            with suppress(OSError):
                leftover.unlink()
        if isinstance(error, OSError):
            raise MachineError(
                f"{out} was not written ({error.strerror or error}); make room, check the permissions, "
                "or choose another folder"
            ) from error
        raise
    for path in old:
        with suppress(OSError):
            path.unlink()


def _temporary(out: Path, stack: ExitStack, made: list[Path]) -> Path:
    """Make a temporary file beside OUT, which goes at the end if it is still there; note it in `made`."""
    path = stack.enter_context(held(new_file(out.parent)))
    made.append(path)
    stack.callback(path.unlink, missing_ok=True)
    return path


def _beside(out: Path, model: onnx.ModelProto, temporary: Path, made: list[Path], notes: Path, tell: Tell) -> Staged:
    """Write the data of a model to a file of their own."""
    plan = _Plan()
    result = copied(model, plan.take)
    for other in walk(result):
        plan.move(other.tensor)
    _write(out, temporary, plan.pieces, plan.size, tell)
    data = _named(out, temporary, made, notes)
    for tensor, start, length in plan.tensors:
        refer(tensor, Range(data.name, start, length))
    content = serialised(result, out)
    return Staged(result, content, len(content) + plan.size, sha256(content).hexdigest())


def _in_one(out: Path, model: onnx.ModelProto, temporary: Path, tell: Tell) -> Staged:
    """Write a model whose tensors are in other files to a single one."""
    pieces: dict[int, onnx.TensorProto | Range | bytes] = {}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    starts: dict[Range, int] = {}
    size = 0
    for piece in in_pieces(model):
        pieces[size] = piece
        if isinstance(piece, Range):
            starts.setdefault(piece, size)
        size += piece.length if isinstance(piece, Range) else len(piece)
    _write(out, temporary, pieces, size, tell)
    for place in walk(result):
        found = reference(place.tensor)
        if found in starts:
            refer(place.tensor, Range(out.name, starts[found], found.length))
        elif found is not None:
            take_in(place.tensor, found)
    with open(temporary, "rb") as file:
        return Staged(result, temporary, size, file_digest(file, "sha256").hexdigest())


@dataclass
class _Plan:
    """What a data file will hold.

    Attributes:
        tensors: Tensors of the new model with where their bytes start and how many there are.
        pieces: What is written, by where: the data of a tensor, or a range of another file.
        size: Bytes of the file.
    """

    tensors: list[tuple[onnx.TensorProto, int, int]] = field(default_factory=list)
    pieces: dict[int, onnx.TensorProto | Range | bytes] = field(default_factory=dict)
    size: int = 0
    _known: dict[Range, int] = field(default_factory=dict)

    def take(self, tensor: onnx.TensorProto, target: onnx.TensorProto) -> bool:
        """Plan the data of an initializer that holds them; `target` is the same without. Return whether they go."""
        if reference(tensor) is not None or tensor.data_type == onnx.TensorProto.STRING:
            return False
        if not tensor.HasField("raw_data"):
            if tensor.ByteSize() < _SMALL:
                return False
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensor))
            for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                target.ClearField(name)
        length = len(tensor.raw_data)
        if length < _SMALL:
            return False
        self.tensors.append((target, self._add(tensor, length), length))
        return True

    def move(self, tensor: onnx.TensorProto) -> None:
        """Plan the data of a tensor that are in another file; those that several tensors share are written once."""
        place = reference(tensor)
        if place is not None and os.path.isabs(place.path):
            if place not in self._known:
                self._known[place] = self._add(place, place.length)
            self.tensors.append((tensor, self._known[place], place.length))

    def _add(self, piece: onnx.TensorProto | Range, length: int) -> int:
        start = -(-self.size // _ALIGNED) * _ALIGNED
        self.pieces[start] = piece
        self.size = start + length
        return start


def _write(
    out: Path, temporary: Path, pieces: Mapping[int, onnx.TensorProto | Range | bytes], size: int, tell: Tell
) -> None:
    with open(temporary, "r+b", buffering=0) as file:
        for start, piece in pieces.items():
            tell("save", start, size, out.name)
            if isinstance(piece, Range):
                for done in _copy(piece, file, start):
                    tell("save", start + done, size, out.name)
            else:
                file.seek(start)
                view = memoryview(piece if isinstance(piece, bytes) else piece.raw_data)
                while view:
                    view = view[file.write(view) :]
        tell("save", size, size, out.name)
        os.fsync(file.fileno())


def _copy(piece: Range, file: BinaryIO, start: int) -> Iterator[int]:
    """Copy a range of another file; yield how many bytes are there."""
    done = 0
    with _source(piece) as source:
        while done < piece.length:
            wanted = min(_CHUNK, piece.length - done)
            moved = _by_the_system(source, piece.offset + done, file, start + done, wanted)
            if moved == 0:
                source.seek(piece.offset + done)
                file.seek(start + done)
                data = source.read(min(_BUFFER, wanted))
                if not data:
                    raise ModelError(f"{piece.path} became shorter meanwhile; try again")
                moved = file.write(data)
            done += moved
            yield done


def _source(piece: Range) -> BinaryIO:
    try:
        return open(piece.path, "rb", buffering=0)
    except OSError as error:
        raise ModelError(f"{piece.path} cannot be read any more ({error.strerror}); try again") from error


def _by_the_system(source: BinaryIO, offset: int, target: BinaryIO, start: int, length: int) -> int:
    """Let the system copy bytes between files; return how many it did, 0 where it cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), length, offset, start)
    except OSError as error:
        # A full disk is no reason to try another way; anything else may be one.
        if error.errno in _FULL:
            raise
        return 0


def _named(out: Path, temporary: Path, made: list[Path], notes: Path) -> Path:
    """Give the data file a name beside OUT that nothing has; what was made is noted in `made`."""
    for number in count():
        place = out.with_name(f"{out.name}{f'-{number}' if number else ''}.data")
        note(notes, temporary, place.name)
        try:
            os.link(temporary, place)
        except FileExistsError:
            continue
        except OSError:
            # Not every file system has links: the name is taken by an empty file first.
            try:
                os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                continue
            made.append(place)
            os.replace(temporary, place)
            return place
        made.append(place)
        temporary.unlink()
        return place
    raise AssertionError("there are always more names")


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return False
