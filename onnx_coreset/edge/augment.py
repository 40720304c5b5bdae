"""A few inputs made many: mixtures of pairs, moved along differences, with noise, at other scales.

From samples x_1 .. x_n, a new one is

    x = s (a x_i + (1 - a) x_j + .35 u (x_k - x_l) + t r g),     ln s ~ N(0, .25^2),  a, u ~ U(0, 1),  g ~ N(0, I),

with i, j, k, l drawn at random, t one of .06, .15 and .45 and r the root mean square of all samples. A fit to a few
hundred samples alone learns them by heart; a fit to these learns what surrounds them.

Source: mixup (Zhang et al. 2018), here without labels, with differences and noise besides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.edge.inputs import Feed, Given

_NOISES = (0.06, 0.15, 0.45)
_DIFFERENCE = 0.35
_SPREAD = 0.25
_BATCH = 256


@dataclass(frozen=True)
class Augmented:
    """A user's inputs as they are, and after them new ones without end.

    Attributes:
        given: The user's inputs, in runs.
        samples: The same by input name, shape (n, ...): what is mixed along axis 0.
        batch: New samples a run; None where a run is one entry of `samples`.
        name: Name of the law, for a report.
    """

    given: Given
    samples: dict[str, NDArray[np.generic]]
    batch: int | None
    name: str = "inputs, augmented"

    @property
    def runs(self) -> None:
        """None: there is no end."""
        return None

    def feed(self, run: int, rng: np.random.Generator) -> Feed:
        """Return run number `run`: one of the user's own while there are any."""
        if run < self.given.runs:
            return self.given.feed(run, rng)
        count = self.batch or 1
        total = len(next(iter(self.samples.values())))
        picked = rng.integers(total, size=(4, count))
        share, along = rng.random((2, count))
        scale, noise = np.exp(_SPREAD * rng.standard_normal(count)), rng.choice(_NOISES, size=count)
        feed: Feed = {}
        for name, values in self.samples.items():
            one, two, three, four = (values[index].astype(np.float64) for index in picked)
            a, u, s, t = (v.reshape(-1, *[1] * (values.ndim - 1)) for v in (share, along, scale, noise))
            size = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
            mixed = a * one + (1 - a) * two + _DIFFERENCE * u * (three - four)
            mixed = s * (mixed + t * size * rng.standard_normal(mixed.shape))
            feed[name] = (mixed if self.batch else mixed[0]).astype(values.dtype)
        return feed


def augmented(given: Given, fixed: bool) -> Augmented | None:
    """Return a user's inputs with new ones after them, or None where they cannot be mixed: integers, or too few.

    Args:
        given: The inputs, in runs.
        fixed: Whether a run's first axis has a size of its own, so that runs are samples and not their entries.
    """
    feeds = given.feeds
    if not all(value.dtype.kind == "f" and value.ndim for feed in feeds for value in feed.values()) or not feeds[0]:
        return None
    join = np.stack if fixed else np.concatenate
    samples = {name: join([feed[name] for feed in feeds]) for name in feeds[0]}
    sizes = {len(values) for values in samples.values()}
    if len(sizes) != 1 or sizes.pop() < 2:
        return None
    return Augmented(given, samples, None if fixed else _BATCH)
