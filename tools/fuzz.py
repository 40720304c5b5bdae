"""Many made, damaged and hostile models through the command, and what must hold of every run.

    python tools/fuzz.py [--cases 10000] [--seed 0] [--jobs 2] [--seconds 120] [--memory 4] [--save FOLDER]
        [--json FILE] [--only SEED,...]

Case i is that of seed `seed + i`, wherever it runs: `--only` runs some again. Workers run many cases each, in a
process of their own with bounded address space; one that takes more than `--seconds` for a case is killed, one that
dies is started again, and its case is run once more as the command itself, which must stand the crash. Failed cases
are saved: the files of the folder and what was wrong. What must hold is written down in `tests/fuzz_cases.py`. Exits 1
where a case failed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import pickle
import platform
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# Only where the tests are: they say what a case is, and what must hold of it.
from fuzz_cases import Case, Outcome, case, judged  # noqa: E402
from fuzz_models import Seeded  # noqa: E402
from onnx_coreset.cli import main  # noqa: E402
from onnx_coreset.edge import patience  # noqa: E402

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
LARGEST = 1 << 16  # bytes of a model that is taken from the stock
GROWTH = 1 << 20  # KiB that a single case may add to a worker's resident memory
FLOATS = 32  # copies of its input, in float64, that a case may add besides


def operators() -> list[bytes]:
    """Return the models that onnx tests its operators with: every operator, and nets that others exported."""
    import onnx
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {made.name: made.model.SerializeToString() for made in collect_testcases(None)}
    data = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
    found |= {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*.onnx")}
    return [found[name] for name in sorted(found) if len(found[name]) <= LARGEST]


def made_of(seed: int, stock: pathlib.Path) -> Case:
    """Make the case of a seed."""
    return case(Seeded(np.random.default_rng(seed)), stocked(stock))


def made_or_none(seed: int, stock: pathlib.Path) -> Case | None:
    """Make the case of a seed; None where onnx does not let its model be made."""
    with suppress(Exception):
        return made_of(seed, stock)
    return None


@cache
def stocked(place: pathlib.Path) -> list[bytes]:
    found: list[bytes] = pickle.loads(place.read_bytes())
    return found


def worker(memory: int, stock: pathlib.Path) -> None:
    """Run the cases whose seeds come on stdin, a line each; say on the old stdout what came of each."""
    patience._LOOP_SECONDS = 2.0
    resource.setrlimit(resource.RLIMIT_AS, (memory << 30, memory << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    for line in sys.stdin:
        seed, alone = (int(part) for part in line.split())
        tell.write(json.dumps({"start": seed}) + "\n")
        folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
        before, start = resident(), time.monotonic()
        label, code, made = "", -1, None
        try:
            made = made_or_none(seed, stock)
            label = "" if made is None else made.label
            outcome = Outcome(0, None) if made is None else judged(made, folder, program if alone else main)
            code, problem = outcome.code, outcome.problem
        except BaseException as error:
            problem = f"could not be judged: {type(error).__name__}: {error}"
        shutil.rmtree(folder, ignore_errors=True)
        grown = resident() - before
        if problem is None and grown > allowed(made) and "large at run time" not in label:
            problem = f"took {grown >> 10} MiB more memory"
        done = {"done": seed, "label": label, "code": code, "problem": problem, "grown": grown, "alone": alone}
        tell.write(json.dumps({**done, "seconds": round(time.monotonic() - start, 3)}) + "\n")


def allowed(made: Case | None) -> int:
    """KiB that a case may add: more where the model says itself that a run takes a huge input."""
    numbers = 0
    with suppress(Exception):
        for value in onnx.ModelProto.FromString(made.files["in.onnx"] if made else b"").graph.input:
            numbers += math.prod(max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim)
    return GROWTH + (FLOATS * 8 * min(numbers, 1 << 27) >> 10)


def program(arguments: Sequence[str]) -> int:
    """Run the command in a process of its own, as a user does; return its exit code."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, "-m", "onnx_coreset", *arguments], env=env, check=False).returncode


