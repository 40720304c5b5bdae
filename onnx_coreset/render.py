"""The report for a person: a table of the layers, what was left alone and why, and what the whole model lost.

Only here is rich used, and only once something is to be shown.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from onnx_coreset.report import ChainReport, FileFacts, Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["clean", "report_text"]

_NAMES_SHOWN = 3
_PLAIN_WIDTH = 80
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


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


def clean(text: str) -> str:
    """Return text whose control characters are spelled out: a name in a model must not steer a terminal.

    Args:
        text: Anything, such as a tensor's name.

    Returns:
        The same where every character is printable.
    """
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _undecided(report: Report) -> bool:
    return report.output == FileFacts() and all(chain.status in (None, "skipped") for chain in report.chains)


def _map(report: Report, verbose: bool, terminal: bool) -> Iterator[RenderableType]:
    chains = [chain for chain in report.chains if chain.status is None]
    yield f"{_count(len(chains), 'layer')} can be made narrower in {clean(report.input.path or 'the model')}"
    if chains:
        table = _table(terminal, ("layer", "activation", "> width", "> inputs", "> outputs"))
        for chain in chains:
            numbers = (chain.width_before, chain.inputs, chain.outputs)
            table.add_row(clean(chain.name), clean(chain.activation or "-"), *map(_whole, numbers))
        yield from ("", table)
    yield from _left_alone(report, verbose)
    yield ""
    yield f"parameters  {_whole(report.input.parameters)}"
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
        yield f"{_target(report)}\nrms, p99, max: {_norms(chains)}"
        yield "carried: the same rms inside the shrunk model, where earlier layers are cut too; eps is not about it."
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
    width = f"{chain.width_before} {arrow} {chain.width_after}" if narrower else _whole(chain.width_before)
    errors = (chain.error.relative.rms, chain.error.relative.p99, chain.error.relative.max, _carried(chain))
    return (
        clean(chain.name),
        clean(chain.activation or "-"),
        width,
        *map(_small, errors),
        Text(chain.status or "-", style="green" if narrower else "yellow"),
    )


def _carried(chain: ChainReport) -> float | None:
    error = chain.error
    return error.carried_rms / error.spread if error.carried_rms is not None and error.spread else error.carried_rms


def _target(report: Report) -> str:
    options = report.options
    named = "; --width decides for the layers it names" if options.get("width") else ""
    if options.get("ratio") is not None:
        return f"ratio {options['ratio']:g}: the share of neurons that every layer keeps; no eps holds{named}."
    if options.get("eps") is None:
        return f"no eps holds{named}."
    unit = "in the layer's own numbers" if options.get("absolute") else "in units of the layer's spread"
    return f"eps {options['eps']:g} bounds the local error of every layer: its {options.get('error')}, {unit}{named}."


def _norms(chains: list[ChainReport]) -> str:
    text = "norms of the difference over samples and outputs, in units of the layer's spread"
    return text + (" (a spread of 0 counts as 1)." if any(chain.error.spread == 0 for chain in chains) else ".")


def _left_alone(report: Report, verbose: bool) -> Iterator[RenderableType]:
    """Places that did not get narrower: those with the same code together, in full those with the same reason."""
    stayed = [chain for chain in report.chains if chain.status in ("kept", "skipped")]

    def why(chain: ChainReport) -> tuple[str, str, str]:
        reason = chain.reason or "no reason given"
        return chain.status or "", chain.code or "", reason if verbose or not chain.code else ""

    if stayed:
        yield ""
        yield f"left as they are: {_count(len(stayed), 'place')}"
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


def _indented(text: str, columns: int = 2) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, overflow="fold"), (0, 0, 0, columns))


def _details(chains: list[ChainReport]) -> Iterator[RenderableType]:
    for chain in chains:
        yield ""
        yield f"{clean(chain.name)}: {_whole(chain.inputs)} inputs, {_whole(chain.outputs)} outputs"
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
        ("parameters", before.parameters, after.parameters, _whole),
        ("MACs", before.macs, after.macs, _whole),
        ("file", before.bytes, after.bytes, _size),
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
    what = f", {_count(checked.samples, 'sample')}" if checked.samples is not None else ""
    law = f", inputs: {clean(checked.law)}" if checked.law else ""
    words = {True: "passed", False: "FAILED", None: "not judged"}[checked.passed]
    if report.options.get("validate") is False:
        words = "not run (--no-validate)"
    yield f"validation: {words}{where}{what}{law}"
    if checked.outputs:
        table = _table(terminal, ("model output", "> max", "> rms", "> rms / spread"))
        for output in checked.outputs:
            table.add_row(clean(output.name), *map(_small, (output.max, output.rms, output.relative_rms)))
        yield table
    if checked.random_outputs:
        yield f"random by design, not judged: {', '.join(map(clean, checked.random_outputs))}"


def _warnings(report: Report) -> Iterator[RenderableType]:
    yield from (f"warning: {clean(note)}" for note in report.validation.notes)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _whole(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _small(number: float | None) -> str:
    """A number in at most seven signs: 0.0987, 1.2e-7."""
    if number is None:
        return "-"
    if number == 0 or 1e-3 <= abs(number) < 1e5:
        return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"
    digits, _, exponent = f"{number:.1e}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} B"
