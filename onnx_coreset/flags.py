"""The table of options: a row for each flag of the command line, from which documentation and tests derive."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from onnx_coreset import checks
from onnx_coreset.errors import UsageError
from onnx_coreset.settings import Settings

__all__ = ["DEFAULT_EPS", "ERROR_NORMS", "METHOD_NAMES", "OPTIONS", "Option", "markdown_table"]

DEFAULT_EPS = 0.1
METHOD_NAMES = ("greedy", "backward", "sensitivity", "mvee", "synflow", "uniform", "norm")
ERROR_NORMS = ("rms", "p99", "max", "certified")
EFFORTS = ("off", "fast", "tight")
INPUT_KINDS = ("auto", "ball", "synthetic")
PROVIDERS = ("auto", "cuda", "cpu")


@dataclass(frozen=True)
class Option:
    """One row of the table: a flag of the command line and, unless `command_only`, a field of `Options`.

    Attributes:
        flags: How it is spelled on the command line, the short form first.
        field: Its name in `Options` and in the report.
        group: Under which heading it is listed.
        help: One sentence for the user.
        check: Takes a Python value, returns it in its final form or raises ``ValueError("must ...")``.
        parse: Reads one argument of the command line; None for a switch, which takes none.
        metavar: What stands for the argument in the help.
        repeatable: The flag may be given several times; the field is a tuple.
        const: What a switch sets its field to.
        command_only: Means something on the command line alone.
    """

    flags: tuple[str, ...]
    field: str
    group: str
    help: str
    check: checks.Check = checks.switch
    parse: checks.Reader | None = None
    metavar: str | None = None
    repeatable: bool = False
    const: bool = True
    command_only: bool = False

    @property
    def default(self) -> object:
        """What `Settings` holds where the option is not given; False for what is of the command line alone."""
        return {item.name: item.default for item in fields(Settings)}.get(self.field, False)

    @property
    def either(self) -> bool:
        """Whether its second flag sets the field to the opposite of what the first one sets it to."""
        return len(self.flags) == 2 and self.flags[1] == self.flags[0].replace("--", "--no-")

    @property
    def meaning(self) -> str:
        """What the option does and, where that says something, what holds without it."""
        default = "" if isinstance(self.default, bool | tuple) or self.default is None else f" (default {self.default})"
        return f"{self.help}{' (repeatable)' if self.repeatable else ''}{default}"

    def read(self, text: str) -> object:
        """Read one argument of the command line.

        Args:
            text: The argument as it was typed.

        Returns:
            A value for `checked`; for a repeatable option, one item of it.

        Raises:
            UsageError: The text cannot be read.
        """
        try:
            return self.parse(text) if self.parse else text
        except ValueError as error:
            raise UsageError(f"{self.flags[-1]} {error}, not {text!r}") from None

    def checked(self, value: Any) -> Any:
        """Return a value in the form that `Options` holds.

        Args:
            value: What the caller gave.

        Returns:
            The value in its final form; None where that is the default.

        Raises:
            UsageError: The value is of the wrong kind or out of its range.
        """
        try:
            return None if value is None and self.default is None else self.check(value)
        except ValueError as error:
            raise UsageError(f"{self.flags[-1]} {error}, not {value!r}") from None


_MUCH, _HOW, _INPUTS, _CHECKING, _OUTPUT = "how much", "how", "inputs", "checking", "output"

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option(("--eps",), "eps", _MUCH, f"largest error of a layer over its spread (default {DEFAULT_EPS})",
           checks.positive, checks.number, "E"),
    Option(("--ratio",), "ratio", _MUCH, "instead of --eps: the share of neurons that every layer keeps",
           checks.share, checks.number, "R"),
    Option(("--params",), "params", _MUCH,
           "instead of --eps: the share of its parameters that the model keeps, spent where it costs least",
           checks.share, checks.number, "R"),
    Option(("--output-eps",), "output_eps", _MUCH,
           "instead of --eps: largest rms error at an output of the model over that output's spread",
           checks.positive, checks.number, "E"),
    Option(("--width",), "width", _MUCH, "the layer NAME (or glob) keeps K neurons, whatever else is asked",
           checks.pairs(checks.at_least(1)), checks.named("=", "NAME=K", checks.whole), "NAME=K", True),
    Option(("--widths",), "widths", _MUCH,
           "instead of --eps: every layer gets the width it has in an earlier report, which may have been edited",
           checks.file(".json"), str, "REPORT.json"),
    Option(("--round-to",), "round_to", _MUCH, "round widths up to a multiple of N",
           checks.at_least(1), checks.whole, "N"),
    Option(("--min-width",), "min_width", _MUCH, "no layer gets narrower than N",
           checks.at_least(1), checks.whole, "N"),
    Option(("--include",), "include", _MUCH, "cut only layers whose name matches", checks.globs, str, "GLOB", True),
    Option(("--exclude",), "exclude", _MUCH, "cut no layer whose name matches", checks.globs, str, "GLOB", True),
    Option(("--error",), "error", _MUCH, "what eps bounds: a norm of the error on samples, or the error that is proven",
           checks.one_of(*ERROR_NORMS), str, "{rms,p99,max,certified}"),
    Option(("--absolute",), "absolute", _MUCH, "eps is in a layer's own numbers, not in units of its spread"),
    Option(("--method",), "method", _HOW, "how neurons are chosen: " + ", ".join(METHOD_NAMES),
           checks.method, str, "NAME"),
    Option(("--no-refit",), "refit", _HOW, "keep the outgoing weights that the method itself gives", const=False),
    Option(("--polish", "--no-polish"), "polish", _HOW,
           "refine all weights of the kept neurons, incoming ones too (default: briefly, on inputs that are real)"),
    Option(("--seed",), "seed", _HOW, "seed of every random draw", checks.at_least(0), checks.whole, "N"),
    Option(("--inputs",), "inputs", _INPUTS, "what the model's inputs look like: a law, or arrays by input name",
           checks.file(".npz", *INPUT_KINDS), str, "{auto,ball,synthetic}|FILE.npz"),
    Option(("--radius",), "radius", _INPUTS,
           "inputs of the model, or of the layer NAME (or glob), lie in a ball of radius B; implies --inputs ball",
           checks.radii, checks.radius, "B|NAME=B", True),
    Option(("--input-range",), "input_range", _INPUTS,
           "every number of the model's inputs lies between LO and HI; bounds are proven for those",
           checks.ends, checks.two(":", "LO:HI"), "LO:HI"),
    Option(("--input-shape",), "input_shape", _INPUTS, "shape of a model input whose sizes are not fixed",
           checks.pairs(checks.sizes), checks.named(":", "NAME:1,3,224,224", checks.whole_list),
           "NAME:1,3,224,224", True),
    Option(("--constant-inputs",), "constant_inputs", _INPUTS, "take weights that are also model inputs for constants"),
    Option(("--samples",), "samples", _CHECKING, "samples a layer is fitted to (default 16384, or 4 a neuron)",
           checks.at_least(16), checks.whole, "N"),
    Option(("--delta",), "delta", _CHECKING, "statistical statements hold with probability 1 - P",
           checks.chance, checks.number, "P"),
    Option(("--certify",), "certify", _CHECKING,
           "how much is spent on proving the error at worst; tight: up to a minute a layer, two in all",
           checks.one_of(*EFFORTS), str, "{off,fast,tight}"),
    Option(("--provider",), "provider", _CHECKING, "where models are run; auto is CUDA where there is one",
           checks.one_of(*PROVIDERS), str, "{auto,cuda,cpu}"),
    Option(("--memory-limit",), "memory_limit", _CHECKING,
           "run whole models only where that takes at most SIZE of memory, such as 8GiB (default: half of all)",
           checks.at_least(1), checks.size, "SIZE"),
    Option(("--jobs",), "jobs", _CHECKING, "processes that work on layers side by side; the result is the same",
           checks.at_least(1), checks.whole, "N"),
    Option(("--no-validate",), "validate", _CHECKING, "do not compare the result with the original", const=False),
    Option(("--report",), "report", _OUTPUT, "write the report as JSON", checks.file(".json"), str, "FILE.json"),
    Option(("--overwrite",), "overwrite", _OUTPUT, "replace OUT where it exists"),
    Option(("--external-data",), "external_data", _OUTPUT,
           "write weights to a file of their own beside OUT, as is done anyway from 2 GB on"),
    Option(("--inline-functions",), "inline_functions", _OUTPUT,
           "replace calls of model-local functions by what they do, so that their layers can be cut"),
    Option(("--inspect",), "inspect", _OUTPUT, "only list what could be cut, and why the rest could not",
           command_only=True),
    Option(("--dry-run",), "dry_run", _OUTPUT, "do everything but write OUT"),
    Option(("-v", "--verbose"), "verbose", _OUTPUT, "say more", command_only=True),
    Option(("-q", "--quiet"), "quiet", _OUTPUT, "say nothing but errors", command_only=True),
    Option(("--version",), "version", _OUTPUT, "print the version", command_only=True),
)
# fmt: on


def markdown_table() -> str:
    """Return the options as a Markdown table, for the README.

    Returns:
        One line a row, the heading and a final newline included.
    """
    bar = "\\|"  # a bare bar would end the cell
    lines = ["| option | meaning |", "|---|---|"]
    for option in OPTIONS:
        flag = ", ".join(option.flags) + (f" {option.metavar}" if option.metavar else "")
        lines.append(f"| `{flag.replace('|', bar)}` | {option.meaning} |")
    return "\n".join(lines) + "\n"
