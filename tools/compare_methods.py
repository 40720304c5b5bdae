"""What every method costs at equal width: the relative rms error of each dense layer, layer by layer.

    python tools/compare_methods.py MODELS... [--ratio 0.5] [--methods NAMES...] [--seeds 0 1 2] [--json FILE]

MODELS are .onnx files or folders of them. Every model is cut once for each setting and seed; a setting is a method with
refit or, where its name ends in "raw", with the outgoing weights that the method itself gives. Compared are the layers
of dense neurons that every setting has cut; those on which every setting errs by less than 1e-6 are counted and left
out, and a smaller error counts as 1e-6. Of several seeds the geometric mean is taken. Prints a line a layer, the
geometric mean of every setting over layers, and how the default compares with Algorithm 2 (`sensitivity raw`) and with
dropping by L2 norm (`norm raw`). Models that cannot be read are named.

The JSON holds means, counts, seeds and versions; single layers only with `--details`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import scipy

import onnx_coreset
from onnx_coreset import api, errors
from onnx_coreset.core.methods import METHODS
from onnx_coreset.edge.runtime import Provider
from onnx_coreset.options import Options
from onnx_coreset.stages.opening import Opened
from onnx_coreset.stages.sampling import Sources, sources

LEAST = 1e-6
DEFAULT = str(Options().method)
ALGORITHM_2, L2 = "sensitivity raw", "norm raw"
ASKED = {ALGORITHM_2: 1 / 4, L2: 1 / 3}
SETTINGS = (
    DEFAULT,
    "greedy",
    *(f"{name}{raw}" for name in ("sensitivity", "norm", "mvee", "synflow", "uniform") for raw in ("", " raw")),
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer that every setting has cut.

    Attributes:
        model: The model's file.
        name: The layer's hidden tensor.
        activation: Name of its activation.
        width: Neurons before the cut.
        inputs: Numbers that go into it.
        outputs: Numbers that come out of it.
        errors: Relative rms by setting, the geometric mean over seeds.
    """

    model: str
    name: str
    activation: str
    width: int
    inputs: int
    outputs: int
    errors: Mapping[str, float]

    @property
    def counts(self) -> bool:
        """Whether some setting errs by enough to be compared."""
        return max(self.errors.values()) >= LEAST


