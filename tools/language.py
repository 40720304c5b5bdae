"""What halving every feed-forward layer costs a language model, by the command line: held-out text judges.

    python tools/language.py [--model models/gelu_transformer.onnx] [--ratio 0.5] [--seed 0] [--json FILE]

The excess loss is in nats a token, and as a share of what dropping the neurons of smallest L2 norm costs. Rows with
text give 64 sequences of training text, drawn with the seed; all others are given nothing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

import onnx_coreset
from training.text import windows, write_text

SEQUENCES = 64
ROWS = (
    ("L2 norm", ("--method", "norm", "--no-refit"), False, None),
    ("random tokens, --no-polish", ("--inputs", "synthetic", "--no-polish"), False, None),
    ("no data, --no-polish", ("--no-polish",), False, None),
    ("no data", (), False, 0.36),
    ("64 sequences, --no-polish", ("--no-polish",), True, None),
    ("64 sequences", (), True, 0.17),
)


def loss(model: pathlib.Path, tokens: np.ndarray, after: np.ndarray) -> float:
    """Return the mean of -log p, in nats, of the tokens `after` (M, T) that follow `tokens` (M, T)."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name, parts = session.get_inputs()[0].name, []
    for start in range(0, len(tokens), 64):
        logits = session.run(None, {name: tokens[start : start + 64]})[0].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        parts.append(-np.take_along_axis(logits, after[start : start + 64, :, None], axis=2).ravel())
    return float(np.concatenate(parts).mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/gelu_transformer.onnx"))
    parser.add_argument("--ratio", default="0.5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    text = write_text(0)
    tokens, after = windows(text.held_out)
    train, _ = windows(text.train)
    whole, unit, rows = loss(args.model, tokens, after), None, []
    with tempfile.TemporaryDirectory() as folder:
        out, some = pathlib.Path(folder) / "out.onnx", pathlib.Path(folder) / "some.npz"
        chosen = np.random.default_rng(args.seed).choice(len(train), SEQUENCES, replace=False)
        np.savez(some, **{onnx.load(args.model).graph.input[0].name: train[chosen]})
        for name, arguments, given, asked in ROWS:
            command = [sys.executable, "-m", "onnx_coreset", str(args.model), str(out), "--quiet", "--overwrite"]
            command += ["--ratio", args.ratio, "--seed", str(args.seed), *arguments]
            subprocess.run([*command, *(["--inputs", str(some)] if given else [])], check=True)
            excess = loss(out, tokens, after) - whole
            unit = excess if unit is None else unit
            rows.append({"setting": name, "excess": round(excess, 4), "of L2": round(excess / unit, 3), "asked": asked})
            wanted = "" if asked is None else f"asked {asked}"
            print(f"{name:28} excess {excess:.4f} nats, {excess / unit:.3f} of the first  {wanted}", flush=True)
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, onnx, ort)}
    print("loss", round(whole, 4), "seed", args.seed, "|", ", ".join(f"{k} {v}" for k, v in versions.items()))
    if args.json:
        found = {"loss": whole, "ratio": args.ratio, "seed": args.seed, "rows": rows, "versions": versions}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
