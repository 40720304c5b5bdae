"""Which law of inputs to fit to where there are none: perceptrons cut under several laws, judged on images.

    python tools/laws.py DATA [--nets FOLDER] [--ratios 0.5 0.3 0.2] [--jobs 1] [--json FILE]

DATA holds mnist.npz and fashion_mnist.npz, and perhaps cifar10_lossless_first4000.npz (halved in width and height).
Perceptrons of several activations and seeds are trained, or read from FOLDER where they stand from an earlier call.
Inputs are pixels in [0, 1]; or standardised, the nets trained so; or standardised by what was folded into the first
layer of the nets of [0, 1] afterwards, which leaves large biases. A law draws rows x = c + s g, s one of its scales, g
white or with the correlations that the first layer's weights suggest (half of the rows: "half"), c = 0 or, for "zeros",
the shortest c where W c + b = 0 for the first layer, scales then times max(1, 3 rms of c). "together" adds variance
along the direction that drives all neurons, as `auto` does; "auto" is `auto` itself, with moments in closed form.
"images" is a thousand unlabelled training images and mixtures of them: the least that a law without data could reach.
Every layer keeps the same share of its neurons, without polish and without correction.

What counts is the relative rms of the logits on test images. Criteria that need no data see the matrix of errors under
law B of the net fitted under law A: "worst" takes the law whose largest entry is least, "regret" the same with each
column divided by its least entry, "mean" the one whose geometric mean is least.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import torch

import onnx_coreset
from onnx_coreset.core.methods import METHODS
from onnx_coreset.core.suggested import correlation_root, suggested
from onnx_coreset.edge.inputs import Feed, Feeder, Given
from onnx_coreset.edge.runtime import choose
from onnx_coreset.graph.cut import cut
from onnx_coreset.options import Options
from onnx_coreset.stages import sampling
from onnx_coreset.stages.narrowing import Narrowed
from onnx_coreset.stages.opening import open_model
from onnx_coreset.stages.walking import Analysis, narrow
from training.activations import ACTIVATIONS, trained
from training.data import Images, load_images
from training.export import accuracy

SHARES = {"white": 0.0, "correlated": 1.0, "half": 0.5}
USUAL, WIDE = (0.1, 0.3, 1.0), (0.3, 1.0, 3.0)
CIFAR = "cifar10_lossless_first4000"
EPOCHS = {"mnist": 3, "fashion_mnist": 3, CIFAR: 20}
AUTO, IMAGES = "auto", "images"
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Rows of a broad zero-mean mixture, 256 a run.

    Attributes:
        name: What it is called.
        input: The model's input.
        root: Root of the covariance of the correlated rows, shape (d, q).
        share: Share of the rows that are correlated.
        scales: Scales, equally likely.
        centre: What is added, shape (d,), or 0.
    """

    name: str
    input: str
    root: Array
    share: float
    scales: tuple[float, ...]
    centre: Array | float = 0.0

    @property
    def runs(self) -> None:
        return None

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Return rows, shape (count, d)."""
        rows = rng.standard_normal((count, len(self.root)))
        chosen = rng.random(count) < self.share
        rows[chosen] = rng.standard_normal((int(chosen.sum()), self.root.shape[1])) @ self.root.T
        return self.centre + rows * np.asarray(self.scales)[rng.integers(len(self.scales), size=count)][:, None]

    def feed(self, run: int, rng: np.random.Generator) -> Feed:
        return {self.input: self.sample(256, rng).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A net with what its inputs are: name, model, images to judge by, their labels, images to fit to."""

    name: str
    model: onnx.ModelProto
    test: Array
    labels: Array
    some: Array


def data(folder: pathlib.Path) -> dict[str, Images]:
    """Return the data sets that are there, by name."""
    found = {name: load_images(folder, name) for name in ("mnist", "fashion_mnist")}
    path = folder / f"{CIFAR}.npz"
    if path.is_file():
        with np.load(path) as arrays:
            x, y = arrays["x"].astype(np.float32) / 255, arrays["y"].astype(np.int64).ravel()
        rows = x.reshape(len(x), 16, 2, 16, 2, 3).mean(axis=(2, 4)).reshape(len(x), -1)
        found[CIFAR] = Images(rows[:3000], y[:3000], rows[3000:], y[3000:])
    return found


