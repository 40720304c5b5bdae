"""A map of a folder of models: how many hidden layers can be cut, and why the other places cannot.

    python tools/corpus_map.py FOLDER [--json FILE]

One line a model: layers that can be cut, then skipped places by code. Nothing is run or written but the map.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
from collections.abc import Mapping

import onnx_coreset
from onnx_coreset.errors import CoresetError


def mapped(path: pathlib.Path) -> dict[str, object]:
    """Return the number of layers that can be cut, and of skipped places by code."""
    try:
        report = onnx_coreset.inspect(path)
    except CoresetError as error:
        return {"refused": str(error)}
    codes = collections.Counter(chain.code for chain in report.chains if chain.code)
    return {"cut": sum(chain.code is None for chain in report.chains), "skipped": dict(sorted(codes.items()))}


def counted(numbers: Mapping[str, int]) -> str:
    """Return counts by name as a text."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def main() -> None:
    """Print the map."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    rows: dict[str, dict[str, object]] = {}
    totals: collections.Counter[str] = collections.Counter()
    for path in sorted(args.folder.rglob("*.onnx")):
        name = str(path.relative_to(args.folder))
        row = rows[name] = mapped(path)
        skipped = row.get("skipped", {})
        assert isinstance(skipped, dict)
        totals.update(skipped)
        totals["cut"] += int(str(row.get("cut", 0)))
        print(
            f"{name[:52]:52} {row.get('cut', '-'):>4}  ", ", ".join(f"{c} {n}" for c, n in skipped.items()), flush=True
        )
    print(
        f"{len(rows)} models, onnx_coreset {onnx_coreset.__version__}:",
        ", ".join(f"{c} {n}" for c, n in totals.items()),
    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
