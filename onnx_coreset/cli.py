"""The command line: arguments to options, one call of the library, text and an exit code. Nothing else prints.

The report goes to stdout; progress, the log and errors go to stderr. Whatever is slow to import waits until the
arguments are known to be right.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from onnx_coreset import __version__
from onnx_coreset.edge.machine import bound_memory
from onnx_coreset.errors import CoresetError, MachineError, ModelError, Rejected, UsageError, ValidationError
from onnx_coreset.flags import OPTIONS
from onnx_coreset.keeper import kept
from onnx_coreset.options import Options
from onnx_coreset.progress import shown

if TYPE_CHECKING:
    from onnx_coreset.report import Report

__all__ = ["Command", "main", "parse"]

INTERRUPTED = 130
_LONGEST_LINE = 600

_PROG = "onnx-coreset"
_ABOUT = "Makes the hidden layers of an ONNX model narrower, without training, and says what that cost."
_EXAMPLE = """example:
  onnx-coreset model.onnx smaller.onnx --eps 0.1 --report report.json

exit codes: 0 written, 1 failed validation, 2 usage, 3 the model, 4 the machine, 130 interrupted"""


@dataclass(frozen=True)
class Command:
    """What a command line asks for.

    Attributes:
        model: IN.
        out: OUT, or None.
        options: What the library is asked for.
        inspect: Only list what could be cut.
        verbose: Say more.
        quiet: Say nothing but errors.

    Raises:
        UsageError: These contradict each other.
    """

    model: str
    out: str | None
    options: Options
    inspect: bool = False
    verbose: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Check the parts together."""
        if self.verbose and self.quiet:
            raise UsageError("--verbose and --quiet contradict each other: leave one of them out")
        if self.inspect and self.out is not None:
            raise UsageError("--inspect writes no model: leave OUT out")
        if self.out is None and not (self.inspect or self.options.dry_run):
            raise UsageError("OUT is missing: say where the smaller model is written, or use --inspect or --dry-run")
        report = self.options.report
        for place in (self.model, self.out):
            if report is not None and place is not None and os.path.realpath(report) == os.path.realpath(place):
                raise UsageError(f"--report {report} would replace a model: give it another name")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (try {_PROG} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog=_PROG,
        usage=f"{_PROG} IN OUT [options]",
        description=_ABOUT,
        epilog=_EXAMPLE,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "paths", nargs="*", metavar="IN OUT", help="the model that is read, and where the smaller one goes"
    )
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(row.group for row in OPTIONS)}
    for row in OPTIONS:
        about: dict[str, Any] = {"dest": row.field, "help": row.meaning.replace("%", "%%")}
        if row.field == "version":
            about |= {"action": "version", "version": f"{_PROG} {__version__}"}
        elif row.either:
            about |= {"action": argparse.BooleanOptionalAction}
        elif row.parse is None:
            about |= {"action": "store_const", "const": row.const}
        else:
            about |= {"type": row.read, "metavar": row.metavar, "action": "append" if row.repeatable else "store"}
        groups[row.group].add_argument(*row.flags[: 1 if row.either else None], **about)
    groups[OPTIONS[-1].group].add_argument("-h", "--help", action="help", help="show this help")
    return parser


def parse(argv: Sequence[str]) -> Command:
    """Read a command line.

    Args:
        argv: The arguments after the program's name.

    Returns:
        What they ask for, checked.

    Raises:
        UsageError: They cannot be read, or contradict each other.
        SystemExit: They asked for the help or the version, which has been printed.
    """
    given, unknown = _parser().parse_known_intermixed_args(_joined(argv))
    if unknown:
        raise UsageError(_unknown(unknown[0]))
    values = vars(given)
    paths = values.pop("paths", [])
    if not paths:
        raise UsageError(f"IN is missing: {_PROG} IN OUT [options] (try {_PROG} --help)")
    if len(paths) > 2:
        raise UsageError(f"one IN and one OUT, but there is a third: {paths[2]!r}")
    own = {row.field: values.pop(row.field) for row in OPTIONS if row.command_only and row.field in values}
    return Command(paths[0], paths[1] if len(paths) > 1 else None, Options.make(**values), **own)