def first(model: onnx.ModelProto) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    """Return the weights (n, d) and the bias of the first layer, as they are stored."""
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return stored[node.input[1]], stored[node.input[2]]


def standardised(images: Images) -> Images:
    """Return (pixels - mean) / deviation, one number each for all pixels."""
    mean, deviation = images.train_inputs.mean(), images.train_inputs.std()
    train, test = ((x - mean) / deviation for x in (images.train_inputs, images.test_inputs))
    return dataclasses.replace(images, train_inputs=train, test_inputs=test)


def folded(case: Case) -> Case:
    """Return a net that takes standardised pixels and gives what `case` does."""
    mean, deviation = float(case.some.mean()), float(case.some.std())
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    weights, bias = first(model)
    W, b = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in (weights, bias))
    for stored, values in ((weights, W * deviation), (bias, b + W.sum(axis=1) * mean)):
        stored.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), stored.name))
    test, some = ((x - mean) / deviation for x in (case.test, case.some))
    return Case(f"{case.name}, folded", model, test, case.labels, some)


def logits(model: onnx.ModelProto, x: Array) -> Array:
    """Return what a model gives for rows, shape (N, k)."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0], dtype=np.float64)


def relative(before: Array, after: Array) -> float:
    """Return the rms of the difference of two tables (N, k) over the spread of the first."""
    return float(np.sqrt(np.mean((before - after) ** 2) / before.var(axis=0).mean()))


def narrower(
    model: onnx.ModelProto, feeder: Feeder | None, ratios: Sequence[float], samples: int
) -> dict[float, onnx.ModelProto]:
    """Return the net cut at each ratio, fitted to what a feeder gives; None: to what `auto` takes."""
    options = Options.make(
        ratio=ratios[0], validate=False, certify="off", polish=False, provider="cpu", samples=samples
    )
    provider = choose("cpu")
    opened = open_model(model, None, options)
    own = sampling._feeder
    with mock.patch.object(sampling, "_feeder", own if feeder is None else lambda *_: (feeder, ())):
        found = sampling.sources(opened, options, provider)
    analysis, cuts = Analysis(opened, found, METHODS["backward"], provider), {}
    for ratio in ratios:
        places = narrow(analysis, dataclasses.replace(options, ratio=ratio), lambda *_: None, keep=True)
        coresets = {place.space.name: place.coreset for place in places if isinstance(place, Narrowed)}
        cuts[ratio] = cut(opened.model, coresets, False)[0]
    return cuts


def laws(model: onnx.ModelProto) -> dict[str, Drawn]:
    """Return the laws that need no data, by name."""
    weights, bias = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in first(model))
    root, name, hint = correlation_root(weights), model.graph.input[0].name, suggested(weights, bias)
    if root is None or hint is None:
        raise SystemExit("the first layer's weights say nothing of its inputs")
    centre, scale = hint.centre, hint.scale
    made = {law: Drawn(law, name, root, share, USUAL) for law, share in SHARES.items()}
    made["half, wide"] = Drawn("wide", name, root, SHARES["half"], WIDE)
    moved = tuple(scale * one for one in USUAL)
    made |= {f"zeros, {law}": Drawn(law, name, root, SHARES[law], moved, centre) for law in ("half", "correlated")}
    return made | {"zeros, together": Drawn("together", name, hint.root, 1.0, moved, centre)}


def measured(case: Case, ratios: Sequence[float], samples: int) -> list[dict[str, object]]:
    """Return what each law costs a net at each ratio: on images, and under each of the laws."""
    free, rng = laws(case.model), np.random.default_rng(0)
    images = Given(tuple({case.model.graph.input[0].name: part} for part in np.array_split(case.some, 5)))
    drawn = {name: law.sample(2048, rng) for name, law in free.items()}
    before = {name: logits(case.model, x) for name, x in drawn.items()}
    truth, rows = logits(case.model, case.test), []
    for name, feeder in {**free, AUTO: None, IMAGES: images}.items():
        for ratio, model in narrower(case.model, feeder, ratios, samples).items():
            after = logits(model, case.test)
            drop = 100 * (accuracy(truth, case.labels) - accuracy(after, case.labels))
            cross = {other: round(relative(before[other], logits(model, x)), 5) for other, x in drawn.items()}
            row = {"net": case.name, "law": name, "ratio": ratio, "rms": round(relative(truth, after), 5)}
            rows.append(row | {"drop": round(drop, 2), "cross": cross})
    return rows


def mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return float(np.exp(np.mean(np.log(values))))


def chosen(errors: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Return what each criterion takes, given the error of what was fitted under A by A and then by B."""
    names = list(errors)
    table = np.array([[errors[a][b] for b in names] for a in names])
    by = {"worst": table.max(axis=1), "regret": (table / table.min(axis=0)).max(axis=1)}
    by["mean"] = np.exp(np.log(table).mean(axis=1))
    return {criterion: names[int(np.argmin(values))] for criterion, values in by.items()}


