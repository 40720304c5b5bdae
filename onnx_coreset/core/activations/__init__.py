"""Activations: programs of elementwise steps, and the records that name the well-known ones."""

from onnx_coreset.core.activations.evaluate import run
from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.core.activations.program import Activation, Program, Step
from onnx_coreset.core.activations.record import Composite, Named
from onnx_coreset.core.activations.records import ACTIVATIONS, recognise

__all__ = ["ACTIVATIONS", "ELEMENTWISE", "Activation", "Composite", "Named", "Program", "Step", "recognise", "run"]
