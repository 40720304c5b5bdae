"""The program is watched: whatever ends its process, there is a line, an exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from api_models import mlp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the program is watched on Linux alone")

ROOT = Path(__file__).resolve().parents[1]
STUB = """
import os, signal, sys, time
from pathlib import Path
from onnx_coreset import api, cli
from onnx_coreset.edge.temporary import new_file

way, sys.argv = sys.argv[-1], ["onnx-coreset", "in.onnx", "out.onnx"]

def optimize(*_, **__):
    held = new_file(Path())
    print(os.getpid(), flush=True)
    if way == "wait":
        time.sleep(60)
    os.kill(os.getpid(), getattr(signal, way))

api.optimize = optimize
sys.exit(cli.main())
"""


def started(folder: Path, way: str) -> subprocess.Popen[str]:
    """The program in a folder, its work replaced by what ends it."""
    (folder / "in.onnx").write_bytes(mlp([6, 20, 4]).SerializeToString())
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", STUB, way], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    ("way", "code", "words"),
    [
        ("SIGSEGV", 3, "crashed ONNX or ONNX Runtime (SIGSEGV)"),
        ("SIGFPE", 3, "crashed ONNX or ONNX Runtime (SIGFPE)"),
        ("SIGABRT", 3, "crashed ONNX or ONNX Runtime (SIGABRT)"),
        ("SIGKILL", 4, "killed by the system"),
    ],
)
def test_what_ends_the_process_is_said(way: str, code: int, words: str, tmp_path: Path) -> None:
    with started(tmp_path, way) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert words in said and said.startswith("onnx-coreset: error: ") and said.count("\n") <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_a_signal_to_the_program_ends_both_and_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path, "wait") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert process.returncode == -signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_the_work_ends_with_whom_it_is_done_for(tmp_path: Path) -> None:
    with started(tmp_path, "wait") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    for _ in range(100):
        # What nobody waits for may stay as a zombie.
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("it is still there")


def test_saves_that_are_killed_leave_the_old_model_or_the_new_one() -> None:
    command = [sys.executable, str(ROOT / "tools" / "kills.py"), "--kills", "12", "--whole", "1", "--megabytes", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
