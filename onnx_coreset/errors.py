"""Exceptions named by whose fault it is; each knows its exit code.

A message is one or two lines that say what is wrong and what to do about it. The command line prints it as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from onnx_coreset.report import Report

__all__ = ["CoresetError", "MachineError", "ModelError", "Rejected", "UsageError", "ValidationError"]


class CoresetError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        exit_code: What the command line exits with when this error ends a run.
    """

    exit_code: ClassVar[int] = 4


class UsageError(CoresetError):
    """The caller asked for what cannot be done: a bad option, a name that matches nothing, OUT in the way."""

    exit_code: ClassVar[int] = 2


class ModelError(CoresetError):
    """The model is at fault: unreadable, damaged, or accepted neither by the checker nor by ONNX Runtime."""

    exit_code: ClassVar[int] = 3


class MachineError(CoresetError):
    """The machine is at fault: disk, memory, or the execution provider asked for."""

    exit_code: ClassVar[int] = 4


class ValidationError(CoresetError):
    """Our own result is at fault: it failed its validation, and nothing was written but the report.

    Attributes:
        report: What was tried and measured, or None where no report could be made.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, report: Report | None = None) -> None:
        """Keep the report beside the message.

        Args:
            message: One or two lines for the user.
            report: What was tried and measured.
        """
        super().__init__(message)
        self.report = report


class Rejected(CoresetError):
    """Nobody is at fault: the pipeline's own ``accept`` test said no to the result, so nothing was written.

    Attributes:
        report: What was tried and measured, or None where no report could be made.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, report: Report | None = None) -> None:
        """Keep the report beside the message.

        Args:
            message: One or two lines for the user.
            report: What was tried and measured.
        """
        super().__init__(message)
        self.report = report
