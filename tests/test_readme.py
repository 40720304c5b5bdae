"""The README says what the tables in the code say."""

from __future__ import annotations

import pathlib

import pytest

from onnx_coreset.flags import markdown_table
from onnx_coreset.graph.skip import REASONS

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_options_of_the_readme_are_those_of_the_table() -> None:
    assert markdown_table() in README.read_text()


@pytest.mark.parametrize(("code", "meaning"), REASONS)
def test_every_code_is_explained(code: str, meaning: str) -> None:
    assert f"| `{code}` | {meaning} |" in README.read_text()
