"""What is said of inputs that were not seen, in words for a person."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_coreset.report import ChainReport, Shift, Statement
from onnx_coreset.wording import clean, small

__all__ = ["beyond", "elsewhere", "unseen"]

_CHANGES = (("scaled", "scaled by"), ("shifted", "shifted by"), ("noise", "noise of"))


def unseen(chains: Sequence[ChainReport]) -> list[str]:
    """Return a line for each layer of which something is said, layers that were measured together in one."""
    found: dict[tuple[str, ...], str] = {}
    for chain in chains:
        names = (chain.name,) if chain.polish is None else chain.polish.together
        said = _claim(chain.error.statement, chain.error.spread or 1.0)
        if said:
            found[names] = f"{', '.join(map(clean, names))}: {said}; {clean(chain.error.statement.about or '')}"
    return list(found.values())


def beyond(found: Statement) -> list[str]:
    """Return what is said of a model's outputs, or why nothing is, in a line; none where there was nothing to say."""
    if found.reason is not None:
        return [f"of inputs that were not seen nothing is said: {clean(found.reason)}"]
    said = _claim(found, 1.0)
    return [f"largest error of an output over its spread: {said}; {clean(found.about or '')}"] if said else []


def _claim(found: Statement, unit: float) -> str:
    if found.probability is None or found.exceeds is None:
        return ""
    average = "on average over the inputs held back"
    sure = average if found.delta is None else f"confidence {100 * (1 - found.delta):.10g} %"
    return f"at most {100 * found.probability:.2g} % exceed {small(found.exceeds / unit)} ({sure})"


def elsewhere(shifts: Sequence[Shift] | None) -> list[str]:
    """Return how much larger errors are at other inputs, the worst of each kind, in a line; none where unknown."""
    worst = []
    for kind, words in _CHANGES:
        known = [(s.ratio, s.amount) for s in shifts or () if s.kind == kind and s.ratio is not None]
        if known:
            ratio, amount = max(known)
            worst.append(f"{words} {amount:g}{'' if kind == 'scaled' else ' spreads'}, {small(ratio)} times")
    return [f"the error at inputs that are changed: {'; '.join(worst)}"] if worst else []
