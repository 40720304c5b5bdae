"""Whether a run has to know what inputs look like at all."""

from __future__ import annotations

from onnx_coreset.core.methods import METHODS
from onnx_coreset.options import Options

# They look at weights alone, and give every neuron that stays its own weights.
_BY_WEIGHTS = ("norm", "synflow")

NOTE = "nothing was sampled or measured: neither the method nor anything else that was asked for needs inputs"


def blind(options: Options) -> bool:
    """Return whether nothing that is asked depends on inputs: not the method, nor the widths, nor any error.

    Args:
        options: What was asked.
    """
    alone = any(options.method in (name, METHODS[name]) for name in _BY_WEIGHTS)
    return alone and not (options.refit or options.validate) and options.target in ("ratio", "widths")
