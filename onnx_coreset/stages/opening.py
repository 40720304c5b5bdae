"""First stage: a model that can be trusted to be a model, and every place in it that could be narrowed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import onnx
import onnx.inliner

from onnx_coreset.edge import files
from onnx_coreset.edge.light import light
from onnx_coreset.edge.machine import SESSION_FACTOR, fair_share
from onnx_coreset.edge.ranges import weight
from onnx_coreset.edge.replay import load_widths
from onnx_coreset.edge.runtime import accepts
from onnx_coreset.edge.scratch import Scratch
from onnx_coreset.edge.tensors import check_all
from onnx_coreset.errors import ModelError, UsageError
from onnx_coreset.graph.model.calls import MANY_CALLED, check_calls
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.model.order import in_order
from onnx_coreset.graph.skip import Skip
from onnx_coreset.graph.space import Space, spaces
from onnx_coreset.options import Options
from onnx_coreset.report import FileFacts
from onnx_coreset.stages.blind import blind

_LARGEST = 2**31


@dataclass(frozen=True)
class Opened:
    """A model, opened.

    Attributes:
        original: The model as it was given.
        model: The same in topological order.
        document: The same, for finding.
        places: Every neuron axis, in topological order.
        facts: The file.
        refusal: Why the model is not run: what ONNX Runtime says against it, or that it would take too much memory;
            None where it is run, or need not be.
        checked: Whether the checker accepts the model.
        left_out: The places that the options leave out, by name; among `places` they are skipped.
        replayed: Width of each chain by an earlier report, or None where none is replayed.
        source: The file as it was read, or None for a model that was given in memory.
        scratch: Room for what memory should not hold, or None where memory may.
    """

    original: onnx.ModelProto
    model: onnx.ModelProto
    document: Document
    places: tuple[Space | Skip, ...]
    facts: FileFacts
    refusal: str | None
    checked: bool
    left_out: Mapping[str, Space] = field(default_factory=dict)
    replayed: Mapping[str, int] | None = None
    source: files.Loaded | None = None
    scratch: Scratch | None = None

    @property
    def large(self) -> bool:
        """Whether large tensors are still in their files."""
        return self.source is not None and self.source.large

    def forget(self) -> None:
        """Give back the memory of arrays that are on the disk, too; they are read again when they are looked at."""
        if self.scratch is not None:
            self.scratch.forget()

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The places that can be cut."""
        return tuple(place for place in self.places if isinstance(place, Space))

    def asked(self, name: str, options: Options) -> int | None:
        """Return the width that `--width`, and else a replayed report, gives a chain, or None where neither does."""
        named = named_width(name, options)
        return named if named is not None or self.replayed is None else self.replayed.get(name)


def open_model(
    model: str | os.PathLike[str] | onnx.ModelProto, out: str | os.PathLike[str] | None, options: Options
) -> Opened:
    """Open a model.

    Args:
        model: A path, or a model in memory, which is neither changed nor copied.
        out: Where the result will be written, or None.
        options: What was asked.

    Returns:
        The model and its places; those left out by the options are among the skipped ones.

    Raises:
        ModelError: The model is unreadable, has no order, or is accepted by nobody.
        UsageError: A path cannot be used, or a name matches no chain.
    """
    proto, facts, source = _loaded(model, out, options)
    # Before the native code of the checker and of ONNX Runtime, which would not survive some.
    called = check_calls(proto)
    checked, complaint = check(proto)
    spared = _too_large(proto, options)
    if called > MANY_CALLED:
        spared = f"its functions stand for {called} nodes, which take too long to load"
    refusal = spared if spared is not None or (checked and blind(options)) else accepts(proto)
    if refusal is not None and spared is None and not checked:
        raise ModelError(f"neither the ONNX checker nor ONNX Runtime accepts the model: {complaint or refusal}")
    if options.inline_functions and proto.functions:
        proto = _inlined(proto)
    ordered = in_order(proto)
    document = decode(ordered, options.constant_inputs)
    places = list(spaces(document))
    left_out = {p.name: p for p in places if isinstance(p, Space) and _left_out(p.name, options)}
    replayed = None if options.widths is None else _replayed(places, options.widths)
    selected = _selected(places, options)
    return Opened(proto, ordered, document, selected, facts, refusal, checked, left_out, replayed, source)


