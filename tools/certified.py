"""What is proven of every narrower layer of many models, next to the worst input found.

    python tools/certified.py MODEL... [--corpus FOLDER] [--ratio 0.5] [--eps E] [--certify tight] [--megabytes M]
        [--json FILE]

Every model is made narrower in memory, and of every chain a line tells its kind, its sizes, the domain of its inputs,
the largest error on samples where none lies outside the domain, the worst error that an attack found, the one
certified and the ratio of the two, of the worst outputs and of the means over outputs, with the seconds it took. Then,
over chains of dense neurons, the geometric mean of the ratios, those chains without a bound, and the violations: chains
where not sample <= attacked <= certified. Exits 1 where there is one. With --eps, widths are chosen by what is proven,
as `--error certified --eps E` does, in place of the ratio.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import scipy

import onnx_coreset
from onnx_coreset.errors import CoresetError
from onnx_coreset.report import ChainReport

DENSE = "neurons"
HEAD = f"{'model, chain':58} {'kind':22} {'n->m':>12} {'d':>6} {'k':>6} {'domain':30}"


class Stopwatch:
    """The seconds from one chain's certificate to the next."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.current = ""

    def __call__(self, stage: str, done: int, total: int, detail: str) -> None:
        now = time.perf_counter()
        if self.current:
            self.seconds[self.current] = now - self.started[self.current]
        self.current = detail if stage == "certify" else ""
        self.started[self.current] = now


def over(certified: float | None, attacked: float | None) -> float | None:
    """Return a ratio; 1 where nothing differs, None where nothing is proven or nothing was found."""
    if certified is None or attacked is None or not math.isfinite(certified):
        return None
    return 1.0 if certified == attacked else certified / attacked if attacked > 0 else None


def row(model: str, chain: ChainReport, seconds: float) -> dict[str, Any]:
    """Return the numbers of a narrower chain."""
    error = chain.error
    return {
        "model": model,
        "chain": chain.name,
        "features": chain.features,
        "activation": chain.activation,
        "widths": [chain.width_before, chain.width_after],
        "inputs": chain.inputs,
        "outputs": chain.outputs,
        "domain": error.domain.kind,
        "source": error.domain.source,
        "samples": error.max if error.outside == 0 else None,
        "outside": error.outside,
        "spread": error.spread,
        "attacked": error.attacked,
        "certified": error.certified,
        "ratio": over(error.certified, error.attacked),
        "ratio_mean": over(error.certified_mean, error.attacked_mean),
        "seconds": round(seconds, 2),
    }


def violated(found: dict[str, Any]) -> bool:
    """Return whether a chain's numbers contradict each other."""
    samples, attacked, certified = (found[key] for key in ("samples", "attacked", "certified"))
    if attacked is not None and samples is not None and samples > attacked:
        return True
    return attacked is not None and certified is not None and attacked > certified


def line(found: dict[str, Any]) -> str:
    """Return a row for a person."""
    kind = f"{found['features']} {found['activation']}"
    place = f"{found['domain']} {found['source']}"
    widths = "{}->{}".format(*found["widths"])
    keys = ("samples", "attacked", "certified", "ratio", "ratio_mean", "seconds")
    values = "".join(f" {'-' if found[key] is None else format(found[key], '.3g'):>9}" for key in keys)
    name = f"{found['model']} {found['chain']}"
    return (
        f"{name[-58:]:58} {kind[:22]:22} {widths:>12} {found['inputs']:6} {found['outputs']:6} {place[:30]:30}{values}"
    )


def rows_of(path: pathlib.Path, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of a model, printing them; a refusal is a line."""
    watch = Stopwatch()
    fields: dict[str, Any] = {"certify": args.certify, "seed": args.seed, "provider": "cpu"}
    fields |= {"ratio": args.ratio} if args.eps is None else {"eps": args.eps, "error": "certified"}
    try:
        report = onnx_coreset.optimize(path, progress=watch, **fields).report
    except CoresetError as refusal:
        print(f"{name[:58]:58} refused: {str(refusal).splitlines()[0][:150]}", flush=True)
        return []
    watch("done", 0, 0, "")
    pruned = [chain for chain in report.chains if chain.status == "pruned"]
    found = [row(name, chain, watch.seconds.get(chain.name, 0.0)) for chain in pruned]
    for each in found:
        print(line(each), "VIOLATED" if violated(each) else "", flush=True)
    return found


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the numbers over all rows: of dense chains, and how many rows contradict themselves."""
    dense = [each for each in rows if each["features"] == DENSE]
    ratios = [each["ratio"] for each in dense if each["ratio"] is not None]
    return {
        "chains": len(rows),
        "dense": len(dense),
        "geometric_mean": float(np.exp(np.mean(np.log(ratios)))) if ratios else None,
        "largest": max(ratios, default=None),
        "without": [f"{each['model']} {each['chain']}" for each in dense if each["ratio"] is None],
        "violations": [f"{each['model']} {each['chain']}" for each in rows if violated(each)],
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=pathlib.Path, nargs="*")
    parser.add_argument("--corpus", type=pathlib.Path, help="a folder of models")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--eps", type=float, help="choose widths by the certified error over the spread")
    parser.add_argument("--certify", choices=("fast", "tight"), default="tight")
    parser.add_argument("--megabytes", type=float, default=math.inf, help="leave out larger files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    paths = [(path, path.name) for path in args.models]
    if args.corpus:
        paths += [(path, str(path.relative_to(args.corpus))) for path in sorted(args.corpus.rglob("*.onnx"))]
    print(HEAD, *(f"{name:>9}" for name in ("samples", "attacked", "certified", "ratio", "means", "seconds")))
    rows = []
    for path, name in paths:
        if path.stat().st_size <= args.megabytes * 1e6:
            rows += rows_of(path, name, args)
    total = summed(rows)
    print(*(f"{key}: {value}" for key, value in total.items()), sep="\n")
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, scipy, onnx, onnxruntime)}
    versions |= {"python": platform.python_version()}
    if args.json:
        options = {"ratio": args.ratio, "eps": args.eps, "certify": args.certify, "seed": args.seed}
        text = json.dumps({"rows": rows, "total": total, "options": options, "versions": versions}, indent=1)
        args.json.write_text(text + "\n")
    return 1 if total["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
