"""onnx-coreset: makes the hidden layers of an exported ONNX model narrower, and says what that cost.

Nothing is computed and nothing heavy is imported here: public names are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_coreset.api import inspect, optimize, sweep
    from onnx_coreset.errors import CoresetError, MachineError, ModelError, Rejected, UsageError, ValidationError
    from onnx_coreset.options import Options
    from onnx_coreset.report import (
        ChainReport,
        Domain,
        ErrorFacts,
        FileFacts,
        OutputError,
        Relative,
        Report,
        Result,
        Validation,
    )

__version__ = "0.1.0"

__all__ = [
    "ChainReport",
    "CoresetError",
    "Domain",
    "ErrorFacts",
    "FileFacts",
    "MachineError",
    "ModelError",
    "Options",
    "OutputError",
    "Rejected",
    "Relative",
    "Report",
    "Result",
    "UsageError",
    "Validation",
    "ValidationError",
    "__version__",
    "inspect",
    "optimize",
    "sweep",
]

_HOMES = (
    ("api", ("inspect", "optimize", "sweep")),
    ("errors", ("CoresetError", "MachineError", "ModelError", "Rejected", "UsageError", "ValidationError")),
    ("options", ("Options",)),
    (
        "report",
        (
            "ChainReport",
            "Domain",
            "ErrorFacts",
            "FileFacts",
            "OutputError",
            "Relative",
            "Report",
            "Result",
            "Validation",
        ),
    ),
)


def __getattr__(name: str) -> object:
    """Find a public name in the module that defines it, importing that module now."""
    for module, names in _HOMES:
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
