"""The domain of a layer's inputs: the set for which bounds on its error are proven, and where that set comes from.

In this order: the ellipsoid that a normalisation in front gives; the box of a bounded operator in front, a Sigmoid or
Clip; where the model's input is read, the box of `--input-range`; what the layer in front makes of its own domain; else
a ball that holds all samples. The first two are proven by the model, the others hold as
far as the assumption about the inputs does.

What a layer of neurons makes of a domain {x(y): ||y|| <= 1 or |y_l| <= 1}, t = Q y + t0, h = f(t): the box of the
ranges of f on [t0 - |Q|, t0 + |Q|], or the ball around f(t0) of radius L ||Q|| r, with ||Q|| the spectral norm, L the
Lipschitz constant of f and r = 1 for a ball, the root of d for a box; whichever has the shorter half diagonal or
radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.deployed import SINGLE
from onnx_coreset.core.certificates.domains import frame, magnitudes
from onnx_coreset.core.certificates.eigen import level
from onnx_coreset.core.certificates.pieces import lipschitz
from onnx_coreset.core.certificates.rounding import gamma
from onnx_coreset.core.domains import BallDomain, BoxDomain, Domain, EllipsoidDomain
from onnx_coreset.core.layer import HiddenLayer, Neurons
from onnx_coreset.graph.ranges import bounded, origin
from onnx_coreset.graph.space import Space
from onnx_coreset.options import Options
from onnx_coreset.stages.front import law_in_front
from onnx_coreset.stages.opening import Opened

_MOST = 2048
_SLACK = 1e-6
_NEAR = 0.1
_MADE = "of the layer in front"


@dataclass(frozen=True)
class Stated:
    """A domain and where it comes from.

    Attributes:
        domain: The set.
        source: Where it comes from, in words.
        axis: For what a layer makes: the axis of the tensor that it runs along, counted from the end.
    """

    domain: Domain
    source: str
    axis: int = -1

    @property
    def made(self) -> bool:
        """Whether it is what the layer in front makes of its own domain."""
        return self.source == _MADE

    @property
    def sure(self) -> bool:
        """Whether an operator right in front of the layer bounds whatever it reads, in a shrunk model too."""
        return self.domain.proven and not self.made


def stated(
    space: Space, known: dict[str, Stated], samples: Sequence[Array], opened: Opened, options: Options
) -> Stated:
    """Return the domain of the inputs of a layer.

    Args:
        space: The layer's place.
        known: Domains of what layers in front make, by tensor.
        samples: Samples of its inputs, (N, d) each.
        opened: The model.
        options: What was asked.
    """
    behind = law_in_front(opened.document, space)
    if behind is not None and behind.domain is not None:
        return Stated(behind.domain, behind.name)
    size = space.producer.dense.inputs
    source = origin(opened.document, space)
    ends = bounded(opened.document, source)
    if ends is not None:
        return Stated(_cube(ends[1], ends[2], size, True), f"{ends[0]} in front")
    if options.input_range is not None and source.tensor.name in {t.name for t in opened.document.graph.inputs}:
        low, high = sorted(source.scale * end + source.shift for end in options.input_range)
        return Stated(_cube(low, high, size, False), "--input-range")
    before = known.get(space.producer.input.name)
    if before is not None and before.axis == space.input_axis:
        return replace(before, axis=-1)
    return Stated(around(samples), "holds all samples")


def _cube(low: float, high: float, size: int, proven: bool) -> BoxDomain:
    # Scale and shift were applied in single precision by the model.
    slack = _SLACK * max(abs(low), abs(high)) if low < high else 0.0
    return BoxDomain(np.full(size, low - slack), np.full(size, high + slack), proven)


def around(samples: Sequence[Array]) -> BallDomain:
    """Return a ball that holds all samples, (N, d) each: around the mean of the first ones, or 0 where that is near."""
    centre = samples[0].mean(axis=0)
    if np.linalg.norm(centre) <= _NEAR * np.sqrt(np.mean(np.einsum("nd,nd->n", samples[0], samples[0]))):
        centre = np.zeros(centre.shape)
    radius = max(float(np.sqrt(np.max(np.einsum("nd,nd->n", x - centre, x - centre), initial=0.0))) for x in samples)
    return BallDomain(centre, radius * (1.0 + 1e-9))


def given_radius(space: Space, opened: Opened, options: Options) -> float | None:
    """Return the radius that `--radius` gives for the inputs of a layer: an exact name before a glob, a plain one last.

    Args:
        space: The layer's place; a plain radius is for those that read an input of the model.
        opened: The model.
        options: What was asked.
    """
    named = [radius for name, radius in options.radius if name == space.name]
    named = named or [radius for name, radius in options.radius if name and fnmatchcase(space.name, name)]
    if named:
        return named[-1]
    reads = origin(opened.document, space).tensor.name in {tensor.name for tensor in opened.document.graph.inputs}
    return dict(options.radius).get("") if reads else None


def remember(space: Space, layer: HiddenLayer, before: Stated, known: dict[str, Stated]) -> None:
    """Note the domain of what a layer makes of its own one, under the name of the tensor that is read next.

    Args:
        space: The layer's place.
        layer: What it reads as.
        before: The domain of its inputs.
        known: What is added to.
    """
    axes = {id(tensor): axis for tensor, axis in space.region.tensors}
    for readout, (consumer, _), layout in zip(layer.readouts, space.consumers, space.layouts, strict=True):
        neurons, hidden = readout.features, consumer.hidden
        entries = layout.where(space.width)
        if not isinstance(neurons, Neurons) or hidden.name in known or id(hidden) not in axes:
            continue
        if layout.size == space.width and np.array_equal(np.sort(entries), np.arange(space.width)):
            made = propagated(neurons, before.domain)
            if made is not None:
                order = np.argsort(entries)
                known[hidden.name] = Stated(_ordered(made, order), _MADE, axes[id(hidden)])


def _ordered(domain: BallDomain | BoxDomain, order: Indices) -> BallDomain | BoxDomain:
    if isinstance(domain, BallDomain):
        return replace(domain, centre=domain.centre[order])
    return replace(domain, low=domain.low[order], high=domain.high[order])


def propagated(neurons: Neurons, domain: Domain) -> BallDomain | BoxDomain | None:
    """Return a domain of the features of neurons whose inputs lie in a domain; None where they are not bounded.

    Args:
        neurons: n neurons with d inputs.
        domain: Where their inputs lie.

    Returns:
        A box or a ball of n numbers, as proven as the domain is. O(n d min(n, d)).
    """
    found = frame(domain, neurons.incoming, neurons.bias)
    steep = float(np.max(lipschitz(neurons.activation, neurons.width), initial=0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        near = (found.reach + found.noise) * (1.0 + _SLACK)
        low, high = neurons.activation.interval(found.offset - near, found.offset + near)
        middle, _ = neurons.activation.interval(found.offset, found.offset)
        # What single precision may make of them, too.
        off = gamma(neurons.inputs + 1, SINGLE) * (magnitudes(domain, neurons.incoming) + np.abs(neurons.bias))
        slack = _SLACK * np.maximum(np.abs(low), np.abs(high)) + np.where(off > 0, steep, 0.0) * off
        low, high = low - slack, high + slack
        half = 0.5 * float(np.linalg.norm(high - low))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    size = min(found.rows.shape)
    if size <= _MOST and np.isfinite(steep):
        rows = found.rows if found.rows.shape[0] == size else found.rows.T
        reach = steep * level(np.zeros((size, size)), rows) * (1.0 if found.ball else np.sqrt(found.rows.shape[1]))
        radius = (reach + steep * float(np.linalg.norm(found.noise))) * (1.0 + _SLACK) + float(np.linalg.norm(slack))
        if radius < half:
            return BallDomain(middle, radius, domain.proven)
    return BoxDomain(low, high, domain.proven)


def reach(domain: Domain) -> float:
    """Return the radius of a ball around the origin that holds a domain."""
    if isinstance(domain, BoxDomain):
        return float(np.linalg.norm(np.maximum(np.abs(domain.low), np.abs(domain.high))))
    if isinstance(domain, EllipsoidDomain):
        return domain.reach + float(np.linalg.norm(domain.shift))
    return domain.radius + float(np.linalg.norm(domain.centre))
