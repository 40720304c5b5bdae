"""Words and figures of a report for a person, short and safe to print."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_coreset.report import ChainReport, Domain, EndToEnd, Report

__all__ = [
    "clean",
    "corrected",
    "count",
    "domain",
    "free",
    "norms",
    "offer",
    "refined",
    "size",
    "small",
    "target",
    "through",
    "whole",
]

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def clean(text: str) -> str:
    """Return text whose control characters are spelled out: a name in a model must not steer a terminal.

    Args:
        text: Anything, such as a tensor's name.

    Returns:
        The same where every character is printable.
    """
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def target(report: Report) -> str:
    """Return what was asked, as it held."""
    options = report.options
    named = "; --width decides for the layers it names" if options.get("width") else ""
    if options.get("ratio") is not None:
        return f"ratio {options['ratio']:g}: the share of neurons that every layer keeps; no eps holds{named}."
    if options.get("params") is not None:
        what = "the share of its parameters that the model keeps at most"
        return f"params {options['params']:g}: {what}; no eps holds{named}."
    if options.get("output_eps") is not None:
        what = "bounds the rms error at every output of the model, in units of the output's spread"
        return f"output-eps {options['output_eps']:g} {what}; no eps holds{named}."
    if options.get("widths") is not None:
        return f"widths of {clean(str(options['widths']))}; no eps holds{named}."
    if options.get("eps") is None:
        return f"no eps holds{named}."
    unit = "in the layer's own numbers" if options.get("absolute") else "in units of the layer's spread"
    return f"eps {options['eps']:g} bounds the local error of every layer: its {options.get('error')}, {unit}{named}."


def norms(chains: list[ChainReport]) -> str:
    """Return what the columns of errors are."""
    text = "norms of the difference over samples and outputs, in units of the layer's spread"
    return text + (" (a spread of 0 counts as 1)." if any(chain.error.spread == 0 for chain in chains) else ".")


def offer(chain: ChainReport) -> str:
    """Return what the next useful width of a layer kept whole because of eps would cost, "" where that is unknown."""
    narrower = [point for point in chain.curve or () if point[0] < (chain.width_before or 0)]
    if chain.code != "eps" or not narrower:
        return ""
    width, error = narrower[-1]
    return f"{clean(chain.name)}: {width:,} of {chain.width_before:,} would cost {small(error)} (rms / spread)"


def free(chain: ChainReport) -> str:
    """Return how many neurons of a layer cost nothing, "" where there are none or that is unknown."""
    if not chain.lossless:
        return ""
    return f"{chain.lossless:,} of {chain.width_before or 0:,} neurons of {clean(chain.name)}"


def corrected(chain: ChainReport) -> str:
    """Return by how much less a layer carries since it was refitted to what reaches it, "" where it was not."""
    if chain.correction is None:
        return ""
    share = chain.correction.carried_after / (chain.correction.carried_before or 1.0)
    return f"{clean(chain.name)}: carried rms {share:.2f} times what it was"


def refined(chains: Sequence[ChainReport]) -> list[str]:
    """Return a line for the layers that were polished together, with what their error was before."""
    found: dict[tuple[str, ...], str] = {}
    for chain in chains:
        if chain.polish is not None:
            names = ", ".join(clean(name) for name in chain.polish.together)
            before = f"rms {small(chain.polish.relative_rms_before)} before"
            alone = "" if len(chain.polish.together) == 1 else "; measured together, from the first one's inputs on"
            found[chain.polish.together] = f"{names}: {before}{alone}"
    return list(found.values())


def domain(found: Domain) -> str:
    """Return the inputs that something is proven for, and whether they are assumed."""
    if found.kind == "box":
        plain = isinstance(found.low, int | float) and isinstance(found.high, int | float)
        what = f"a box, each in [{small(found.low)}, {small(found.high)}]" if plain else "a box"
    elif found.kind == "ellipsoid":
        what = f"an ellipsoid of radius {small(found.radius)}"
    else:
        what = f"a ball of radius {small(found.radius)}"
    source = f", {clean(found.source)}" if found.source else ""
    return f"{what}{source} ({'proven' if found.proven else 'assumed'})"


def through(found: EndToEnd) -> list[str]:
    """Return what is proven of an output through all layers, or why nothing is, in a line; none where nobody asked."""
    if found.reason is not None:
        return [f"through all layers nothing is proven: {clean(found.reason)}"]
    if found.output is None:
        return []
    worst = f", found {small(found.attacked)}" if found.attacked is not None else ""
    bound = f"{clean(found.output)} at worst: proven {small(found.certified)}{worst}"
    return [f"{bound}, for all inputs in {domain(found.domain)}"]


def count(number: int, noun: str) -> str:
    """Return a number of things, such as 1 layer or 2 layers."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def whole(number: int | None) -> str:
    """Return a whole number with its thousands apart."""
    return "-" if number is None else f"{number:,}"


def small(number: float | None) -> str:
    """Return a number in at most seven signs: 0.0987, 1.2e-7."""
    if number is None:
        return "-"
    if number == 0 or 1e-3 <= abs(number) < 1e5:
        return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"
    digits, _, exponent = f"{number:.1e}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def size(number: int | None) -> str:
    """Return a number of bytes in the unit that suits it."""
    if number is None:
        return "-"
    for unit, name in _UNITS:
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} B"
