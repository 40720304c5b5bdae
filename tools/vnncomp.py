"""Networks of VNN-COMP and their narrower selves over the input boxes of their properties: what is proven end to end.

    python tools/vnncomp.py --corpus DIR --properties DIR [--seconds 10] [--most N] [--json FILE]

Every network of acasxu and mnist_fc in the corpus is cut twice, with --ratio 0.5 and with --eps 0.1. For every box of
inputs of its properties a row tells the largest difference of an output that is certified, and the largest that the
attack found, as they are over all outputs; how many gaps y_i - y_j keep one sign on the box, proven for the original;
for how many of these the narrower network is proven to have the same sign, directly, and by the original's bound and
the certified differences of both outputs; and the seconds. Properties are a folder with acasxu/ and mnist_fc/, in each
an instances.csv and the properties it names, .vnnlib or .vnnlib.gz; the networks are found by the end of their names.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import pathlib
import platform
import re
import time
from collections.abc import Iterator

import numpy as np
import onnx
import scipy
from threadpoolctl import threadpool_limits

import onnx_coreset
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates import BoxDomain
from onnx_coreset.core.certificates.depth import gaps, scaled_box
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.model.order import in_order
from onnx_coreset.stages.ends import Ends, ends

FAMILIES = ("acasxu", "mnist_fc")
TARGETS: tuple[dict[str, float], ...] = ({"ratio": 0.5}, {"eps": 0.1})
SINGLE = 2.0**-24
Tree = str | list["Tree"]


def parsed(text: str) -> list[Tree]:
    """Return the S-expressions of a text."""
    stack: list[list[Tree]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", text)):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    return stack[0]


def bounded(tree: Tree, low: Array, high: Array) -> list[tuple[Array, Array]]:
    """Return the boxes that a constraint leaves of a box of inputs; what it says of outputs counts for nothing."""
    if isinstance(tree, str) or not tree:
        return [(low, high)]
    head, rest = tree[0], tree[1:]
    if head == "and":
        boxes = [(low, high)]
        for part in rest:
            boxes = [found for box in boxes for found in bounded(part, *box)]
        return boxes
    if head == "or":
        found = [box for part in rest for box in bounded(part, low, high)]
        kept = {(a.tobytes(), b.tobytes()): (a, b) for a, b in found}
        return list(kept.values())
    if head not in ("<=", ">=") or not all(isinstance(part, str) for part in rest):
        return [(low, high)]
    first, second = (str(part) for part in rest)
    if second.startswith("X_"):
        first, second, head = second, first, "<=" if head == ">=" else ">="
    if not first.startswith("X_"):
        return [(low, high)]
    place = int(first[2:])
    low, high = low.copy(), high.copy()
    # A decimal is read to the nearest float: one further out holds what was meant.
    if head == "<=":
        high[place] = min(high[place], np.nextafter(float(second), np.inf))
    else:
        low[place] = max(low[place], np.nextafter(float(second), -np.inf))
    return [(low, high)]


def boxes(path: pathlib.Path, size: int) -> list[BoxDomain]:
    """Return the input boxes of a property."""
    packed = path.with_name(path.name + ".gz")
    text = gzip.decompress(packed.read_bytes()).decode() if packed.exists() else path.read_text()
    found = [(np.full(size, -np.inf), np.full(size, np.inf))]
    for tree in parsed(text):
        if isinstance(tree, list) and tree[:1] == ["assert"]:
            found = [box for low, high in found for box in bounded(tree[1], low, high)]
    return [BoxDomain(low, high) for low, high in found]


def instances(corpus: pathlib.Path, properties: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[pathlib.Path]]]:
    """Yield every network of the corpus that a family names, with its properties."""
    for family in FAMILIES:
        with (properties / family / "instances.csv").open() as file:
            rows = [row for row in csv.reader(file) if row]
        for path in sorted(corpus.glob("*.onnx")):
            own = re.sub(r"^v\d+_", "", path.stem)
            own = re.sub(r"^acasxu", "ACASXU_run2a", own)
            mine = [row[1] for row in rows if pathlib.Path(row[0]).stem in (own, own + "_batch_2000")]
            if mine:
                yield path, [properties / family / name for name in mine]


def row(found: Ends, box: BoxDomain, seconds: float, seed: int) -> dict[str, float]:
    """Return the numbers of one pair of networks and one box."""
    started = time.perf_counter()
    proven = found.certify(box, np.random.default_rng(seed), seconds)
    assert np.all(proven.attacked <= proven.certified)
    spent = time.perf_counter() - started
    domain, _ = scaled_box(box, found.front, SINGLE)
    before, after = (gaps(found.pair, domain, side, seconds / 2) for side in (False, True))
    apart = proven.certified[:, None] + proven.certified
    decided = before < 0
    return {
        "certified": float(proven.certified.max()),
        "attacked": float(proven.attacked.max()),
        "ratio": float(proven.certified.max() / proven.attacked.max()),
        "ratio_mean": float(np.mean(proven.certified / np.maximum(proven.attacked, 1e-300))),
        "rounding": float(proven.rounding.max()),
        "boxes": proven.boxes,
        "decided": int(np.count_nonzero(decided)),
        "still": int(np.count_nonzero(decided & (after < 0))),
        "still_by_difference": int(np.count_nonzero(decided & (before + apart * (1.0 + 1e-9) < 0))),
        "pairs": before.shape[0] * (before.shape[0] - 1) // 2,
        "seconds": spent,
        "seconds_gaps": time.perf_counter() - started - spent,
    }


def rows(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield all rows, printed."""
    for path, properties in instances(args.corpus, args.properties):
        proto = in_order(onnx.load(path))
        for target in TARGETS:
            result = onnx_coreset.optimize(proto, seed=args.seed, certify="off", **target)
            kept = {chain.name: np.asarray(chain.kept) for chain in result.report.chains if chain.kept is not None}
            found = ends(decode(proto), result.model, kept)
            name = " ".join(f"--{key} {value:g}" for key, value in target.items())
            if isinstance(found, str):
                print(f"{path.name} {name}: {found}")
                continue
            widths = [layer.width for layer in found.pair.after.hidden]
            print(f"{path.name} {name}: {widths} neurons left", flush=True)
            for file in properties[: args.most]:
                for index, box in enumerate(boxes(file, found.pair.before.inputs)):
                    numbers = row(found, box, args.seconds, args.seed)
                    print(f"  {file.stem:12} {index}", *(f"{k} {v:.4g}" for k, v in numbers.items()), flush=True)
                    where = {"model": path.name, "target": name, "widths": widths, "property": file.stem, "box": index}
                    yield where | numbers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--properties", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0, help="limit of one certificate, and of its gaps")
    parser.add_argument("--most", type=int, help="properties of a network, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    with threadpool_limits(1):
        found = list(rows(args))
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, scipy, onnx)}
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    print(", ".join(f"{key} {value}" for key, value in (versions | machine).items()), f"| seed {args.seed}")
    if args.json:
        options = {"seconds": args.seconds, "most": args.most, "seed": args.seed}
        text = json.dumps({"rows": found, "options": options, "versions": versions, "machine": machine}, indent=1)
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
