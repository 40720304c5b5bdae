"""The house rules: what every file of the package keeps, whatever it does."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

LONGEST_FILE = 300
LONGEST_FUNCTION = 60
ALLOWED_IN_CORE = frozenset(sys.stdlib_module_names | {"numpy", "scipy"})
SLOW_IMPORTS = ("onnx", "onnxruntime", "onnx_graphsurgeon", "scipy")
HELP_SECONDS = 1.0

ROOT = Path(__file__).resolve().parents[1]
SPEC = find_spec("onnx_coreset")
assert SPEC is not None and SPEC.origin is not None, "install the package first: pip install '.[dev]'"
PACKAGE = Path(SPEC.origin).parent
FILES = tuple(sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")))

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
every_file = pytest.mark.parametrize("file", FILES)


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text("utf-8"), file)


def module_name(file: str) -> str:
    parts = ("onnx_coreset", *Path(file).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(node: ast.AST, file: str) -> Iterator[str]:
    """Yields the full name of every module that is imported anywhere below a node, by a statement or by a call."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            here = module_name(file).split(".") + ([""] if file.endswith("__init__.py") else [])
            base = ".".join(here[: len(here) - part.level]) if part.level else ""
            module = ".".join(filter(None, (base, part.module)))
            yield from (f"{module}.{alias.name}" for alias in part.names)
        elif isinstance(part, ast.Call) and part.args and isinstance(part.args[0], ast.Constant):
            called = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(part.args[0].value)


def inside(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def run_when_imported(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the statements that importing a module executes: no function's body, nothing for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FunctionNode | ast.Lambda) and not for_types_only(child):
            yield child
            yield from run_when_imported(child)


def long_functions(module: ast.Module) -> list[str]:
    functions = [node for node in ast.walk(module) if isinstance(node, FunctionNode)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [f"{name}: {length} lines" for name, length in lengths if length > LONGEST_FUNCTION]


def foreign_to_core(module: ast.Module, file: str) -> list[str]:
    return [
        name
        for name in imports(module, file)
        if name.split(".")[0] not in ALLOWED_IN_CORE and not inside(name, "onnx_coreset.core", "onnx_coreset.errors")
    ]


def eager_runtime(module: ast.Module, file: str) -> list[str]:
    statements = [n for n in run_when_imported(module) if isinstance(n, ast.Import | ast.ImportFrom | ast.Call)]
    return [name for node in statements for name in imports(node, file) if inside(name, "onnxruntime")]


def prints(module: ast.Module) -> list[int]:
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def exempt(node: FunctionNode) -> bool:
    """Whether a function's docstring stands elsewhere: at the overridden, the overloaded or the property."""
    marks = {ast.unparse(mark).rsplit(".", 1)[-1] for mark in node.decorator_list}
    return bool(marks & {"override", "overload", "setter", "deleter"})


def undocumented(node: ast.Module | ast.ClassDef, prefix: str = "") -> list[str]:
    """Names the public functions, classes and methods of a module or class that lack a docstring."""
    found = [] if ast.get_docstring(node) else [prefix or "module"]
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            found += undocumented(child, f"{prefix}.{child.name}".lstrip("."))
        elif isinstance(child, FunctionNode) and not (child.name.startswith("_") or exempt(child)):
            found += [] if ast.get_docstring(child) else [f"{prefix}.{child.name}".lstrip(".")]
    return found


def mutable_literals(module: ast.Module) -> list[str]:
    """Names what a module binds, at its level, to a list, a dict, a set, a comprehension or a bare call of theirs."""
    kinds = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    makers = ("list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict")
    found: list[str] = []
    for node in run_when_imported(module):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            called = node.value.func if isinstance(node.value, ast.Call) else None
            made = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            names = [ast.unparse(target) for target in getattr(node, "targets", [getattr(node, "target", None)])]
            if names != ["__all__"] and (isinstance(node.value, kinds) or made in makers):
                found += names
    return found


def environment() -> dict[str, str]:
    """The environment in which a child finds the package under test, and no other, wherever it starts."""
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent), "PYTHONSAFEPATH": "1"}


@every_file
def test_a_file_has_at_most_300_lines(file: str) -> None:
    assert len((PACKAGE / file).read_text("utf-8").splitlines()) <= LONGEST_FILE


@every_file
def test_a_function_has_at_most_60_lines(file: str) -> None:
    assert long_functions(tree(file)) == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("core/")])
def test_core_imports_numpy_scipy_the_standard_library_and_itself(file: str) -> None:
    assert foreign_to_core(tree(file), file) == []


def test_onnxruntime_is_imported_in_one_module() -> None:
    importers = [file for file in FILES if any(inside(name, "onnxruntime") for name in imports(tree(file), file))]
    assert importers == ["edge/runtime.py"]


