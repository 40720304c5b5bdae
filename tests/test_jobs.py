"""Whoever works on layers, the result is the same; and whatever happens to them, nothing is left behind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import onnx
import pytest
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_info, threadpool_limits

from api_models import mlp
from onnx_coreset import Options, optimize, sweep
from onnx_coreset.cli import main
from onnx_coreset.core.activations.records import ACTIVATIONS
from onnx_coreset.core.arrays import Indices
from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict
from onnx_coreset.core.methods import METHODS
from onnx_coreset.core.methods.base import Context
from onnx_coreset.edge import crew, files, parcel
from onnx_coreset.edge.processes import Processes
from onnx_coreset.edge.threads import one_thread
from onnx_coreset.errors import MachineError, ModelError, UsageError
from onnx_coreset.stages import opening
from test_architecture import environment

SIZES = [64, 320, 280, 260, 6]
CPU: dict[str, Any] = {"provider": "cpu", "certify": "off", "samples": 600}
ASKED = [{"eps": 0.3}, {"ratio": 0.5}, {"params": 0.7}, {"eps": 0.5, "method": "uniform", "refit": False}]
Way = Callable[[], Any]


@contextmanager
def two_workers() -> Iterator[Executor]:
    """Two workers, each a process of its own."""
    with (
        # Where all cores are busy, workers take their time to start.
        dask.config.set({"distributed.comm.timeouts.connect": "120s", "distributed.comm.timeouts.tcp": "120s"}),
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    with two_workers() as executor:
        yield executor


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of temporary files in which nothing is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert os.listdir(folder) == []


def plain(report: Any) -> dict[str, Any]:
    """A report without what differs between runs."""
    found = json.loads(report.to_json())
    found.pop("seconds")
    found["options"].pop("jobs")
    return dict(found)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_result_is_the_same_whoever_works(asked: dict[str, Any], cluster: Executor) -> None:
    model = mlp(SIZES)
    expected = optimize(model, **asked, **CPU)
    assert any(chain.status == "pruned" for chain in expected.report.chains)
    with ThreadPoolExecutor(2) as threads:
        for how in ({"executor": threads}, {"jobs": 2}, {"executor": cluster}):
            result = optimize(model, **asked, **CPU, **how)
            assert result.model.SerializeToString() == expected.model.SerializeToString()
            assert plain(result.report) == plain(expected.report)


def test_a_family_is_the_same_whoever_works(cluster: Executor) -> None:
    expected = list(sweep(mlp(SIZES), [0.6, 0.3], **CPU))
    for how in ({"jobs": 2}, {"executor": cluster}):
        found = list(sweep(mlp(SIZES), [0.6, 0.3], **CPU, **how))
        assert [r.model for r in found] == [r.model for r in expected]
        assert [plain(r.report) for r in found] == [plain(r.report) for r in expected]


def test_a_model_that_stays_in_its_files_is_the_same_and_its_tasks_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    onnx.save(mlp(SIZES), inside / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    monkeypatch.setattr(opening.files, "load", partial(files.load, many=0))
    sizes = []
    with ThreadPoolExecutor(2) as pool:

        class Weighing(Executor):
            def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
                sizes.append(len(pickle.dumps((fn, args))))
                return pool.submit(fn, *args)

        optimize(inside / "in.onnx", outside / "out.onnx", ratio=0.5, **CPU, executor=Weighing())
    assert len(sizes) == 3 and max(sizes) < 100_000
    assert files.load(outside / "out.onnx", many=1 << 40).model == optimize(mlp(SIZES), ratio=0.5, **CPU).model
    assert os.listdir(outside) == ["out.onnx"]


def test_what_is_proven_goes_to_the_workers_too() -> None:
    result = optimize(mlp([8, 24, 20, 4]), ratio=0.5, **CPU | {"certify": "fast"}, jobs=2)
    pruned = [chain for chain in result.report.chains if chain.status == "pruned"]
    assert len(pruned) > 1
    for chain in pruned:
        assert chain.error.certified is not None and chain.error.attacked is not None
        assert chain.error.attacked <= chain.error.certified


class Failing:
    """A method that fails as it is told to."""

    name = "failing"
    requires = frozenset[str]()

    def __init__(self, how: BaseException | None = None) -> None:
        self.how = how

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        if self.how is None:
            os._exit(1)
        raise self.how


@pytest.mark.parametrize("error", [MachineError("full"), ModelError("odd"), MemoryError("all"), KeyError("bug")])
def test_what_the_work_raises_arrives(error: Exception, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads, pytest.raises(type(error)) as found:
        optimize(mlp(SIZES), tmp_path / "out.onnx", method=Failing(error), ratio=0.5, **CPU, executor=threads)
    assert found.value.args == error.args
    assert os.listdir(tmp_path) == ["temporary"]


def test_workers_that_die_are_the_machines_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    import test_jobs

    with pytest.raises(MachineError, match="a worker failed"):
        optimize(mlp(SIZES), tmp_path / "out.onnx", method=test_jobs.Failing(), ratio=0.5, **CPU, jobs=2)
    assert os.listdir(tmp_path) == ["temporary"]


def test_an_interrupted_run_kills_its_workers_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Processes] = []

    class Noted(Processes):
        def __init__(self, count: int) -> None:
            super().__init__(count)
            started.append(self)

    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    import test_jobs

    monkeypatch.setattr(crew, "Processes", Noted)
    monkeypatch.setattr(crew, "_perform", test_jobs.sleep)
    threading.Timer(4.0, partial(signal.pthread_kill, threading.get_ident(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        optimize(mlp([8, 16, 4]), tmp_path / "out.onnx", ratio=0.5, **CPU, jobs=2)
    assert time.perf_counter() - start < 30
    assert [process.poll() is not None for process in started[0]._all] == [True, True]
    assert os.listdir(tmp_path) == ["temporary"]


def sleep(*_: object) -> None:
    time.sleep(60)


def test_a_method_that_cannot_be_sent_is_named() -> None:
    class Mine(Failing):
        def order(self, layer: HiddenLayer, context: Context, rng: np.random.Generator) -> Indices:
            return np.arange(layer.width)

        def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
            return restrict(layer, np.arange(width))

    optimize(mlp([8, 16, 4]), method=Mine(), ratio=0.5, **CPU)
    with pytest.raises(UsageError, match="a class that a module defines"):
        optimize(mlp([8, 16, 4]), method=Mine(), ratio=0.5, **CPU, jobs=2)


def test_an_executor_and_jobs_are_one_too_many() -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(UsageError, match="two ways"):
        optimize(mlp([8, 16, 4]), **CPU, jobs=2, executor=threads)


def test_an_executor_that_was_shut_down_is_no_bug() -> None:
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(MachineError, match="takes no work"):
        optimize(mlp([8, 16, 4]), **CPU, executor=threads)


def test_a_folder_that_a_worker_does_not_see_is_named(tmp_path: Path) -> None:
    data = parcel.packed(np.zeros(1 << 16), str(tmp_path))
    (held,) = tmp_path.glob("parcel-*")
    held.unlink()
    with pytest.raises(MachineError, match="must be one that all workers share"):
        parcel.opened(data)


def test_the_command_does_it_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx.save(mlp(SIZES), tmp_path / "in.onnx")
    more = ["--certify", "off", "--provider", "cpu", "--samples", "600"]
    assert main([str(tmp_path / "in.onnx"), str(tmp_path / "1.onnx"), *more]) == 0
    capfd.readouterr()
    assert main([str(tmp_path / "in.onnx"), str(tmp_path / "2.onnx"), *more, "--jobs", "2"]) == 0
    shown = capfd.readouterr()
    assert "h0" in shown.out and shown.err == ""
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    onnx.save(mlp([8, 16, 4]), tmp_path / "in.onnx")
    script = tmp_path / "script.py"
    script.write_text(
        "import onnx_coreset\n"
        f"r = onnx_coreset.optimize({str(tmp_path / 'in.onnx')!r}, ratio=0.5, jobs=2, provider='cpu', certify='off')\n"
        "print(len(r.report.chains))\n"
    )
    child = subprocess.run(
        [sys.executable, str(script)], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "2\n", "")


def strange() -> list[np.ndarray]:
    big = np.random.default_rng(0).standard_normal((300, 200))
    kinds = [big, big.T, big[:, ::2], big[:, :, None], np.broadcast_to(np.nan, (200, 200)), big.astype("f2")]
    return [*kinds, big[:3], np.arange(9.0).reshape(3, 3).T, big.reshape(20, 15, 200).transpose(1, 2, 0)]


def test_arrays_arrive_in_the_order_of_their_memory(tmp_path: Path) -> None:
    sent = strange()
    data = parcel.packed({"twice": (sent, sent), "records": ACTIVATIONS}, str(tmp_path))
    assert len(data) < 10_000
    found = parcel.opened(data)
    assert found["records"] == ACTIVATIONS
    for one, other in zip(found["twice"][0], sent, strict=True):
        np.testing.assert_array_equal(one, other)
        order = sorted(range(one.ndim), key=lambda axis: -other.strides[axis])
        if all(other.strides):
            assert order == sorted(range(one.ndim), key=lambda axis: -one.strides[axis])
    assert all(one is two for one, two in zip(*found["twice"], strict=True))


def test_what_is_in_files_already_stays_there(tmp_path: Path) -> None:
    known: parcel.Known = {}
    array = parcel.opened(parcel.packed(strange()[0], str(tmp_path)), known)
    before = sorted(os.listdir(tmp_path))
    again = parcel.opened(parcel.packed((array, 1), str(tmp_path), known))
    assert sorted(os.listdir(tmp_path)) == before
    np.testing.assert_array_equal(again[0], array)


def test_models_are_sent_without_their_weights(tmp_path: Path) -> None:
    model = mlp([200, 400, 4])
    data = parcel.packed(model, str(tmp_path))
    assert len(data) < 20_000
    assert {p.key for t in parcel.opened(data).graph.initializer for p in t.external_data} >= {"location", "offset"}


def test_one_thread_holds_for_all_until_the_last_one_is_done() -> None:
    def counts() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2):
        before = counts()
    with ThreadPoolExecutor(1) as other:
        second = one_thread()
        with one_thread():
            other.submit(second.__enter__).result()
        # One is out, and the other is not.
        assert before and counts() == {1}
        other.submit(second.__exit__, None, None, None).result()


def test_methods_and_options_can_be_sent() -> None:
    for method in METHODS.values():
        assert pickle.loads(pickle.dumps(method)) == method
    assert pickle.loads(pickle.dumps(Options(jobs=2))) == Options(jobs=2)
