"""Each error knows its exit code, and says whose fault it is."""

from __future__ import annotations

import pickle

import pytest

from onnx_coreset import errors

CODES = {
    "UsageError": 2,
    "ModelError": 3,
    "MachineError": 4,
    "ValidationError": 1,
    "Rejected": 1,
}


@pytest.mark.parametrize("name", sorted(CODES))
def test_exit_code(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.CoresetError)
    assert kind.exit_code == CODES[name]
    assert str(kind("what to do")) == "what to do"


def test_every_error_is_in_the_table_above() -> None:
    assert {*CODES, "CoresetError"} == set(errors.__all__)


def test_validation_error_carries_its_report() -> None:
    report = object()
    assert errors.ValidationError("no", report).report is report  # type: ignore[arg-type]
    assert errors.ValidationError("no").report is None
    assert errors.Rejected("no").report is None


@pytest.mark.parametrize("name", sorted(CODES))
def test_errors_cross_process_borders(name: str) -> None:
    error = pickle.loads(pickle.dumps(getattr(errors, name)("line")))
    assert (type(error).__name__, str(error)) == (name, "line")
