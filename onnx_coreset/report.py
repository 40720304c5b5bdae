"""What happened in a run: the report, as data, as JSON and as text, and what `optimize` returns.

The classes are the schema of the JSON report, in the order of its keys; those inside it stand in `facts`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from onnx_coreset.facts import (
    ChainReport,
    CorrectionFacts,
    Domain,
    EndToEnd,
    ErrorFacts,
    FileFacts,
    OutputError,
    PolishFacts,
    Relative,
    Status,
    Validation,
)
from onnx_coreset.statements import Level, Share, Shift, Statement

if TYPE_CHECKING:
    import onnx

__all__ = [
    "ChainReport",
    "CorrectionFacts",
    "Domain",
    "EndToEnd",
    "ErrorFacts",
    "FileFacts",
    "Level",
    "OutputError",
    "PolishFacts",
    "Relative",
    "Report",
    "Result",
    "Share",
    "Shift",
    "Statement",
    "Status",
    "Validation",
]


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        version: Version of the package that wrote it.
        input: The model that was read.
        output: The model that was written, or would have been.
        options: `Options.as_dict()` of the run.
        chains: Every chain, and every place that looks like one, in topological order.
        validation: The result compared with the original.
        seconds: Wall time by stage.
    """

    version: str = field(metadata={"key": "onnx_coreset"})
    input: FileFacts = field(default_factory=FileFacts)
    output: FileFacts = field(default_factory=FileFacts)
    options: Mapping[str, object] = field(default_factory=dict)
    chains: tuple[ChainReport, ...] = ()
    validation: Validation = field(default_factory=Validation)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the report as JSON text; numbers that are not finite become null."""
        return json.dumps(_plain(self), indent=1, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Return the report for a person, without colour."""
        from onnx_coreset.render import report_text

        return report_text(self)


@dataclass(frozen=True)
class Result:
    """What `optimize` returns.

    Attributes:
        model: The narrower model; a copy of the original where nothing could be cut.
        report: What was done to it.
    """

    model: onnx.ModelProto
    report: Report


def _plain(value: Any) -> Any:
    """Return a value in types that JSON has: numpy scalars and arrays are known by their `tolist`."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.metadata.get("key", item.name): _plain(getattr(value, item.name)) for item in fields(value)}
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a report cannot hold {type(value).__name__}: {value!r}")
