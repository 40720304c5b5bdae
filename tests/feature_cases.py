"""Layers of every kind of features that certificates are tried on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from certificate_cases import functions, named, rows
from onnx_coreset.core.activations import Program, Step
from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.features import Columns, Features, Gated, Joint, Neurons, Part
from onnx_coreset.core.layer import HiddenLayer, Readout

FEATURES = ("gated", "gated twice", "joint", "columns", "dense columns", "mixed columns")
JOINT = Program((Step("Sigmoid", (0,)), Step("Mul", (2, 1)), Step("Max", (3, 0)), Step("Add", (4, np.asarray(0.2)))), 2)


def neurons(kind: str, n: int, d: int, rng: np.random.Generator, f: Activation) -> Neurons:
    return Neurons(*rows(kind, n, d, rng), f)


def part(features: str, kind: str, n: int, d: int, rng: np.random.Generator, f: Activation) -> Part:
    """Features with one column."""
    first = neurons(kind, n, d, rng, f)
    if features == "gated":
        return Gated(first, neurons(kind, n, d, rng, named("Identity")))
    if features == "gated twice":
        return Gated(first, neurons(kind, n, d, rng, named("Tanh")))
    plain = replace(first, activation=named("Identity"))
    return Joint((plain, neurons(kind, n, d, rng, named("Identity"))), JOINT) if features == "joint" else first


def features(which: str, kind: str, n: int, d: int, rng: np.random.Generator, f: Activation) -> Features:
    """Features of a kind; columns have a part twice, and some that nobody sees."""
    if "columns" not in which:
        return part(which, kind, n, d, rng, f)
    own = {"columns": ("gated", "gated"), "dense columns": ("", ""), "mixed columns": ("gated", "joint", "")}[which]
    parts = [part(name, kind, n, d, rng, f) for name in own]
    return Columns((*parts, parts[0]), rng.random((n, len(parts) + 1)) < 0.7)


def anything(which: str, kind: str, n: int, d: int, k: int, rng: np.random.Generator, f: Activation) -> HiddenLayer:
    """A layer of one readout."""
    found = features(which, kind, n, d, rng, f)
    outgoing = rng.standard_normal((k, n, found.columns))
    return HiddenLayer(n, (Readout(found, outgoing, rng.standard_normal(k)),))


def fewer(whole: HiddenLayer, rng: np.random.Generator) -> HiddenLayer:
    """Half of the neurons with other outgoing weights."""
    old = whole.readouts[0]
    kept = np.sort(rng.choice(whole.width, max(1, whole.width // 2), replace=False))
    outgoing = old.outgoing[:, kept] * (
        1.0 + 0.3 * rng.standard_normal((old.outputs, kept.size, old.outgoing.shape[2]))
    )
    constant = old.constant + 0.1 * rng.standard_normal(old.outputs)
    return HiddenLayer(kept.size, (Readout(old.features.take(kept), outgoing, constant),))


def polished(less: HiddenLayer, rng: np.random.Generator, share: float = 0.1) -> HiddenLayer:
    """The same layer of gated neurons with other incoming weights."""
    old = less.readouts[0]
    assert isinstance(old.features, Gated)
    sides = [
        replace(own, incoming=own.incoming * (1.0 + share * rng.standard_normal(own.incoming.shape)))
        for own in (old.features.gate, old.features.up)
    ]
    return HiddenLayer(less.width, (replace(old, features=Gated(sides[0], sides[1])),))


def magnitude(layer: HiddenLayer, x: Array) -> Array:
    """Sums of the magnitudes of what an output is made of, pre-activations included, shape (N, k)."""
    readout = layer.readouts[0]
    values = np.abs(np.nan_to_num(readout.features.evaluate(x))).reshape(x.shape[0], -1)
    flat = np.abs(readout.outgoing).reshape(readout.outputs, -1)
    return np.asarray(values @ flat.T + np.abs(readout.constant))


def activation(name: str, n: int, rng: np.random.Generator) -> Activation:
    return functions(n, rng)[name]
