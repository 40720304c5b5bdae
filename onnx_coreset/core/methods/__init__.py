"""Methods: ways to choose which neurons stay, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onnx_coreset.core.methods.backward import Backward
from onnx_coreset.core.methods.base import Context, Method, Ordered
from onnx_coreset.core.methods.greedy import Greedy
from onnx_coreset.core.methods.mvee import Mvee
from onnx_coreset.core.methods.norm import Norm
from onnx_coreset.core.methods.sensitivity import Sensitivity
from onnx_coreset.core.methods.synflow import Synflow
from onnx_coreset.core.methods.uniform import Uniform

__all__ = [
    "METHODS",
    "Backward",
    "Context",
    "Greedy",
    "Method",
    "Mvee",
    "Norm",
    "Ordered",
    "Sensitivity",
    "Synflow",
    "Uniform",
]

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for method in (Backward(), Greedy(), Sensitivity(), Mvee(), Synflow(), Uniform(), Norm())}
)
"""Every method, by name."""
