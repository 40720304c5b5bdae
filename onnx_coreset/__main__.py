"""``python -m onnx_coreset``: the same as the command ``onnx-coreset``."""

from __future__ import annotations

import sys

from onnx_coreset.cli import main

if __name__ == "__main__":
    sys.exit(main())