def table(rows: Sequence[dict[str, object]], kind: str) -> list[dict[str, object]]:
    """Print and return, at each ratio, what every law and every criterion's choice costs."""
    found: list[dict[str, object]] = []
    for ratio in dict.fromkeys(row["ratio"] for row in rows):
        nets: dict[str, dict[str, dict[str, object]]] = {}
        for row in rows:
            if row["ratio"] == ratio:
                nets.setdefault(str(row["net"]), {})[str(row["law"])] = row
        free = [law for law in next(iter(nets.values())) if law not in (AUTO, IMAGES)]
        picks: dict[str, list[dict[str, object]]] = {law: [net[law] for net in nets.values()] for law in (*free, AUTO)}
        for net in nets.values():
            for criterion, law in chosen({a: net[a]["cross"] for a in free}).items():
                picks.setdefault(f"by {criterion}", []).append(net[law])
        picks[IMAGES] = [net[IMAGES] for net in nets.values()]
        best = [min(float(net[law]["rms"]) for law in free) for net in nets.values()]
        for law, group in picks.items():
            rms = [float(row["rms"]) for row in group]
            over = [one / least for one, least in zip(rms, best, strict=True)]
            line = {"inputs": kind, "ratio": ratio, "law": law, "nets": len(rms), "rms": mean(rms)}
            line |= {"over_best": mean(over), "within_tenth": int(np.sum(np.array(over) <= 1.1))}
            line |= {"drop": float(np.mean([row["drop"] for row in group]))}
            found.append({key: round(v, 4) if isinstance(v, float) else v for key, v in line.items()})
            print(f"{kind:14} {ratio:4} {law:18} " + " ".join(f"{v:9.4g}" for v in list(line.values())[3:]))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--nets", type=pathlib.Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.3, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    kinds: dict[str, list[Case]] = {"[0, 1]": [], "standardised": [], "folded": []}
    with tempfile.TemporaryDirectory() as folder:
        for name, images in data(args.data).items():
            chosen = np.random.default_rng(0).choice(len(images.train_inputs), 1000, replace=False)
            for kind, taken in (("[0, 1]", images), ("standardised", standardised(images))):
                for seed, activation in itertools.product(args.seeds, ACTIVATIONS):
                    stem = f"{'' if taken is images else 'standardised-'}{name}-{activation}-{seed}"
                    path = (args.nets or pathlib.Path(folder)) / f"{stem}.onnx"
                    model = trained(path, activation, taken, EPOCHS[name], seed)
                    kinds[kind].append(
                        Case(stem, model, taken.test_inputs, taken.test_labels, taken.train_inputs[chosen])
                    )
    kinds["folded"] = [folded(case) for case in kinds["[0, 1]"]]
    rows: dict[str, list[dict[str, object]]] = {kind: [] for kind in kinds}
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        tasks = [
            (kind, pool.submit(measured, case, args.ratios, args.samples)) for kind in kinds for case in kinds[kind]
        ]
        for kind, task in tasks:
            rows[kind] += (found := task.result())
            shown = " ".join(f"{row['law']} {row['rms']:.3f}" for row in found[:: len(args.ratios)])
            print(found[0]["net"], shown, flush=True)
    print(f"\n{'inputs':14} {'keep':4} {'law':18} {'nets':>9} {'rms':>9} {'/ best':>9} {'<= 1.1':>9} drop")
    tables = [line for kind, found in rows.items() for line in table(found, kind)]
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, onnx, onnxruntime, torch)}
    print("seeds", *args.seeds, "|", ", ".join(f"{k} {v}" for k, v in versions.items()))
    if args.json:
        result = {"samples": args.samples, "seeds": args.seeds, "versions": versions, "table": tables}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
