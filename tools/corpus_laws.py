"""Checks the laws of the codec and of the lenses on every model below a folder.

    python tools/corpus_laws.py FOLDER

For each model: encode(decode(m)) gives the same bytes; sorting and decoding leave it as it was. For each of its layers:
writing all neurons with their own weights gives the same bytes; what is written is read back up to one rounding, with
random coresets; the layer extracted computes in ONNX Runtime what was read, and narrowed what `shrink` says, within the
error that rounding can make. And the whole model with every layer cut is no worse for the checker, for shape inference
and for ONNX Runtime than it was. Prints a line a model and a summary; exits 1 where a law fails.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import shape_inference

import onnx_coreset
from onnx_coreset.core.layer import Coreset, Features, Gated, HiddenLayer, Neurons, shrink, whole
from onnx_coreset.edge.files import load
from onnx_coreset.edge.runtime import RuntimeRefused, Session, accepts, choose
from onnx_coreset.errors import CoresetError
from onnx_coreset.graph.cut import cut
from onnx_coreset.graph.extract import extract, shrunk
from onnx_coreset.graph.lens import read, write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.model.order import in_order
from onnx_coreset.graph.space import Space, spaces

# The running error analysis is the tests'.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from graph_bounds import enclosures, unit

SAMPLES = 16
LARGE = 200_000_000


@dataclass
class Tally:
    """What was found in a model.

    Attributes:
        counts: How often each thing was seen.
        failures: The laws that failed, with where.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def hold(self, truth: bool, law: str) -> None:
        if not truth:
            self.failures.append(law)


