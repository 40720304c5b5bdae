"""Whether a run has to know what inputs look like at all."""

from __future__ import annotations

from onnx_coreset.core.methods import METHODS
from onnx_coreset.options import Options

# They look at weights alone, and give every neuron that stays its own weights.
_BY_WEIGHTS = ("norm", "synflow")

# This one looks at incoming ones alone.
_BY_INCOMING = ("norm",)

NOTE = "nothing was sampled or measured: neither the method nor anything else that was asked for needs inputs"


def blind(options: Options) -> bool:
    """Return whether nothing that is asked depends on inputs: not the method, nor the widths, nor any error.

    Args:
        options: What was asked.
    """
    return (
        _among(options, _BY_WEIGHTS)
        and not (options.refit or options.validate)
        and options.target in ("ratio", "widths")
    )


def one_sided(options: Options) -> bool:
    """Return whether nothing that is asked depends on inputs, nor on outgoing weights.

    Args:
        options: What was asked.
    """
    return blind(options) and _among(options, _BY_INCOMING)


def _among(options: Options, names: tuple[str, ...]) -> bool:
    return any(options.method in (name, METHODS[name]) for name in names)
