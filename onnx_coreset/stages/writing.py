"""Last stage: the result and its report go to the disk, together or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_coreset.edge import files
from onnx_coreset.edge.ranges import bring
from onnx_coreset.edge.saving import Tell, staged
from onnx_coreset.options import Options
from onnx_coreset.report import FileFacts, Report, Result
from onnx_coreset.stages.opening import Opened

Clock = Callable[[str], AbstractContextManager[None]]


def write_out(
    model: onnx.ModelProto,
    out: str | os.PathLike[str] | None,
    opened: Opened,
    options: Options,
    facts: FileFacts,
    report: Callable[[FileFacts], Report],
    clock: Clock,
    tell: Tell,
) -> Result:
    """Write a model and the report of its making.

    Args:
        model: The model; its tensors may be in files.
        out: Where it goes, or None to write the report alone.
        opened: What it was made of; its files are never removed.
        options: What was asked.
        facts: What is known of the result.
        report: Makes the report from all that is known of the result.
        clock: Measures time, by stage.
        tell: Called with (stage, done, total, detail).

    Returns:
        The model, and the report. Large tensors that were in files when it was made are named by where they were
        written to, relative to the folder of OUT. A model that was not written holds all its tensors, unless it is of a
        dry run: then large ones may be named only by where they were.

    Raises:
        MachineError: It cannot be written, or not be held in memory.
    """
    contents: dict[files.AnyPath, bytes | Path] = {}
    with ExitStack() as stage:
        if out is not None and not options.dry_run:
            with clock("save"):
                spare = () if opened.source is None else (opened.source.path, *opened.source.data)
                ready = stage.enter_context(staged(out, model, options.external_data, spare, tell))
                model, contents[out] = ready.model, ready.content
                facts = replace(facts, bytes=ready.bytes, sha256=ready.sha256)
        elif not options.dry_run:
            model = bring(model)
        done = report(facts)
        # Together, the model last: where one cannot be written, there is neither.
        files.save(report_file(done, options) | contents)
    return Result(model, done)


def report_file(report: Report, options: Options) -> dict[files.AnyPath, bytes | Path]:
    """Return the report as a file to save, if one was asked for."""
    return {} if options.report is None else {options.report: report.to_json().encode()}
