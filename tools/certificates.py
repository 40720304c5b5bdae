"""The first hidden layer of LeNet-300-100 and its half, how far apart at worst: proven, found, and how long it took.

    python tools/certificates.py [--models models] [--ratio 0.5] [--effort tight] [--zonotope] [--json FILE]

The layer is cut by the package's default method. Two domains: the ball of radius 9.2 around 0, about the norm of an
image, and the box [0, 1]^784 of all images. A row tells, as means over all 100 outputs, the largest difference found by
the attack, the one certified, the mean and largest of their ratios, what the rounding of both networks in float32 may
add, the bounds that replace neurons by ranges and by lines, and the seconds. With --zonotope, and where onnxsim can be
imported, its bound_difference is put beside the box: the same pair of models and the same inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import time
from typing import Any

import numpy as np
import onnx
import scipy
from onnx import numpy_helper
from onnx.shape_inference import infer_shapes
from onnx.utils import Extractor
from threadpoolctl import threadpool_limits

import onnx_coreset
from onnx_coreset.core.activations import ACTIVATIONS, Named
from onnx_coreset.core.certificates import BallDomain, BoxDomain, Domain, certify
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout

MODELS = ("lenet_300_100.onnx", "lenet_300_100_fashion.onnx")
HIDDEN, READ, INPUTS = "/1/Relu_output_0", "/2/Gemm_output_0", 784
RADIUS = 9.2
ASKED = {"ball": 1.25, "box": 1.45}


def layer(model: onnx.ModelProto) -> HiddenLayer:
    """Return the first hidden layer of a LeNet-300-100 as it is stored."""
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    relu = Named(next(record for record in ACTIVATIONS if record.name == "Relu"))
    features = Neurons(arrays["0.weight"], arrays["0.bias"], relu)
    readout = Readout(features, arrays["2.weight"][:, :, None], arrays["2.bias"])
    return HiddenLayer(features.width, (readout,))


def zonotope(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, float]:
    """Return the mean over outputs of onnxsim's bound on the box, and its seconds, where it is installed."""
    try:
        from onnxsim.zonotope import bound_difference
    except ImportError:
        print("onnxsim is not installed: its bound is left out")
        return {}
    pair = [Extractor(infer_shapes(model)).extract_model(["pixels"], [READ]) for model in (before, after)]
    for model in pair:
        # One image: a bound for each output.
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    started = time.perf_counter()
    found = bound_difference(*pair, input_ranges={"pixels": (0.0, 1.0)})
    seconds = time.perf_counter() - started
    bound = np.asarray(found.max_abs[READ], dtype=np.float64)
    return {"zonotope": float(np.mean(bound)), "zonotope_seconds": seconds}


def row(before: HiddenLayer, after: HiddenLayer, domain: Domain, effort: Any, seconds: float) -> dict[str, float]:
    """Return the numbers of one pair and domain."""
    started = time.perf_counter()
    with threadpool_limits(1):
        found = certify(before, after, domain, effort, np.random.default_rng(0), seconds, workers=os.cpu_count() or 1)
    spent = time.perf_counter() - started
    assert found is not None and np.all(found.attacked <= found.certified)
    ratios = found.certified / found.attacked
    return {
        "attacked": float(found.attacked.mean()),
        "certified": float(found.certified.mean()),
        "ratio": float(ratios.mean()),
        "ratio_max": float(ratios.max()),
        "rounding": float(found.rounding.mean()),
        "interval": float(found.bounds["interval"].mean()),
        "linear": float(found.bounds["linear even"].mean()),
        "seconds": spent,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path("models"))
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--effort", choices=("fast", "tight"), default="tight")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of one certificate")
    parser.add_argument("--zonotope", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    domains = {
        "ball": BallDomain(np.zeros(INPUTS), RADIUS),
        "box": BoxDomain(np.zeros(INPUTS), np.ones(INPUTS)),
    }
    rows = []
    for name in MODELS:
        whole = onnx.load(args.models / name)
        less = onnx_coreset.optimize(args.models / name, ratio=args.ratio, include=[HIDDEN]).model
        for kind, domain in domains.items():
            found = row(layer(whole), layer(less), domain, args.effort, args.seconds)
            if kind == "box" and args.zonotope:
                found |= zonotope(whole, less)
            rows.append({"model": name, "domain": kind, "width": layer(less).width, **found})
            print(f"{name:28} {kind:5}", *(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
            if args.ratio == 0.5:
                print(f"    asked: ratio at most {ASKED[kind]}, at most 60 seconds on 2 cores")
    versions = {m.__name__: m.__version__ for m in (onnx_coreset, np, scipy, onnx)}
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    print(", ".join(f"{key} {value}" for key, value in (versions | machine).items()), "| seed 0")
    if args.json:
        options = {"ratio": args.ratio, "effort": args.effort, "seconds": args.seconds, "seed": 0}
        text = json.dumps({"rows": rows, "options": options, "versions": versions, "machine": machine}, indent=1)
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