def _too_large(model: onnx.ModelProto, options: Options) -> str | None:
    """Return why a model is not run although it could be, or None."""
    needed = SESSION_FACTOR * weight(model)
    limit = fair_share() if options.memory_limit is None else options.memory_limit
    if needed <= limit:
        return None
    return f"that would take about {needed / 2**30:.3g} GiB of memory and --memory-limit is {limit / 2**30:.3g} GiB"


def _replayed(places: Sequence[Space | Skip], path: str) -> dict[str, int]:
    """Return the width of every chain by an earlier report; those that it does not name are kept whole."""
    full = {place.name: place.width for place in places if isinstance(place, Space)}
    given = load_widths(path)
    for name, width in given.items():
        if name not in full:
            raise UsageError(f"--widths {path}: {name} is no chain of this model{nearest(name, list(full))}")
        if width > full[name]:
            raise UsageError(f"--widths {path}: {name} has only {full[name]} neurons, not {width}")
    return full | given


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"the functions of the model cannot be inlined: {line}") from error


def _loaded(
    model: str | os.PathLike[str] | onnx.ModelProto, out: str | os.PathLike[str] | None, options: Options
) -> tuple[onnx.ModelProto, FileFacts, files.Loaded | None]:
    if isinstance(model, onnx.ModelProto):
        check_all(model)
        if out is not None:
            files.check_output(out, None, options.overwrite)
        if options.report is not None:
            files.check_report(options.report, None, out)
        return model, FileFacts(bytes=weight(model)), None
    if out is not None:
        files.check_output(out, model, options.overwrite)
    loaded = files.load(model)
    if out is None and not options.dry_run and loaded.large and weight(loaded.model) >= _LARGEST:
        raise UsageError("a model of 2 GB or more cannot be held in memory: say where the result is written")
    if out is not None:
        files.check_output(out, loaded, options.overwrite)
    if options.report is not None:
        files.check_report(options.report, loaded, out)
    facts = FileFacts(path=os.fspath(model), bytes=loaded.bytes, sha256=loaded.sha256)
    return loaded.model, facts, loaded


def check(model: onnx.ModelProto) -> tuple[bool, str]:
    """Return whether the ONNX checker accepts a model, and what it says where it does not, in one line."""
    try:
        onnx.checker.check_model(light(model))
    except Exception as error:
        return False, next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return True, ""


def _selected(places: list[Space | Skip], options: Options) -> tuple[Space | Skip, ...]:
    names = [place.name for place in places if isinstance(place, Space)]
    for flag, patterns in (("--include", options.include), ("--exclude", options.exclude)):
        for pattern in patterns:
            if not any(matches(pattern, name) for name in names):
                raise UsageError(f"{flag} {pattern} matches no chain{nearest(pattern, names)}")
    for pattern, _ in options.radius:
        if pattern and not any(matches(pattern, name) for name in names):
            raise UsageError(f"--radius {pattern} matches no chain{nearest(pattern, names)}")
    for pattern, width in options.width:
        met = [p for p in places if isinstance(p, Space) and matches(pattern, p.name)]
        if not met:
            raise UsageError(f"--width {pattern} matches no chain{nearest(pattern, names)}")
        for place in met:
            if width > place.width:
                raise UsageError(f"--width {pattern}={width}: {place.name} has only {place.width} neurons")
    return tuple(
        Skip(place.name, "left out by --include or --exclude", "excluded", place.width)
        if isinstance(place, Space) and _left_out(place.name, options)
        else place
        for place in places
    )


def _left_out(name: str, options: Options) -> bool:
    included = not options.include or any(matches(pattern, name) for pattern in options.include)
    return not included or any(matches(pattern, name) for pattern in options.exclude)


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern means a name: the exact name first, then as a glob."""
    return pattern == name or fnmatchcase(name, pattern)


def nearest(pattern: str, names: Sequence[str]) -> str:
    """Return a hint that names the chains nearest to a pattern."""
    if not names:
        return ": the model has none"
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names[:3])
    return f"; the nearest: {', '.join(close)}"


def named_width(name: str, options: Options) -> int | None:
    """Return the width that `--width` gives a chain: an exact name before a glob, later ones before earlier ones."""
    exact = [width for pattern, width in options.width if pattern == name]
    globs = [width for pattern, width in options.width if fnmatchcase(name, pattern)]
    named = exact or globs
    return named[-1] if named else None


def with_parameters(facts: FileFacts, parameters: int, macs: int) -> FileFacts:
    """Return file facts with the sizes of the model filled in."""
    return replace(facts, parameters=parameters, macs=macs)
