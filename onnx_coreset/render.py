"""The report for a person: a table of the layers, what was left alone and why, and what the whole model lost.

Only here is rich used, and only once something is to be shown.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from onnx_coreset.report import ChainReport, FileFacts, Report
from onnx_coreset.spoken import beyond, elsewhere, unseen
from onnx_coreset.wording import (
    clean,
    corrected,
    count,
    domain,
    free,
    norms,
    offer,
    refined,
    size,
    small,
    target,
    through,
    whole,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["clean", "report_text"]

_NAMES_SHOWN = 3
_OFFERS_SHOWN = 10
_PLAIN_WIDTH = 80


def report_text(report: Report, *, verbose: bool = False, terminal: bool = False, width: int | None = None) -> str:
    """Lay a report out as text.

    Args:
        report: What happened; where nothing was decided yet, it is shown as a map of what could be cut.
        verbose: Also say every name, which neurons stay, the laws and the time of each stage.
        terminal: Colours and lines that a terminal can show; otherwise plain ASCII around the names.
        width: Columns; None for the terminal's own, or 80 where there is none.

    Returns:
        Lines, the last one ended; names are folded, never cut.
    """
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width if width or terminal else _PLAIN_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    parts = _map(report, verbose, terminal) if _undecided(report) else _story(report, verbose, terminal)
    for part in parts:
        console.print(part, overflow="fold")
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def _undecided(report: Report) -> bool:
    return report.output == FileFacts() and all(chain.status in (None, "skipped") for chain in report.chains)


def _map(report: Report, verbose: bool, terminal: bool) -> Iterator[RenderableType]:
    chains = [chain for chain in report.chains if chain.status is None]
    yield f"{count(len(chains), 'layer')} can be made narrower in {clean(report.input.path or 'the model')}"
    if chains:
        table = _table(terminal, ("layer", "activation", "> width", "> inputs", "> outputs"))
        for chain in chains:
            numbers = (chain.width_before, chain.inputs, chain.outputs)
            table.add_row(clean(chain.name), clean(chain.activation or "-"), *map(whole, numbers))
        yield from ("", table)
    yield from _left_alone(report, verbose)
    yield ""
    yield f"parameters  {whole(report.input.parameters)}"
    yield from _warnings(report)


def _story(report: Report, verbose: bool, terminal: bool) -> Iterator[RenderableType]:
    chains = [chain for chain in report.chains if chain.status != "skipped"]
    arrow = "\N{RIGHTWARDS ARROW}" if terminal else "->"
    if chains:
        table = _table(terminal, ("layer", "activation", "> width", "> rms", "> p99", "> max", "> carried", "status"))
        for chain in chains:
            table.add_row(*_chain_row(chain, arrow))
        yield table
        yield ""
        yield f"{target(report)}\nrms, p99, max: {norms(chains)}"
        yield "carried: the same rms inside the shrunk model, where earlier layers are cut too; eps is not about it."
    yield from _worst(chains, terminal)
    told = "the largest error of an input that was not seen, over the layer's spread:"
    yield from _asides(told, unseen(chains), verbose)
    fitted = [line for chain in chains if (line := corrected(chain))]
    yield from _asides("refitted to what reaches them inside the shrunk model:", fitted, verbose)
    yield from _asides("polished, all weights of the neurons that stay:", refined(chains), verbose)
    costless = [line for chain in chains if (line := free(chain))]
    yield from _asides("lossless, being constant, duplicate, expressed by others or unread:", costless, verbose)
    yield from _left_alone(report, verbose)
    if verbose:
        yield from _details(chains)
    yield ""
    yield _totals(report, arrow, verbose)
    yield ""
    yield from _verdict(report, terminal)
    yield from _warnings(report)


def _table(terminal: bool, columns: tuple[str, ...]) -> Table:
    """A table without side borders; a column that begins with '>' is a column of numbers."""
    from rich import box
    from rich.table import Table

    dashes = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    style = box.SIMPLE_HEAD if terminal else dashes
    table = Table(box=style, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        numbers = column.startswith("> ")
        table.add_column(
            column.removeprefix("> "),
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=numbers,
            min_width=12 if column == "layer" else None,
        )
    return table


def _chain_row(chain: ChainReport, arrow: str) -> tuple[str | Text, ...]:
    from rich.text import Text

    narrower = chain.status == "pruned" and chain.width_after is not None
    width = f"{chain.width_before} {arrow} {chain.width_after}" if narrower else whole(chain.width_before)
    errors = (chain.error.relative.rms, chain.error.relative.p99, chain.error.relative.max, _carried(chain))
    return (
        clean(chain.name),
        clean(chain.activation or "-"),
        width,
        *map(small, errors),
        Text(chain.status or "-", style="green" if narrower else "yellow"),
    )


def _worst(chains: list[ChainReport], terminal: bool) -> Iterator[RenderableType]:
    """What is proven about the narrower layers, for every input of a domain."""
    known = [chain for chain in chains if chain.error.attacked is not None]
    if not known:
        return
    table = _table(terminal, ("layer", "> found", "> proven", "for all inputs in"))
    for chain in known:
        error = chain.error
        ends = (
            (value / (error.spread or 1.0) if value is not None else None)
            for value in (error.attacked, error.certified)
        )
        table.add_row(clean(chain.name), *map(small, ends), domain(error.domain))
    yield ""
    yield "at worst, the largest error of any output in units of the spread: found by search, and proven never exceeded"
    yield table


def _carried(chain: ChainReport) -> float | None:
    error = chain.error
    return error.carried_rms / error.spread if error.carried_rms is not None and error.spread else error.carried_rms


def _asides(title: str, lines: list[str], verbose: bool) -> Iterator[RenderableType]:
    """What else there is to say of some layers, of a few of them unless `verbose`."""
    if lines:
        yield ""
        yield title
    yield from (_indented(line) for line in (lines if verbose else lines[:_OFFERS_SHOWN]))
    if len(lines) > _OFFERS_SHOWN and not verbose:
        yield _indented(f"and {len(lines) - _OFFERS_SHOWN} more layers: the report, or --verbose")


def _left_alone(report: Report, verbose: bool) -> Iterator[RenderableType]:
    """Places that did not get narrower: those with the same code together, in full those with the same reason."""
    stayed = [chain for chain in report.chains if chain.status in ("kept", "skipped")]

    def why(chain: ChainReport) -> tuple[str, str, str]:
        reason = chain.reason or "no reason given"
        return chain.status or "", chain.code or "", reason if verbose or not chain.code else ""

    if stayed:
        yield ""
        yield f"left as they are: {count(len(stayed), 'place')}"
    for (status, code, _), members in groupby(sorted(stayed, key=why), why):
        group = list(members)
        names = [clean(chain.name) for chain in group]
        reasons = list(dict.fromkeys(chain.reason or "no reason given" for chain in group))
        reason = reasons[0] if len(reasons) == 1 else f"{reasons[0]}, and the like"
        shown = names if verbose else names[:_NAMES_SHOWN]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        label = f"{status}, {clean(code)}" if code else status
        yield _indented(f"{len(names)} {label}: {clean(reason)}")
        yield _indented(", ".join(shown) + more, 4)
        offers = [line for chain in group if (line := offer(chain))]
        yield from (_indented(line, 4) for line in (offers if verbose else offers[:_OFFERS_SHOWN]))
        if len(offers) > _OFFERS_SHOWN and not verbose:
            yield _indented(f"and {len(offers) - _OFFERS_SHOWN} more: the report's curves, or --verbose", 4)


def _indented(text: str, columns: int = 2) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, overflow="fold"), (0, 0, 0, columns))


def _details(chains: list[ChainReport]) -> Iterator[RenderableType]:
    for chain in chains:
        yield ""
        yield f"{clean(chain.name)}: {whole(chain.inputs)} inputs, {whole(chain.outputs)} outputs"
        facts = (("inputs drawn from", chain.law), ("chosen by", chain.method), ("read by", ", ".join(chain.consumers)))
        for label, fact in facts:
            if fact:
                yield _indented(f"{label} {clean(fact)}")
        if chain.kept is not None:
            yield _indented(f"keeps {_ranges(chain.kept)}")


def _ranges(indices: tuple[int, ...]) -> str:
    """Increasing indices with runs drawn together: 0-3, 7, 9-10."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _totals(report: Report, arrow: str, verbose: bool) -> RenderableType:
    from rich.table import Table

    before, after = report.input, report.output
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for label, old, new, show in (
        ("parameters", before.parameters, after.parameters, whole),
        ("MACs", before.macs, after.macs, whole),
        ("file", before.bytes, after.bytes, size),
    ):
        if old is not None:
            share = f"({100 * new / old:.1f} %)" if new is not None and old else ""
            table.add_row(label, f"{show(old)} {arrow} {show(new)}", share)
    table.add_row("time", f"{sum(report.seconds.values()):.1f} s", "")
    if verbose:
        for stage, seconds in report.seconds.items():
            table.add_row(f"  {clean(stage)}", f"{seconds:.2f} s", "")
    return table


def _verdict(report: Report, terminal: bool) -> Iterator[RenderableType]:
    checked = report.validation
    where = f" on {clean(checked.provider)}" if checked.provider else ""
    what = f", {count(checked.samples, 'sample')}" if checked.samples is not None else ""
    law = f", inputs: {clean(checked.law)}" if checked.law else ""
    words = {True: "passed", False: "FAILED", None: "not judged"}[checked.passed]
    if report.options.get("validate") is False:
        words = "not run (--no-validate)"
    yield f"validation: {words}{where}{what}{law}"
    if checked.outputs:
        table = _table(terminal, ("model output", "> max", "> rms", "> rms / spread"))
        for output in checked.outputs:
            table.add_row(clean(output.name), *map(small, (output.max, output.rms, output.relative_rms)))
        yield table
    yield from through(checked.end_to_end)
    if report.options.get("validate") is not False:
        yield from beyond(checked.statement)
    yield from elsewhere(checked.shifts)
    if checked.random_outputs:
        yield f"random by design, not judged: {', '.join(map(clean, checked.random_outputs))}"


def _warnings(report: Report) -> Iterator[RenderableType]:
    yield from (f"warning: {clean(note)}" for note in report.validation.notes)