def resident() -> int:
    """Largest resident memory so far, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass
class Hand:
    """A worker process, and the case that it is at."""

    process: subprocess.Popen[str]
    left: list[tuple[int, int]] = field(default_factory=list)
    at: int | None = None
    since: float = 0.0


class Crew:
    """Workers that are kept busy, watched and replaced."""

    def __init__(self, seeds: Sequence[int], jobs: int, seconds: float, memory: int, stock: pathlib.Path) -> None:
        self.waiting = [(seed, 0) for seed in seeds][::-1]
        self.seconds, self.memory, self.stock = seconds, memory, stock
        self.selector = selectors.DefaultSelector()
        for _ in range(jobs):
            self._start()

    def _start(self) -> None:
        env = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONFAULTHANDLER": ""}
        command = [sys.executable, __file__, "--worker", "--memory", str(self.memory), "--stock", str(self.stock)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env, stderr=subprocess.DEVNULL)
        hand = Hand(process, since=time.monotonic())
        self._feed(hand)
        assert process.stdout is not None
        self.selector.register(process.stdout, selectors.EVENT_READ, hand)

    def _feed(self, hand: Hand) -> None:
        assert hand.process.stdin is not None
        while self.waiting and len(hand.left) < 2:
            hand.left.append(self.waiting.pop())
            try:
                hand.process.stdin.write("{} {}\n".format(*hand.left[-1]))
                hand.process.stdin.flush()
            except OSError:
                return

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield what came of each case."""
        while self.selector.get_map():
            for key, _ in self.selector.select(timeout=1.0):
                yield from self._heard(key.data)
            for key in list(self.selector.get_map().values()):
                hand = key.data
                if hand.left and time.monotonic() - hand.since > self.seconds:
                    hand.process.kill()
                    hand.process.wait()
                    yield from self._gone(hand, f"no answer in {self.seconds:g} s")

    def _heard(self, hand: Hand) -> Iterator[dict[str, Any]]:
        assert hand.process.stdout is not None
        line = hand.process.stdout.readline()
        if not line:
            hand.process.wait()
            yield from self._gone(hand, f"the process died: {died(hand.process.returncode)}")
            return
        hand.since = time.monotonic()
        told = json.loads(line)
        if "start" in told:
            hand.at = told["start"]
            return
        hand.left.remove((told["done"], told["alone"]))
        hand.at = None
        yield told
        self._feed(hand)
        if not hand.left:
            self._close(hand)

    def _gone(self, hand: Hand, why: str) -> Iterator[dict[str, Any]]:
        """A worker is no more: native code that crashed must not crash the command, so that is looked at next."""
        at = next((pair for pair in hand.left if pair[0] == hand.at), None)
        self._close(hand)
        self.waiting += [pair for pair in hand.left[::-1] if pair != at]
        if at is not None and "died" in why and not at[1]:
            self.waiting.append((at[0], 1))
        elif at is not None:
            yield {
                "done": at[0],
                "label": None,
                "code": None,
                "problem": why,
                "seconds": 0.0,
                "grown": 0,
                "alone": at[1],
            }
        if self.waiting:
            self._start()

    def _close(self, hand: Hand) -> None:
        assert hand.process.stdin is not None and hand.process.stdout is not None
        self.selector.unregister(hand.process.stdout)
        for pipe in (hand.process.stdin, hand.process.stdout):
            try:
                pipe.close()
            except OSError:
                continue
        hand.process.wait()


def died(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def saved(place: pathlib.Path, told: dict[str, Any], made: Case) -> None:
    """Write the files of a case that failed, and what was wrong."""
    folder = place / str(told["done"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    about = {**told, "label": made.label, "arguments": made.arguments}
    (folder / "case.json").write_text(json.dumps(about, indent=1))


def versions() -> dict[str, str]:
    import hypothesis
    import onnx
    import onnxruntime
    import scipy

    modules = (np, scipy, onnx, onnxruntime, hypothesis)
    return {"python": platform.python_version()} | {m.__name__: str(m.__version__) for m in modules}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120.0, help="for one case")
    parser.add_argument("--memory", type=int, default=8, help="GiB of address space of a worker")
    parser.add_argument("--save", type=pathlib.Path, help="where cases that fail go")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stock", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(args: argparse.Namespace, stock: pathlib.Path) -> int:
    seeds = args.only or range(args.seed, args.seed + args.cases)
    about = {"seed": args.seed, "cases": len(seeds), "versions": versions()}
    print(json.dumps(about), flush=True)
    codes, kinds, start = Counter[str](), Counter[str](), time.monotonic()
    failed: list[dict[str, Any]] = []
    crashes: list[int] = []
    slowest, largest = 0.0, 0
    crew = Crew(seeds, args.jobs, args.seconds, args.memory, stock)
    for count, told in enumerate(crew.results(), 1):
        codes[str(told["code"])] += 1
        kinds[str(told["label"])] += 1
        slowest, largest = max(slowest, told["seconds"]), max(largest, told["grown"])
        crashes += [told["done"]] if told["alone"] else []
        if told["problem"] is not None:
            failed.append(told)
            print(f"{told['done']} ({told['label']}): {told['problem']}", flush=True)
            made = made_or_none(told["done"], stock)
            if args.save is not None and made is not None:
                saved(args.save, told, made)
        if count % 500 == 0:
            print(f"-- {count} cases, {len(failed)} failed, {time.monotonic() - start:.0f} s", flush=True)
    summary = {**about, "failed": len(failed), "codes": dict(codes), "kinds": dict(kinds.most_common())}
    summary |= {"native_crashes": crashes, "seconds": round(time.monotonic() - start)}
    summary |= {"slowest": slowest, "largest_growth_mib": largest >> 10}
    print(json.dumps(summary, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps({**summary, "failures": failed}, indent=1))
    return int(bool(failed))


if __name__ == "__main__":
    asked = parsed()
    if asked.worker:
        worker(asked.memory, asked.stock)
        sys.exit(0)
    with tempfile.NamedTemporaryFile(suffix=".stock") as held:
        held.write(pickle.dumps(operators()))
        held.flush()
        sys.exit(run(asked, pathlib.Path(held.name)))
