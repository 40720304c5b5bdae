"""What lossless rules, moments, selection and refit of a chain cost, in units of a float64 product of 3072 x 3072.

    python tools/speed.py [--chain 768,3072,768] [--activation Gelu] [--keep 0.5] [--scales 1] [--methods ...]

Everything runs in one process and one thread, and is counted in processor seconds. The unit is the fastest of three
products, taken before and after what is measured. Weights are random (rows of norm about 1); inputs are normal, of one
scale or a mixture of several. Prints the stages of every method, the error of the refit and the largest resident
memory of the process so far.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from onnx_coreset.core.activations import ACTIVATIONS, Named
from onnx_coreset.core.gram import layer_moments
from onnx_coreset.core.laws import Mixture
from onnx_coreset.core.layer import HiddenLayer, Neurons, Readout
from onnx_coreset.core.lossless import lossless
from onnx_coreset.core.methods import METHODS
from onnx_coreset.core.methods.target import OnMoments, error_path, targets
from onnx_coreset.core.refit import refit

SIZE = 3072
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def unit() -> float:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((SIZE, SIZE)), rng.standard_normal((SIZE, SIZE))
    return min(seconds(lambda: a @ b)[0] for _ in range(3))


def chain(d: int, n: int, k: int, activation: str) -> HiddenLayer:
    rng = np.random.default_rng(0)
    record = next(r for r in ACTIVATIONS if r.name == activation)
    features = Neurons(
        rng.standard_normal((n, d)) / np.sqrt(d), 0.5 * rng.standard_normal(n), Named(record, record.examples[0])
    )
    return HiddenLayer(n, (Readout(features, rng.standard_normal((k, n, 1)) / np.sqrt(n), np.zeros(k)),))


def resident() -> float:
    """Largest resident memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(layer: HiddenLayer, names: list[str], keep: float, scales: tuple[float, ...]) -> None:
    product, width = unit(), max(1, round(keep * layer.width))
    law = Mixture(layer.inputs, scales)
    free, _ = seconds(lambda: lossless(layer))
    print(f"one product of {SIZE} x {SIZE}: {product:.2f} s")
    print(f"{'lossless':24s} {free / product:6.2f}   {resident():5.1f} GiB", flush=True)
    gram, moments = seconds(lambda: layer_moments(layer, np.empty((0, layer.inputs)), law.components()))
    print(f"{'closed moments':24s} {gram / product:6.2f}   {resident():5.1f} GiB", flush=True)
    for name in names:
        method = METHODS[name]
        assert isinstance(method, OnMoments)
        choosing, order = seconds(lambda m=method: m.rank(targets(layer, moments), width))
        kept = np.sort(order[:width])
        fitting, _ = seconds(lambda c=kept: refit(layer, c, moments))
        rest = np.setdiff1d(np.arange(layer.width), kept)
        error = error_path(layer, moments, np.concatenate([kept, rest]))[width - 1]
        print(f"{name + ', selection':24s} {choosing / product:6.2f}   {resident():5.1f} GiB")
        print(f"{name + ', refit':24s} {fitting / product:6.2f}")
        print(f"{name + ', in all':24s} {(gram + choosing + fitting) / product:6.2f}   rms {error:.4f}", flush=True)
    again = unit()
    if abs(again / product - 1.0) > 0.2:
        print(f"the machine was not quiet: the same product took {again:.2f} s in the end")


def main() -> None:
    if any(os.environ.get(name) != "1" for name in THREADS):
        # Libraries read these when they are loaded.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | dict.fromkeys(THREADS, "1"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chain", default="768,3072,768", help="inputs, neurons and outputs")
    parser.add_argument("--activation", default="Gelu", choices=[record.name for record in ACTIVATIONS])
    parser.add_argument("--keep", type=float, default=0.5, help="share of neurons that stay")
    parser.add_argument("--scales", default="1", help="standard deviations of the inputs, a mixture of several")
    parser.add_argument("--methods", default="greedy,backward")
    arguments = parser.parse_args()
    d, n, k = (int(part) for part in arguments.chain.split(","))
    scales = tuple(float(part) for part in arguments.scales.split(","))
    report(chain(d, n, k, arguments.activation), arguments.methods.split(","), arguments.keep, scales)


if __name__ == "__main__":
    main()
