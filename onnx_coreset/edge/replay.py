"""Widths from an earlier report, which somebody may have edited since."""

from __future__ import annotations

import json
import os

from onnx_coreset.errors import UsageError


def load_widths(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return the widths of a JSON report.

    Args:
        path: A report: of its chains, `name` and `width_after` are read and nothing else.

    Returns:
        Width by name of the chain; chains without a width, skipped ones, are left out.

    Raises:
        UsageError: It cannot be read, is no report, gives a chain two widths, or one that is no whole number above 0.
    """
    where = f"--widths {os.fspath(path)}"
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON: {error}") from error
    chains = report.get("chains") if isinstance(report, dict) else None
    if not isinstance(chains, list) or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in chains):
        raise UsageError(f"{where} is no report: it has no list of chains with names")
    widths: dict[str, int] = {}
    for chain in chains:
        name, width = chain["name"], chain.get("width_after")
        if width is None:
            continue
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise UsageError(f"{where}: width_after of {name} must be a whole number, at least 1, not {width!r}")
        if widths.get(name, width) != width:
            raise UsageError(f"{where}: {name} stands there twice, with widths {widths[name]} and {width}")
        widths[name] = width
    return widths