def _joined(argv: Sequence[str]) -> list[str]:
    """Return the arguments, with values such as -1:1, which look like flags, joined to theirs by =."""
    takes = {flag for row in OPTIONS if row.parse is not None for flag in row.flags}
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in takes and re.match(r"-\.?\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _unknown(argument: str) -> str:
    name = argument.partition("=")[0]
    near = difflib.get_close_matches(name, [flag for row in OPTIONS for flag in row.flags], n=1, cutoff=0.75)
    return f"there is no option {name}" + (f": did you mean {near[0]}?" if near else f" (try {_PROG} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the program's name; None for those of the process.

    Returns:
        The exit code: 0, or whose fault it was.
    """
    if argv is not None:
        return _guarded(list(argv))
    # The program itself: what ends its process without a word must not be the last word.
    arguments = sys.argv[1:]
    bound_memory()
    return kept(lambda: _guarded(arguments), _crashed, lambda: _folders(arguments))


def _guarded(arguments: list[str]) -> int:
    """Run; whatever goes wrong is a line and an exit code."""
    try:
        code = _run(arguments)
    except CoresetError as error:
        code = _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _fail("interrupted; nothing was written", INTERRUPTED)
    except MemoryError:
        code = _fail("the memory of this machine is not enough", MachineError.exit_code)
    except OSError as error:
        place = f": {error.filename}" if error.filename is not None else ""
        code = _fail(f"{error.strerror or error}{place}", MachineError.exit_code)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        name = type(error).__name__
        line = f"{name}: {error} ({os.path.basename(where.filename)}:{where.lineno})\nthis is a bug in {_PROG}; "
        code = _fail(line + "--verbose shows where it happened", MachineError.exit_code)
        if {"-v", "--verbose"} & set(arguments):
            _write(sys.stderr, "".join(traceback.format_exception(error)))
    _flush(sys.stdout)
    return code


def _crashed(ended: str) -> int:
    """Say what happened to a process that could not say it itself."""
    if ended == "SIGKILL":
        advice = "most likely memory ran out; free some, or ask for fewer --samples or a lower --memory-limit"
        return _fail(f"the run was killed by the system: {advice}", MachineError.exit_code)
    return _fail(
        f"the model crashed ONNX or ONNX Runtime ({ended}), and nothing was written\n"
        "it is damaged, or meets a bug of theirs: export it again, or try another version of onnxruntime",
        ModelError.exit_code,
    )


def _folders(arguments: Sequence[str]) -> list[str]:
    """Return where a command line writes temporary files."""
    command = parse(arguments)
    places = [place for place in (command.out, command.options.report) if place is not None]
    return [*(os.path.dirname(os.path.abspath(place)) for place in places), tempfile.gettempdir()]


def _run(arguments: Sequence[str]) -> int:
    try:
        command = parse(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    from onnx_coreset import api

    if command.verbose:
        logging.basicConfig(stream=sys.stderr, format=f"{_PROG}: %(message)s")
        logging.getLogger(__package__).setLevel(logging.INFO)
    if command.inspect:
        _show(api.inspect(command.model, options=command.options), command)
        return 0
    try:
        with shown(command.quiet) as progress:
            done = api.optimize(command.model, command.out, progress=progress, options=command.options)
    except (ValidationError, Rejected) as error:
        if error.report is not None:
            _show(error.report, command)
        raise
    try:
        _show(done.report, command)
    except (Exception, KeyboardInterrupt) as error:
        # OUT is there by now, and an exit code other than 0 would deny it.
        _write(sys.stderr, f"{_PROG}: warning: all is done, but not shown: {type(error).__name__}: {error}\n")
    return 0


def _show(report: Report, command: Command) -> None:
    if command.quiet or sys.stdout is None:
        return
    from onnx_coreset.render import report_text

    terminal = sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf")
    _write(sys.stdout, report_text(report, verbose=command.verbose, terminal=terminal))


def _fail(message: str, code: int) -> int:
    """Say in one or two lines what went wrong."""
    from onnx_coreset.render import clean

    # A model can hold names of any length; two lines are what fits a log.
    lines = [clean(line) for line in message.strip().splitlines()][:2] or ["no reason given"]
    lines = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..." for line in lines]
    _write(sys.stderr, f"{_PROG}: error: " + "\n  ".join(lines) + "\n")
    return code


def _write(stream: TextIO | None, text: str) -> None:
    """Print, whatever the stream can encode; a reader that went away is no error, since the work is done."""
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), end="", file=stream, flush=True)
    except OSError:
        _silence(stream)


def _flush(stream: TextIO | None) -> None:
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        _silence(stream)


def _silence(stream: TextIO | None) -> None:
    """Lead a broken stream nowhere, so that the interpreter does not complain about it when it ends."""
    try:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return