def models(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Return the .onnx files among the paths and below the folders among them."""
    found = (sorted(path.rglob("*.onnx")) if path.is_dir() else [path] for path in paths)
    return [path for group in found for path in group]


@contextlib.contextmanager
def samples_once() -> Iterator[None]:
    """Run a model once a seed: what its layers are fed does not depend on how they are cut, and takes the longest."""
    known: dict[int, Sources] = {}

    def remembered(opened: Opened, options: Options, provider: Provider) -> Sources:
        if options.seed not in known:
            known[options.seed] = sources(opened, options, provider)
        return dataclasses.replace(known[options.seed], domains={})

    with mock.patch.object(api, "sources", remembered):
        yield


def chains(path: pathlib.Path, setting: str, ratio: float, seed: int, samples: int | None) -> dict[str, Any]:
    """Return the layers of dense neurons that a setting cuts in a model, by name."""
    name, _, raw = setting.partition(" ")
    # The error of a layer is computed in float64 from the weights as they are stored: nothing is run twice. But what
    # looks at weights alone, and is not to be validated, would not be measured at all.
    report = onnx_coreset.optimize(
        path,
        ratio=ratio,
        method=name,
        refit=not raw,
        seed=seed,
        samples=samples,
        validate=bool(raw),
        certify="off",
        provider="cpu",
    ).report
    return {c.name: c for c in report.chains if c.status == "pruned" and c.features == "neurons"}


def compared(
    path: pathlib.Path, settings: Sequence[str], ratio: float, seeds: Sequence[int], samples: int | None
) -> list[Layer]:
    """Return the layers of a model that every setting has cut with every seed."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for setting in settings:
        runs[setting] = [chains(path, setting, ratio, seed, samples) for seed in seeds]
        if not runs[setting][0]:
            return []
    everywhere = [found for group in runs.values() for found in group]
    names = [name for name in everywhere[0] if all(name in found for found in everywhere)]
    layers = []
    for name in names:
        rms = {s: np.array([found[name].error.relative.rms for found in group]) for s, group in runs.items()}
        if all(np.isfinite(values).all() for values in rms.values()):
            one = everywhere[0][name]
            means = {s: mean(values) if values.max() >= LEAST else float(values.max()) for s, values in rms.items()}
            layers.append(Layer(str(path), name, str(one.activation), one.width_before, one.inputs, one.outputs, means))
    return layers


def mean(values: Iterable[float]) -> float:
    """Return the geometric mean, numbers below 1e-6 counted as 1e-6; of none, 1e-6."""
    return float(np.exp(np.mean(np.log(np.maximum(list(values) or [LEAST], LEAST)))))


def table(layers: Sequence[Layer], settings: Sequence[str]) -> dict[str, dict[str, float]]:
    """Print and return what each setting errs by, and how often the default errs more than it."""
    rows: dict[str, dict[str, float]] = {}
    heads = ("mean", "median", "worst", "default/it", "neither exact", "default worse")
    print(f"\n{'setting':20} " + " ".join(f"{head:>13}" for head in heads))
    own = np.array([layer.errors[settings[0]] for layer in layers])
    for setting in settings:
        its = np.array([layer.errors[setting] for layer in layers])
        both = (own >= LEAST) & (its >= LEAST)
        row = {"mean": mean(its), "median": float(np.median(its)), "worst": float(its.max())}
        row |= {"default_over_it": mean(own) / mean(its), "neither_exact": mean(own[both]) / mean(its[both])}
        row |= {"default_worse": int(np.sum(own > 1.01 * its + LEAST))}
        rows[setting] = row
        print(f"{setting:20} " + " ".join(f"{value:13.4g}" for value in row.values()))
    return rows


def kinds(layers: Sequence[Layer], settings: Sequence[str]) -> dict[str, dict[str, float]]:
    """Print and return the mean of the default and its ratios by kind of layer."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        width = "width < 16" if layer.width < 16 else "16 <= width < 64" if layer.width < 64 else "width >= 64"
        inputs = "inputs < width" if layer.inputs < layer.width else "inputs >= width"
        for kind in (f"activation {layer.activation}", width, inputs):
            groups.setdefault(kind, []).append(layer)
    others = [setting for setting in (ALGORITHM_2, L2) if setting in settings]
    print(f"\n{'kind':28} {'layers':>6} {'default':>9} " + " ".join(f"/ {other:18}" for other in others))
    rows = {}
    for kind, members in sorted(groups.items()):
        own = mean(layer.errors[settings[0]] for layer in members)
        ratios = {other: own / mean(layer.errors[other] for layer in members) for other in others}
        rows[kind] = {"layers": len(members), "default": own, **ratios}
        print(f"{kind:28} {len(members):6d} {own:9.4f} " + " ".join(f"{ratio:20.4f}" for ratio in ratios.values()))
    return rows


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--methods", nargs="+", default=SETTINGS, metavar="SETTING")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--details", action="store_true", help="single layers go into the JSON, with their models")
    args = parser.parse_args()
    # The default comes first: everything is compared with it.
    args.methods = list(dict.fromkeys([DEFAULT, *args.methods]))
    for setting in args.methods:
        name, _, raw = setting.partition(" ")
        if name not in METHODS or raw not in ("", "raw"):
            parser.error(f"no setting {setting!r}: a method, or a method and 'raw'; methods are {', '.join(METHODS)}")
    return args


def main() -> int:
    """Print the comparison."""
    args = arguments()
    layers: list[Layer] = []
    unread: dict[str, str] = {}
    files = models(args.models)
    for path in files:
        start = time.perf_counter()
        try:
            with samples_once():
                found = compared(path, args.methods, args.ratio, args.seeds, args.samples)
        except (errors.CoresetError, OSError) as error:
            unread[str(path)] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"{path.name[:44]:44} {unread[str(path)][:70]}", flush=True)
            continue
        layers += found
        for layer in found:
            shown = " ".join(f"{error:.4f}" for error in layer.errors.values())
            print(
                f"{path.name[:32]:32} {layer.activation[:10]:10} {layer.inputs:5} {layer.width:5}  {shown}", flush=True
            )
        print(f"{path.name[:44]:44} {len(found)} layers, {time.perf_counter() - start:.1f} s", flush=True)
    kept = [layer for layer in layers if layer.counts]
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, scipy, onnx, onnxruntime)}
    result: dict[str, Any] = {"ratio": args.ratio, "seeds": args.seeds, "samples": args.samples, "versions": versions}
    result |= {"models": len(files), "unreadable": len(unread), "layers": len(kept), "exact": len(layers) - len(kept)}
    print(f"\n{len(files)} models, {len(unread)} not readable; {len(kept)} layers compared, ", end="")
    print(f"{len(layers) - len(kept)} left out because no setting errs on them by {LEAST:g}")
    if kept:
        result |= {"settings": table(kept, args.methods), "kinds": kinds(kept, args.methods)}
        for other, asked in ASKED.items():
            if other in args.methods:
                row = result["settings"][other]
                print(f"default / {other}: {row['default_over_it']:.4f}, asked for at most {asked:.4f}", end="; ")
                print(f"{row['neither_exact']:.4f} where neither is exact")
    print("ratio", args.ratio, "seeds", *args.seeds, "|", ", ".join(f"{k} {v}" for k, v in versions.items()))
    if args.details:
        result |= {"of": [dataclasses.asdict(layer) for layer in layers], "unread": unread}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
