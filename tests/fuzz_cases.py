"""Cases of the fuzzer, and what must hold of every run: see `judged`.

A case is the content of a folder and a command line. `case` makes one from decisions, so that a seed names it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from fuzz_models import MAKERS, Chooser
from fuzz_mutants import ATTACKS, mutated_bytes, mutated_fields

__all__ = ["Case", "case", "judged"]

ort.set_default_logger_severity(4)

Main = Callable[[Sequence[str]], int]
_MODELS = Path(__file__).resolve().parents[1] / "models"
_PATIENCE = 5.0
_EXACT = ("--ratio", "1.0")
_TIGHT = ("--eps", "1e-4")
_TARGETS = (
    _EXACT,
    _EXACT,
    _TIGHT,
    ("--ratio", "0.5"),
    ("--ratio", "0.5"),
    ("--ratio", "0.3", "--min-width", "2"),
    ("--eps", "0.2"),
    ("--params", "0.8"),
    ("--output-eps", "0.3"),
    ("--width", "*=1"),
    ("--ratio", "0.6", "--round-to", "4"),
)
_MORE = (
    ("--method", "norm"),
    ("--method", "greedy"),
    ("--method", "sensitivity", "--no-refit"),
    ("--no-validate",),
    ("--no-validate", "--no-refit", "--method", "norm"),
    ("--constant-inputs",),
    ("--inline-functions",),
    ("--external-data",),
    ("--inputs", "ball"),
    ("--inputs", "synthetic"),
    ("--radius", "2"),
    ("--input-range", "-1:1"),
    ("--polish",),
    ("--seed", "7"),
    ("--memory-limit", "1KiB"),
    ("--dry-run",),
)
# What a refusal may rest on although the checker or ONNX Runtime takes the model.
_FOUND_OUT = re.compile(
    r" of data .*where its shape |has its data |external but names|negative dimension|stored in segments|element type"
    r"|calls itself|calls of functions|functions of the model stand for|has a cycle|is incomplete|not UTF-8"
    r"|no ONNX graph|not an ONNX file|which ONNX does not have|the (offset|length) "
)


@dataclass(frozen=True)
class Case:
    """A run of the command.

    Attributes:
        label: What kind it is.
        files: What lies in the folder; in.onnx is the model.
        arguments: Behind IN and OUT.
        valid: Whether nothing about the model is wrong.
    """

    label: str
    files: Mapping[str, bytes]
    arguments: tuple[str, ...]
    valid: bool = False


def case(c: Chooser, stock: Sequence[bytes] = ()) -> Case:
    """Return a case, its model made here or taken from a stock of models."""
    maker = c.one([*sorted(MAKERS), *["stock"] * bool(stock)])
    model = MAKERS[maker](c) if maker in MAKERS else onnx.ModelProto.FromString(c.one(stock))
    label = maker
    damage = c.integer(0, 9)
    if damage == 9:
        name = c.one(sorted(ATTACKS))
        ATTACKS[name](c, model)
        label += f", {name}"
    elif damage >= 5:
        mutated_fields(c, model)
        label += ", fields"
    elif damage < 5 and c.chance(0.02):
        model = onnx.load(_MODELS / c.one(("lenet_300_100.onnx", "swiglu_digits.onnx")))
        label = "trained"
    files = {}
    if c.chance(0.12):
        files["w.data"] = _moved_out(c, model)
        label += ", external"
    data = model.SerializeToString()
    if damage in (2, 3, 4):
        data = mutated_bytes(c, data)
        label += ", bytes"
    arguments = [*c.one(_TARGETS), "--samples", "64", "--provider", "cpu", "--certify", "off"]
    if c.chance(0.05):
        arguments[-1] = "fast"
    for _ in range(c.one((0, 0, 1, 2))):
        arguments += c.one(_MORE)
    arguments += ("--report", "r.json") if c.chance(0.5) else ()
    valid = damage < 2 and maker not in ("odd", "stock")
    return Case(label, {"in.onnx": data, **files}, tuple(dict.fromkeys(_pairs(arguments))), valid)


def _pairs(arguments: Sequence[str]) -> Iterator[str]:
    """Join flags with their values, so that none is given twice."""
    joined: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            joined.append(argument)
        else:
            joined[-1] += f"={argument}"
    seen: dict[str, str] = {}
    for argument in joined:
        seen[argument.partition("=")[0]] = argument
    # The two contradict each other.
    if "--radius" in seen and "--inputs" in seen:
        del seen["--inputs"]
    return iter(seen.values())


def _moved_out(c: Chooser, model: onnx.ModelProto) -> bytes:
    content = b""
    for tensor in model.graph.initializer:
        if tensor.raw_data and c.chance(0.7) and tensor.data_location != TensorProto.EXTERNAL:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "w.data"), ("offset", len(content)), ("length", len(tensor.raw_data))):
                tensor.external_data.add(key=key, value=str(value))
            content += tensor.raw_data
            tensor.ClearField("raw_data")
    return content


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Everything that the process writes to its two streams, natively too."""
    said: list[str] = []
    kept = sys.stdout, sys.stderr
    saved = [os.dup(1), os.dup(2)]
    heaps = [tempfile.TemporaryFile() for _ in saved]  # noqa: SIM115
    for stream in kept:
        stream.flush()
    try:
        for descriptor, heap in zip((1, 2), heaps, strict=True):
            os.dup2(heap.fileno(), descriptor)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(d, "w", closefd=False), "utf-8", write_through=True) for d in (1, 2)
        )
        yield said
    finally:
        sys.stdout, sys.stderr = kept
        for descriptor, old, heap in zip((1, 2), saved, heaps, strict=True):
            os.dup2(old, descriptor)
            os.close(old)
            heap.seek(0)
            said.append(heap.read().decode("utf-8", "replace"))
            heap.close()


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        code: The exit code.
        problem: What is wrong with it, or None.
        facts: More about it.
    """

    code: int
    problem: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def judged(made: Case, folder: Path, main: Main) -> Outcome:
    """Run a case in an empty folder and say what is wrong with what came of it.

    The exit code is one of five; an error is one or two lines, and no bug; the input is as it was; on 0 there are OUT
    and the report and nothing else, on 1 the report at most, on the others nothing; a valid model is not refused;
    what was written is no worse than what was read: see `_compared`.
    """
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    here = os.getcwd()
    os.chdir(folder)
    try:
        with _heard() as said:
            code = main(["in.onnx", "out.onnx", *made.arguments])
        out, err = said
        problem = _of_streams(code, out, err) or _of_folder(made, folder, code)
        if problem is None and code == 0 and (folder / "out.onnx").exists():
            problem = _compared(folder, made)
        elif problem is None and code in (1, 3, 4) and made.valid and "--memory-limit=1KiB" not in made.arguments:
            problem = f"a valid model ends with {code}: {err.strip()[-300:]}"
        elif problem is None and code == 3 and not _FOUND_OUT.search(err) and _accepted(folder / "in.onnx"):
            problem = f"refused although the checker or the runtime takes it: {err.strip()[-300:]}"
        return Outcome(code, problem, {"error": err.strip()[:300]})
    finally:
        os.chdir(here)


def _of_streams(code: int, out: str, err: str) -> str | None:
    if code not in (0, 1, 2, 3, 4):
        return f"exit code {code}"
    if "Traceback" in out + err or "this is a bug" in err:
        return f"a bug: {err.strip()[-600:]}"
    if code == 0:
        return f"success says on stderr: {err[:300]}" if err and "warning" not in err else None
    if not err.startswith("onnx-coreset: error: ") or not 1 <= err.count("\n") <= 2 or len(err) > 1500:
        return f"an error is not one or two lines: {err[:600]!r}"
    return f"says on stdout although it failed: {out[:300]}" if out and code != 1 else None


def _of_folder(made: Case, folder: Path, code: int) -> str | None:
    left = {path.name: path for path in folder.iterdir()}
    for name, content in made.files.items():
        if name not in left or hashlib.sha256(left.pop(name).read_bytes()).digest() != hashlib.sha256(content).digest():
            return f"{name} changed"
    asked = {"r.json"} if "--report=r.json" in made.arguments else set()
    model = {"out.onnx"} if "--dry-run" not in made.arguments else set()
    if code == 0:
        left.pop("out.onnx.data" if "--external-data" in made.arguments else "", None)
        return None if set(left) == asked | model else f"after success there are {sorted(left)}"
    return None if set(left) <= (asked if code == 1 else set()) else f"after {code} there are {sorted(left)}"


def _accepted(path: Path) -> int:
    """Return 2 where the checker accepts a model fully, 1 where otherwise or ONNX Runtime loads it, else 0."""
    for full in (True, False):
        try:
            onnx.checker.check_model(str(path), full_check=full)
            return 2 if full else 1
        except Exception:
            continue
    try:
        _session(path)
    except Exception:
        return 0
    return 1


def _session(path: Path, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, feed: Mapping[str, Any]) -> list[Any]:
    """Run a model that may never end."""
    options = ort.RunOptions()
    watch = threading.Timer(_PATIENCE, lambda: setattr(options, "terminate", True))
    watch.start()
    try:
        found: list[Any] = session.run(None, feed, options)
        return found
    finally:
        watch.cancel()


def _compared(folder: Path, made: Case) -> str | None:
    """Say in what OUT is worse than IN: not accepted, not run, other ends, more parameters, other values."""
    before, after = folder / "in.onnx", folder / "out.onnx"
    old, new = (onnx.load(str(path), load_external_data=False) for path in (before, after))
    if _accepted(after) < _accepted(before):
        return "the checker liked the input better"
    if _ends(old) != _ends(new):
        return "inputs, outputs or metadata are not the same"
    if _parameters(new) > _parameters(old):
        return f"{_parameters(old)} parameters became {_parameters(new)}"
    if "exploding" in made.label:
        # ONNX Runtime takes minutes to load these; the command does not let it.
        return None
    try:
        sessions = [_session(before)]
        feeds = [_feed(sessions[0], seed) for seed in range(3)]
        want = [_run(sessions[0], feed) for feed in feeds]
        again = _run(sessions[0], feeds[0])
    except Exception:
        return None
    try:
        sessions.append(_session(after))
        got = [_run(sessions[1], feed) for feed in feeds]
    except Exception as error:
        return None if "terminate flag" in str(error) else f"runs no more: {str(error)[:300]}"
    steady = [_same(a, b) for a, b in zip(want[0], again, strict=True)]
    slow = want
    if made.arguments[0] == "--ratio=1.0":
        with suppress(Exception):
            plain = _session(before, False)
            slow = [_run(plain, feed) for feed in feeds]
    for w, g, s in zip(want, got, slow, strict=True):
        for index, value in enumerate(w):
            problem = _of_values(value, g[index], s[index], made) if steady[index] else None
            if problem is not None:
                return f"output {index}: {problem}"
    return None


@np.errstate(all="ignore")
def _of_values(want: Any, got: Any, slow: Any, made: Case) -> str | None:
    if not isinstance(want, np.ndarray):
        return None
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{want.dtype}{want.shape} became {got.dtype}{got.shape}"
    if want.dtype.kind != "f":
        return None
    if np.isfinite(want).all() and not np.isfinite(got).all() and "--no-validate" not in made.arguments:
        return "new values that are not finite"
    w, g, s = (np.asarray(v, np.float64) for v in (want, got, slow))
    finite = np.isfinite(w) & np.isfinite(g) & np.isfinite(s)
    size = float(np.abs(w[finite]).max(initial=0.0)) + 1e-30
    moved = float(np.abs(w - g)[finite].max(initial=0.0)) / size
    noise = float(np.abs(w - s)[finite].max(initial=0.0)) / size
    if "--ratio=1.0" in made.arguments and moved > max(1e-5 if want.dtype.itemsize > 2 else 4e-3, 10 * noise):
        return f"nothing was to change, but {moved:.2g} did, of rounding noise {noise:.2g}"
    if made.valid and "--eps=1e-4" in made.arguments and moved > 0.1 and want.dtype.itemsize > 2:
        return f"moved by {moved:.2g} where each layer may err by 1e-4"
    return None


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, np.ndarray) and a.shape == b.shape and bool(np.all((a == b) | ((a != a) & (b != b))))


def _feed(session: ort.InferenceSession, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kinds = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2", "tensor(bool)": "?"}
    kinds |= {f"tensor({n})": n for n in ("int8", "uint8", "int16", "int32", "int64")}
    feed = {}
    for spec in session.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else 3 for d in spec.shape]
        if np.prod(shape, dtype=float) > 1e6:
            raise ValueError("too large")
        feed[spec.name] = rng.standard_normal(shape).astype(kinds[spec.type])
    return feed


def _ends(model: onnx.ModelProto) -> tuple[Any, ...]:
    weights = {t.name for t in model.graph.initializer}
    return (
        [i.SerializeToString(deterministic=True) for i in model.graph.input if i.name not in weights],
        [o.SerializeToString(deterministic=True) for o in model.graph.output],
        [(p.key, p.value) for p in model.metadata_props],
        (model.domain, model.model_version, model.doc_string),
    )


def _parameters(model: onnx.ModelProto) -> int:
    graphs, total = [model.graph], 0
    while graphs:
        graph = graphs.pop()
        total += sum(int(np.prod(t.dims, dtype=object)) for t in graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    graphs.append(attribute.g)
                elif node.op_type == "Constant" and attribute.type == onnx.AttributeProto.TENSOR:
                    total += int(np.prod(attribute.t.dims, dtype=object))
    return total
