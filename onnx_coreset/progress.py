"""How far the work is, for a person who looks at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "shown"]

Progress = Callable[[str, int, int, str], None]


@contextmanager
def shown(quiet: bool) -> Iterator[Progress | None]:
    """A line on stderr that says how far the work is; nothing where nobody looks at it."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from onnx_coreset.render import clean

    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int, detail: str) -> None:
            bar.update(task, description=clean(f"{stage} {detail}".strip()), completed=done, total=total or None)

        yield show
