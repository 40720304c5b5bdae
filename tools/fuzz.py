"""Many made, damaged and hostile models through the command, and what must hold of every run.

    python tools/fuzz.py [--cases 10000] [--seed 0] [--jobs 2] [--seconds 60] [--memory 4] [--save FOLDER] [--json FILE]
        [--only SEED,...]

Case i is that of seed `seed + i`, wherever it runs: `--only` runs some again. Workers run many cases each, in a
process of their own with bounded address space; one that takes more than `--seconds` for a case is killed, one that
dies is started again, and the case that it was at counts as failed. Failed cases are saved: the files of the folder and
what was wrong. What must hold is written down in `tests/fuzz_cases.py`. Exits 1 where a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
CHUNK = 40
GROWTH = 1 << 20  # KiB that a single case may add to a worker's resident memory


def worker(memory: int) -> None:
    """Run the cases whose seeds come on stdin, a line each; say on the old stdout what came of each."""
    import numpy as np

    from fuzz_cases import case, judged
    from fuzz_models import Seeded
    from onnx_coreset.cli import main

    resource.setrlimit(resource.RLIMIT_AS, (memory << 30, memory << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    for line in sys.stdin:
        seed = int(line)
        tell.write(json.dumps({"start": seed}) + "\n")
        made = case(Seeded(np.random.default_rng(seed)))
        folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
        before, start = resident(), time.monotonic()
        try:
            outcome = judged(made, folder, main)
            code, problem = outcome.code, outcome.problem
        except BaseException as error:
            code, problem = -1, f"could not be judged: {type(error).__name__}: {error}"
        shutil.rmtree(folder, ignore_errors=True)
        grown = resident() - before
        if problem is None and grown > GROWTH:
            problem = f"took {grown >> 10} MiB more memory"
        done = {"done": seed, "label": made.label, "code": code, "problem": problem, "grown": grown}
        tell.write(json.dumps({**done, "seconds": round(time.monotonic() - start, 3)}) + "\n")


def resident() -> int:
    """Largest resident memory so far, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass
class Hand:
    """A worker process, and the case that it is at."""

    process: subprocess.Popen[str]
    left: list[int] = field(default_factory=list)
    at: int | None = None
    since: float = 0.0


class Crew:
    """Workers that are kept busy, watched and replaced."""

    def __init__(self, seeds: Sequence[int], jobs: int, seconds: float, memory: int) -> None:
        self.waiting = list(seeds)[::-1]
        self.seconds, self.memory = seconds, memory
        self.selector = selectors.DefaultSelector()
        for _ in range(jobs):
            self._start()

    def _start(self) -> None:
        env = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONFAULTHANDLER": ""}
        command = [sys.executable, __file__, "--worker", "--memory", str(self.memory)]
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
                hand.process.stdin.write(f"{hand.left[-1]}\n")
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
        hand.left.remove(told["done"])
        hand.at = None
        yield told
        self._feed(hand)
        if not hand.left:
            self._close(hand)

    def _gone(self, hand: Hand, why: str) -> Iterator[dict[str, Any]]:
        if hand.at is not None:
            hand.left.remove(hand.at)
            yield {"done": hand.at, "label": None, "code": None, "problem": why, "seconds": 0.0, "grown": 0}
        self._close(hand)
        self.waiting += hand.left[::-1]
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


def saved(place: pathlib.Path, told: dict[str, Any]) -> None:
    """Write the files of a case that failed, and what was wrong; it is made again, from its seed."""
    import numpy as np

    from fuzz_cases import case
    from fuzz_models import Seeded

    made = case(Seeded(np.random.default_rng(told["done"])))
    folder = place / str(told["done"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    about = {**told, "label": made.label, "arguments": made.arguments}
    (folder / "case.json").write_text(json.dumps(about, indent=1))


def versions() -> dict[str, str]:
    import hypothesis
    import numpy
    import onnx
    import onnxruntime
    import scipy

    modules = (numpy, scipy, onnx, onnxruntime, hypothesis)
    return {"python": platform.python_version()} | {m.__name__: str(m.__version__) for m in modules}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="for one case")
    parser.add_argument("--memory", type=int, default=8, help="GiB of address space of a worker")
    parser.add_argument("--save", type=pathlib.Path, help="where cases that fail go")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.memory)
        return 0
    seeds = args.only or range(args.seed, args.seed + args.cases)
    about = {"seed": args.seed, "cases": len(seeds), "versions": versions()}
    print(json.dumps(about), flush=True)
    codes, kinds, start = Counter[str](), Counter[str](), time.monotonic()
    failed: list[dict[str, Any]] = []
    slowest, largest = 0.0, 0
    for count, told in enumerate(Crew(seeds, args.jobs, args.seconds, args.memory).results(), 1):
        codes[str(told["code"])] += 1
        kinds[str(told["label"])] += 1
        slowest, largest = max(slowest, told["seconds"]), max(largest, told["grown"])
        if told["problem"] is not None:
            failed.append(told)
            print(f"{told['done']} ({told['label']}): {told['problem']}", flush=True)
            if args.save is not None:
                saved(args.save, told)
        if count % 500 == 0:
            print(f"-- {count} cases, {len(failed)} failed, {time.monotonic() - start:.0f} s", flush=True)
    summary = {**about, "failed": len(failed), "codes": dict(codes), "kinds": dict(kinds.most_common())}
    summary |= {"seconds": round(time.monotonic() - start), "slowest": slowest, "largest_growth_mib": largest >> 10}
    print(json.dumps(summary, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps({**summary, "failures": failed}, indent=1))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