@every_file
def test_onnxruntime_is_imported_inside_functions_only(file: str) -> None:
    assert eager_runtime(tree(file), file) == []


@pytest.mark.parametrize("file", [file for file in FILES if file != "cli.py"])
def test_only_the_command_line_prints(file: str) -> None:
    assert prints(tree(file)) == []


@every_file
def test_every_public_name_has_a_docstring(file: str) -> None:
    assert undocumented(tree(file)) == []


@every_file
def test_no_module_level_name_is_bound_to_a_mutable_literal(file: str) -> None:
    assert mutable_literals(tree(file)) == []


@every_file
def test_no_function_rebinds_a_module_level_name(file: str) -> None:
    assert [node.lineno for node in ast.walk(tree(file)) if isinstance(node, ast.Global)] == []


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith("__main__.py")])
def test_no_module_level_value_can_be_changed(file: str) -> None:
    values = vars(importlib.import_module(module_name(file)))
    own = {name: value for name, value in values.items() if not (name.startswith("__") and name.endswith("__"))}
    mutable = [name for name, value in own.items() if isinstance(value, list | dict | set | bytearray)]
    writeable = [name for name, value in own.items() if isinstance(value, np.ndarray) and value.flags.writeable]
    assert mutable + writeable == []


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION),
        (lambda module: foreign_to_core(module, "core/methods/norm.py"), "from ...graph import space"),
        (lambda module: foreign_to_core(module, "core/gram.py"), "def f():\n    import onnx.helper"),
        (lambda module: eager_runtime(module, "edge/runtime.py"), "try:\n    import onnxruntime\nfinally:\n    pass"),
        (lambda module: eager_runtime(module, "edge/runtime.py"), "X = importlib.import_module('onnxruntime')"),
        (prints, "def f():\n    print()"),
        (undocumented, "'''A module.'''\nclass A:\n    '''A class.'''\n    def f(self): ..."),
        (undocumented, "x = 1"),
        (mutable_literals, "if True:\n    cache: dict[str, int] = {}"),
        (mutable_literals, "SEEN = collections.defaultdict(int)"),
        (mutable_literals, "TABLE = [n for n in range(3)]"),
    ],
)
def test_a_broken_line_is_found(rule: Callable[[ast.Module], list[object]], broken: str) -> None:
    assert rule(ast.parse(broken)) != []


@pytest.mark.parametrize(
    ("rule", "sound"),
    [
        (
            lambda module: foreign_to_core(module, "core/methods/norm.py"),
            "from ..layer import Coreset\nimport scipy.linalg",
        ),
        (lambda module: foreign_to_core(module, "core/refit.py"), "from onnx_coreset import errors"),
        (lambda module: eager_runtime(module, "edge/runtime.py"), "def f():\n    import onnxruntime"),
        (lambda module: eager_runtime(module, "edge/runtime.py"), "if TYPE_CHECKING:\n    import onnxruntime"),
        (mutable_literals, "__all__ = ['f']\nTABLE = MappingProxyType({'a': 1})\nNAMES = ('a',)"),
    ],
)
def test_a_sound_line_is_not_found(rule: Callable[[ast.Module], list[object]], sound: str) -> None:
    assert rule(ast.parse(sound)) == []


def test_the_command_line_starts_without_the_slow_libraries() -> None:
    code = f"import sys, onnx_coreset.cli; print(*(m for m in {SLOW_IMPORTS} if m in sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout.strip(), child.stderr) == (0, "", "")


def test_help_comes_at_once() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        command = [sys.executable, "-m", "onnx_coreset", "--help"]
        child = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - started)
        assert child.returncode == 0 and child.stdout.startswith("usage: onnx-coreset"), child.stderr
    assert min(seconds) < HELP_SECONDS


def test_one_distribution_owns_the_onnxruntime_folder() -> None:
    owners = set(packages_distributions()["onnxruntime"])
    assert len(owners) == 1, f"uninstall all of {owners}, then install one: the last one wins, and CUDA may be lost"


@pytest.mark.parametrize("extra", ["", "cuda", "dask", "tools", "dev"])
@pytest.mark.parametrize(
    ("system", "machine"), list(product(("linux", "win32", "darwin"), ("x86_64", "AMD64", "aarch64", "arm64")))
)
def test_one_onnxruntime_is_asked_for_on_every_machine(extra: str, system: str, machine: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = map(Requirement, project["dependencies"] + project["optional-dependencies"].get(extra, []))
    here = {"sys_platform": system, "platform_machine": machine}
    names = {need.name for need in wanted if need.marker is None or need.marker.evaluate(here)}
    with_cuda = system != "darwin" and machine in ("x86_64", "AMD64")
    expected = "onnxruntime-gpu" if with_cuda else "onnxruntime"
    assert {name for name in names if name.startswith("onnxruntime")} == {expected}
