"""optimize(), sweep() and inspect(): the stages of a run, in their order, and nothing else.

open -> find the chains -> sample their inputs -> narrow them -> write them all -> judge the whole ->
report -> save. Nothing touches the disk before the last step.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from onnx_coreset.core.methods import METHODS, Method
from onnx_coreset.edge import files
from onnx_coreset.edge.crew import Crew, crew
from onnx_coreset.edge.ranges import bring, weight
from onnx_coreset.edge.runtime import choose
from onnx_coreset.edge.scratch import scratch
from onnx_coreset.errors import Rejected, UsageError, ValidationError
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.model.facts import macs, parameters
from onnx_coreset.graph.skip import Skip
from onnx_coreset.options import Options
from onnx_coreset.report import FileFacts, Report, Result, Validation
from onnx_coreset.stages import summary
from onnx_coreset.stages.blind import NOTE, blind
from onnx_coreset.stages.certifying import proven
from onnx_coreset.stages.clock import Clock
from onnx_coreset.stages.correcting import corrected
from onnx_coreset.stages.doubts import doubts
from onnx_coreset.stages.judging import Judged, judge
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import open_model, with_parameters
from onnx_coreset.stages.polishing import polished
from onnx_coreset.stages.sampling import Sources, sources
from onnx_coreset.stages.statements import Statements, statements
from onnx_coreset.stages.walking import Analysis, narrow
from onnx_coreset.stages.writing import report_file, write_out

__all__ = ["inspect", "optimize", "sweep"]

AnyModel = str | os.PathLike[str] | onnx.ModelProto
Progress = Callable[[str, int, int, str], None]


def optimize(
    model: AnyModel,
    out: str | os.PathLike[str] | None = None,
    *,
    accept: Callable[[onnx.ModelProto], bool] | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    options: Options | None = None,
    **fields: Any,
) -> Result:
    """Make the hidden layers of a model narrower.

    Args:
        model: Path of a model, or a model in memory, which is not changed.
        out: Where to write the result; None to write nothing.
        accept: A test of your own: the result is thrown away where it returns False.
        progress: Called with (stage, done, total, detail).
        executor: Who works on layers, instead of this process; the result is the same. Workers on other machines must
            see the folder of `out`, or without `out` that of temporary files, under the same path.
        options: What is asked; instead, fields of `Options` by name.
        **fields: Fields of `Options`.

    Returns:
        The narrower model and the report.

    Raises:
        UsageError: Options or paths that cannot be used.
        ModelError: The model is unreadable or invalid.
        MachineError: Disk, memory or the execution provider failed.
        ValidationError: The result failed validation; it carries the report.
        Rejected: `accept` returned False; it carries the report.
    """
    options = _options(options, fields)
    clock, tell = Clock(), progress or _silent
    with ExitStack() as room:
        analysis = _analysed(model, out, options, clock, tell, room, executor)
        return _done(analysis, options, clock, tell, out, accept)


def sweep(
    model: AnyModel,
    ratios: Iterable[float],
    *,
    accept: Callable[[onnx.ModelProto], bool] | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> Iterator[Result]:
    """Make a family of narrower models from one analysis: layers are sampled and their neurons ordered once.

    Args:
        model: Path of a model, or a model in memory, which is not changed.
        ratios: Share of neurons that every layer keeps, one a result.
        accept: As for `optimize`.
        progress: As for `optimize`.
        executor: As for `optimize`; the neurons are ordered there, and what is different for each ratio is done here.
        **fields: Fields of `Options`, but no other target and no `report`: nothing is written.

    Returns:
        Results in the order of `ratios`, each made when it is asked for; the same as `optimize` with that ratio gives,
        but for the seconds, which count what was done since the result before.

    Raises:
        UsageError: Options that cannot be used, before anything is made.
        ModelError: The model is unreadable or invalid.
        MachineError: Memory or the execution provider failed.
        ValidationError: When its turn comes: a result failed validation.
        Rejected: When its turn comes: `accept` returned False.
    """
    family = [Options.make(**fields, ratio=ratio) for ratio in ratios]
    if fields.get("report") is not None:
        raise UsageError("a sweep writes no report: take it from each result")
    return _family(model, family, accept, progress or _silent, executor)


def _family(
    model: AnyModel,
    family: list[Options],
    accept: Callable[[onnx.ModelProto], bool] | None,
    tell: Progress,
    executor: Executor | None,
) -> Iterator[Result]:
    clock = Clock()
    if isinstance(model, onnx.ModelProto):
        # Between two results, the caller may do to it what they like.
        model = copy.deepcopy(model)
    with ExitStack() as room:
        analysis = _analysed(model, None, family[0], clock, tell, room, executor) if family else None
        for options in family:
            assert analysis is not None
            yield _done(analysis, options, clock, tell, None, accept, keep=True)
            clock = Clock()


# Weights near the ends of their type overflow on the way to a verdict, which names them; numpy would print warnings.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _analysed(
    model: AnyModel,
    out: str | os.PathLike[str] | None,
    options: Options,
    clock: Clock,
    tell: Progress,
    room: ExitStack,
    executor: Executor | None,
) -> Analysis:
    """Open a model and sample the inputs of its layers; what that needs on a disk goes when `room` is closed."""
    method = _method(options)
    with clock("open"):
        tell("open", 0, 0, "")
        provider = choose(options.provider)  # type: ignore[arg-type]
        if provider.reason is not None:
            logging.getLogger(__name__).info("runs on the CPU: %s", provider.reason)
        opened = open_model(model, out, options)
        opened = replace(opened, facts=_sized(opened.facts, opened.original))
        shared = (executor is not None or options.jobs > 1) and not blind(options)
        place = room.enter_context(scratch(None if options.dry_run else out)) if shared or opened.large else None
        opened = replace(opened, scratch=place if opened.large else None)
        workers = room.enter_context(crew(executor, options.jobs, place) if shared else nullcontext(Crew()))
    with clock("sample"):
        tell("sample", 0, 0, "")
        found = Sources(None, None, {}, (NOTE,)) if blind(options) else sources(opened, options, provider)
    return Analysis(opened, found, method, provider, workers)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _done(
    analysis: Analysis,
    options: Options,
    clock: Clock,
    tell: Progress,
    out: str | os.PathLike[str] | None,
    accept: Callable[[onnx.ModelProto], bool] | None,
    keep: bool = False,
) -> Result:
    """Narrow, judge, report and write."""
    with clock("narrow"):
        chains = narrow(analysis, options, tell, keep)
    with clock("correct"):
        chains = corrected(chains, analysis.opened, analysis.found, options, analysis.provider, tell)
    with clock("polish"):
        chains = polished(chains, analysis.opened, analysis.found, options, analysis.provider, tell)
    with clock("validate"):
        tell("validate", 0, 0, "")
        present = [chain for chain in chains if isinstance(chain, Narrowed)]
        judged = judge(analysis.opened, present, analysis.found, options, analysis.provider)
    with clock("certify"):
        judged = proven(judged, analysis.opened, options, tell, analysis.crew)
    with clock("state"):
        said = statements(judged, analysis.opened, analysis.found, options, analysis.provider, tell)
    return _finish(analysis, chains, judged, said, options, clock, tell, out, accept)


def _finish(
    analysis: Analysis,
    chains: list[Narrowed | Skip],
    judged: Judged,
    said: Statements,
    options: Options,
    clock: Clock,
    tell: Progress,
    out: str | os.PathLike[str] | None,
    accept: Callable[[onnx.ModelProto], bool] | None,
) -> Result:
    """Report, and only then write."""
    if judged.model is analysis.opened.original and analysis.opened.source is None:
        # What is done to the result must not happen to the caller's model.
        judged = replace(judged, model=copy.deepcopy(judged.model))
    final = iter(judged.chains)
    settled = [chain if isinstance(chain, Skip) else next(final) for chain in chains]
    carried = judged.comparison.carried if judged.comparison is not None else {}
    rows = [summary.skipped(c) if isinstance(c, Skip) else summary.chain_report(c, options, carried) for c in settled]
    notes = [*analysis.found.notes, *judged.notes, *judged.faults]
    notes += () if blind(options) else doubts(judged.chains, analysis.opened, options)
    if any(not c.ran for c in settled if isinstance(c, Narrowed)) and options.validate:
        notes.append("ONNX Runtime has no kernels for some layers: their errors were computed in float64")
    verdict = summary.validation(judged, analysis.found, analysis.provider, notes)
    rows, verdict = summary.said(rows, verdict, said)
    path = None if out is None else os.fspath(out)
    output = _sized(FileFacts(path=path, bytes=weight(judged.model)), judged.model)

    def report(facts: FileFacts) -> Report:
        return summary.report(analysis.opened, options, rows, verdict, facts, clock.seconds)

    if judged.faults:
        failed = report(replace(output, bytes=None, sha256=None))
        files.save(report_file(failed, options))
        raise ValidationError("validation failed, nothing was written: " + judged.faults[0], failed)
    if accept is not None and not accept(bring(judged.model)):
        failed = report(replace(output, bytes=None, sha256=None))
        files.save(report_file(failed, options))
        raise Rejected("the pipeline's own test refused the result, nothing was written", failed)
    return write_out(judged.model, out, analysis.opened, options, output, report, clock, tell)


def inspect(model: AnyModel, *, options: Options | None = None, **fields: Any) -> Report:
    """List where a model could be made narrower, and why not elsewhere. Nothing is run or written but the report.

    Args:
        model: Path of a model, or a model in memory, which is not changed.
        options: What is asked; instead, fields of `Options` by name.
        **fields: Fields of `Options`.

    Returns:
        A report without an output: chains that can be cut have no status, other places are skipped.

    Raises:
        UsageError: Options or paths that cannot be used.
        ModelError: The model is unreadable or invalid.
    """
    options = _options(options, fields)
    clock = Clock()
    with clock("open"):
        opened = open_model(model, None, options)
        opened = replace(opened, facts=_sized(opened.facts, opened.original))
        rows = [
            summary.skipped(place) if isinstance(place, Skip) else summary.mapped(place, read(opened.document, place))
            for place in opened.places
        ]
    done = summary.report(opened, options, rows, Validation(), FileFacts(), clock.seconds)
    files.save(report_file(done, options))
    return done


def _silent(*_: object) -> None:
    """Tell nobody."""


def _options(options: Options | None, fields: dict[str, Any]) -> Options:
    if options is None:
        return Options.make(**fields)
    if fields:
        raise UsageError(f"give options, or fields by name such as {next(iter(fields))}, but not both")
    return options


def _method(options: Options) -> Method:
    if not isinstance(options.method, str):
        if isinstance(options.method, Method):
            return options.method
        raise UsageError("method is neither a name nor a method: it needs name, requires and select")
    if options.method not in METHODS:
        raise UsageError(f"--method {options.method}: there are {', '.join(METHODS)}")
    return METHODS[options.method]


def _sized(facts: FileFacts, model: onnx.ModelProto) -> FileFacts:
    return with_parameters(facts, parameters(model), macs(model))
