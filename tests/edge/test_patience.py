"""Ctrl-C is heard where native code does not hear it, and put off where it would break something."""

from __future__ import annotations

import signal
import threading

import pytest

from onnx_coreset.edge.patience import Impatient, Patience, runs_within, uninterrupted


def test_an_interrupt_waits_until_the_context_ends() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_did_not_come_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize(
    ("seconds", "each", "runs"), [(4.0, 1.0, 4), (4.0, 0.9, 4), (4.0, 1.1, 2), (4.0, 9.0, 1), (1.0, 0.0, 2**19)]
)
def test_runs_in_a_time_are_a_power_of_two(seconds: float, each: float, runs: int) -> None:
    assert runs_within(seconds, each) == runs


class Options:
    """Of a run that looks at its flag."""

    terminate = False


def test_a_run_that_takes_too_long_is_told_to_end() -> None:
    options, patience = Options(), Patience(limited=True)
    patience.seconds = 0.05

    def endless(asked: Options) -> None:
        while not asked.terminate:
            threading.Event().wait(0.01)

    with pytest.raises(Impatient, match="may never end"):
        patience.wait(endless, options)
    assert options.terminate and patience.wait(lambda _: 5, Options()) == 5