def exact(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def drawn(layer: HiddenLayer, rng: np.random.Generator, size: int) -> Coreset:
    kept = np.sort(rng.choice(layer.width, size, replace=False))
    outgoing, constant = [], []
    for readout in layer.readouts:
        scale = float(np.sqrt(np.mean(readout.outgoing**2))) or 1.0
        outgoing.append(scale * rng.standard_normal((readout.outputs, size, 1)))
        constant.append(readout.constant + scale * rng.standard_normal(readout.outputs))
    return Coreset(kept, tuple(outgoing), tuple(constant))


def named(document: Document, name: str) -> Space:
    return next(s for s in spaces(document) if isinstance(s, Space) and s.name == name)


def readable(model: onnx.ModelProto, tally: Tally) -> onnx.ModelProto | None:
    """Check the codec's law, and return the model sorted, or None where it has no order."""
    before = exact(model)
    tally.hold(exact(encode(decode(model))) == before, "codec")
    try:
        ordered = in_order(model)
    except CoresetError as error:
        tally.counts[f"unsorted: {error}"] += 1
        return None
    tally.hold(exact(encode(decode(ordered))) == exact(ordered), "codec, sorted")
    tally.hold(exact(model) == before, "the input changed")
    return ordered


def check_layer(model: onnx.ModelProto, name: str, rng: np.random.Generator, tally: Tally) -> Coreset:
    """Check the laws of one layer; return a coreset of it."""
    document = decode(model)
    space = named(document, name)
    layer = read(document, space)
    dtype = space.producer.dense.stored.dtype
    tally.counts[parts(layer.readouts[0].features)[0].activation.name] += 1
    alone = extract(document, space)
    write(document, space, whole(layer))
    tally.hold(exact(encode(document)) == exact(model), f"{name}: law 1")

    coreset = drawn(layer, rng, int(rng.integers(2, layer.width + 1)) if layer.width > 2 else 2)
    write(document, space, coreset)
    after = decode(encode(document))
    again, aim = read(after, named(after, name)), shrink(layer, coreset)
    tally.hold(close(again, aim, layer, unit(dtype)), f"{name}: law 2")
    x = rng.standard_normal((SAMPLES, layer.inputs)).astype(dtype)
    compare(alone, layer, x, 0.0, f"{name}: the layer read", tally)
    compare(shrunk(alone, name, coreset), aim, x, unit(dtype), f"{name}: the layer written", tally)
    return coreset


def parts(features: Features) -> tuple[Neurons, ...]:
    """Return the dense neurons that features are made of."""
    if isinstance(features, Gated):
        return features.gate, features.up
    assert isinstance(features, Neurons)
    return (features,)


def close(got: HiddenLayer, aim: HiddenLayer, old: HiddenLayer, u: float) -> bool:
    """Whether `got` is `aim` up to one rounding of the outgoing side, three more in float64, and nothing else."""
    extra = 3 * 2.0**-53
    tiny = 2.0**-24 if u > 2.0**-12 else 2.0**-149 if u > 2.0**-30 else 5e-324
    for ours, theirs, before in zip(got.readouts, aim.readouts, old.readouts, strict=True):
        grid = np.broadcast_to(np.linspace(-4, 4, 33)[:, None], (33, got.width))
        same = type(ours.features) is type(theirs.features)
        for mine, wanted in zip(parts(ours.features), parts(theirs.features), strict=True):
            same &= np.array_equal(mine.incoming, wanted.incoming) and np.array_equal(mine.bias, wanted.bias)
            same &= mine.activation.name == wanted.activation.name
            same &= np.array_equal(mine.activation(grid), wanted.activation(grid), equal_nan=True)
        weights = np.abs(ours.outgoing - theirs.outgoing) <= (u + extra) * np.abs(theirs.outgoing) + 3 * tiny
        shifted = extra * (np.abs(theirs.constant) + np.abs(before.constant)) + 3 * tiny
        constants = np.abs(ours.constant - theirs.constant) <= u * np.abs(theirs.constant) + shifted
        if not (same and weights.all() and constants.all()):
            return False
    return True


def compare(alone: onnx.ModelProto, layer: HiddenLayer, x: np.ndarray, rounding: float, law: str, tally: Tally) -> None:
    """Check that ONNX Runtime gives what the layer does, within rounding, its weights being rounded by `rounding`."""
    try:
        results = Session(alone, choose("cpu"), threads=1).run({alone.graph.input[0].name: x})
    except RuntimeRefused as refusal:
        tally.counts[f"not run: {refusal}"[:90]] += 1
        return
    document = decode(alone)
    (space,) = [s for s in spaces(document) if isinstance(s, Space)]
    for readout, (low, high), output in zip(
        layer.readouts, enclosures(document, space, x.astype("f8")), alone.graph.output, strict=True
    ):
        features = readout.features.evaluate(x.astype("f8"))
        aim = readout.apply(features)
        size = np.abs(features[:, :, 0]) @ np.abs(readout.outgoing[:, :, 0]).T + np.abs(readout.constant)
        slack = np.maximum(high - aim, aim - low) + 2 * rounding * size
        got = results[output.name].astype("f8").reshape(-1, readout.outputs)
        tally.hold(bool(np.all(np.abs(got - aim) <= slack)), law)
    tally.counts["run"] += 1


def verdicts(model: onnx.ModelProto) -> Iterator[tuple[str, bool]]:
    """Yield what the checker, strict shape inference and ONNX Runtime think of a model."""
    judges: tuple[tuple[str, Callable[[], object]], ...] = (
        ("checker", lambda: onnx.checker.check_model(model)),
        ("inference", lambda: shape_inference.infer_shapes(model, check_type=True, strict_mode=True)),
    )
    for name, judge in judges:
        try:
            judge()
        except Exception:
            yield name, False
        else:
            yield name, True
    yield "ONNX Runtime", accepts(model) is None


def check_model(path: Path, rng: np.random.Generator) -> Tally:
    """Check every law on one file."""
    tally = Tally()
    try:
        loaded = load(path)
    except CoresetError as error:
        tally.counts[f"unreadable: {error}"[:90]] += 1
        return tally
    model = readable(loaded.model, tally)
    if model is None:
        return tally
    found = [s.name for s in spaces(decode(model)) if isinstance(s, Space)]
    tally.counts["spaces"] = len(found)
    coresets: dict[str, Coreset] = {}
    for name in found:
        coresets[name] = check_layer(model, name, rng, tally)
    if coresets and loaded.bytes < LARGE:
        result, _ = cut(model, coresets)
        for (judge, before), (_, after) in zip(verdicts(model), verdicts(result), strict=True):
            tally.hold(after >= before, f"{judge} refuses the model with every layer cut")
    return tally


def main() -> int:
    """Check a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    paths = sorted(parser.parse_args().folder.rglob("*.onnx"))
    total, failed = Counter[str](), 0
    for seed, path in enumerate(paths):
        try:
            tally = check_model(path, np.random.default_rng(seed))
        except Exception:
            tally = Tally(failures=["a crash: " + traceback.format_exc()])
        total += Counter({k: v for k, v in tally.counts.items() if k in ("spaces", "run")})
        failed += bool(tally.failures)
        kinds = ", ".join(f"{k} {v}" for k, v in tally.counts.items() if k != "spaces")
        print(f"{'FAIL' if tally.failures else 'ok':4} {path.name}: {tally.counts['spaces']} layers; {kinds}")
        for failure in tally.failures:
            print(f"     {failure}")
    tools = ", ".join(f"{m.__name__} {m.__version__}" for m in (onnx_coreset, onnx, onnxruntime, np))
    print(f"{len(paths)} models, {total['spaces']} layers, {total['run']} runs compared, {failed} failed ({tools})")
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
