"""What is asked of a run: every setting is checked at birth, alone by its row in the table of flags and then together
with the others, so code that holds an ``Options`` checks nothing again.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import Any, Literal

from onnx_coreset.errors import UsageError
from onnx_coreset.flags import DEFAULT_EPS, OPTIONS
from onnx_coreset.settings import Settings

__all__ = ["TARGETS", "Options", "Target"]

Target = Literal["eps", "ratio", "params", "output_eps", "widths"]
TARGETS: tuple[Target, ...] = ("eps", "ratio", "params", "output_eps", "widths")


@dataclass(frozen=True)
class Options(Settings):
    """What is asked of a run, checked.

    Raises:
        UsageError: A value is out of its range, or two of them contradict each other.
    """

    def __post_init__(self) -> None:
        """Check every field by its row of the table, then all of them together."""
        for option in OPTIONS:
            if not option.command_only:
                object.__setattr__(self, option.field, option.checked(getattr(self, option.field)))
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) > 1:
            first, second = (f"--{name.replace('_', '-')}" for name in given[:2])
            raise UsageError(f"{first} and {second} are two targets: give one of them")
        if not given:
            object.__setattr__(self, "eps", DEFAULT_EPS)
        if self.radius and self.inputs == "auto":
            object.__setattr__(self, "inputs", "ball")
        if self.radius and self.inputs != "ball":
            raise UsageError(f"--radius is of the ball, but --inputs is {self.inputs}: leave one of them out")
        if self.input_range is not None and self.inputs == "ball":
            raise UsageError("--input-range is a box, and --radius or --inputs ball is none: leave one of them out")
        if self.proven and self.polish:
            raise UsageError("--polish changes what --error certified has proven: leave one of them out")
        if self.proven and self.certify == "off":
            raise UsageError("--error certified needs what --certify off leaves out: leave one of them out")
        if self.polish and not (self.refit and self.validate):
            raise UsageError("--polish needs refit and validation: leave --no-refit and --no-validate out")

    @classmethod
    def make(cls, **given: Any) -> Options:
        """Build options from the keywords of a caller.

        Args:
            **given: Fields by name; those that are missing keep their defaults.

        Returns:
            The options.

        Raises:
            UsageError: There is no option of that name, or the values are refused as by the constructor.
        """
        names = [item.name for item in fields(cls)]
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
                raise UsageError(f"there is no option {name}: {hint}")
        return cls(**given)

    @property
    def target(self) -> Target:
        """What decides the width of a chain that `width` does not name."""
        return next(name for name in TARGETS if getattr(self, name) is not None)

    @property
    def proven(self) -> bool:
        """Whether widths are chosen by what is proven of the error."""
        return self.error == "certified" and self.eps is not None

    @property
    def norm(self) -> Literal["rms", "p99", "max"]:
        """The norm of errors on samples; the largest one where what is proven is bounded."""
        return "max" if self.error == "certified" else self.error  # type: ignore[return-value]

    def as_dict(self) -> dict[str, object]:
        """Return every field as JSON can hold it, with what held and not merely what was typed."""
        values: dict[str, object] = {item.name: getattr(self, item.name) for item in fields(self)}
        values["width"] = dict(self.width)
        values["input_shape"] = {name: list(sizes) for name, sizes in self.input_shape}
        values["radius"] = dict(self.radius)
        values["include"], values["exclude"] = list(self.include), list(self.exclude)
        if not isinstance(self.method, str):
            values["method"] = str(getattr(self.method, "name", None) or repr(self.method))
        return values
