"""Bounds across depth are tried on random networks of every activation: no input of the domain may be above one."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

import certificate_cases as cases
from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.core.activations.program import Activation, Program, Step
from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.activations.records import recognise
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.depth import EndToEnd, FeedForward, Pair, certify_ends, gaps
from onnx_coreset.core.certificates.depth.attack import _fitting, attack, enclosed, surely
from onnx_coreset.core.certificates.depth.deployed import computed
from onnx_coreset.core.certificates.depth.ranges import ranges
from onnx_coreset.core.certificates.depth.regions import Boxes, region
from onnx_coreset.core.certificates.depth.search import Besides, Functions, Limits, prove
from onnx_coreset.core.certificates.domains import BallDomain, BoxDomain, Domain, place
from onnx_coreset.core.certificates.rounding import gamma
from onnx_coreset.core.features import Neurons

KINDS = ("plain", "zeros", "copies", "mirrored", "long", "huge", "tiny", "flat", "dead")


def network(kind: str, sizes: tuple[int, ...], f: Activation, rng: np.random.Generator) -> FeedForward:
    """A network of layers of a kind; f has as many neurons as every hidden layer."""
    hidden = []
    for d, n in pairwise(sizes[:-1]):
        p, b = cases.rows(kind, n, d, rng)
        hidden.append(Neurons(p / np.sqrt(d), b, f))
    out = rng.standard_normal((sizes[-1], sizes[-2]))
    if kind == "dead":
        out[:, rng.random(sizes[-2]) < 0.5] = 0.0
    return FeedForward(tuple(hidden), out, rng.standard_normal(sizes[-1]))


def shrunk(whole: FeedForward, rng: np.random.Generator, moved: float, share: float = 0.5) -> Pair:
    """A pair: some neurons of each layer, their weights moved a little."""
    kept = []
    for part in whole.hidden:
        count = max(1, round(share * part.width))
        kept.append(np.sort(rng.choice(part.width, count, replace=False)))
    hidden = []
    columns = np.arange(whole.inputs)
    for part, rows in zip(whole.hidden, kept, strict=True):
        taken = part.take(rows)
        noise = 1.0 + moved * rng.standard_normal((rows.size, columns.size)) * (
            columns.size < part.inputs or moved > 0.2
        )
        hidden.append(Neurons(taken.incoming[:, columns] * noise, taken.bias, taken.activation))
        columns = rows
    out = whole.outgoing[:, columns] * (1.0 + moved * rng.standard_normal((whole.outputs, columns.size)))
    return Pair.of(whole, FeedForward(tuple(hidden), out, whole.constant), kept)


def holds(pair: Pair, found: EndToEnd, x: Array) -> None:
    """No input is above the bound, nor outside the ranges, by more than evaluation in float64 explains."""
    y, z = pair.before(x), pair.after(x)
    least = surely(pair, found.domain, x)
    assert np.all(least <= found.certified), (least.max(axis=0), found.certified)
    for net, values, (low, high) in ((pair.before, y, found.before), (pair.after, z, found.after)):
        down, up = enclosed(net, x, x)
        assert np.all(np.nan_to_num(down, nan=-np.inf) <= high) and np.all(np.nan_to_num(up, nan=np.inf) >= low)
        assert values.shape == down.shape
    assert np.all(found.attacked <= found.certified)


def grid(low: Array, high: Array, count: int) -> Array:
    axes = [np.linspace(a, b, count) for a, b in zip(low, high, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1).clip(low, high)


@pytest.mark.parametrize("name", sorted(cases.functions(6, np.random.default_rng(0))))
def test_no_input_is_above_the_bound_for_any_activation(name: str) -> None:
    rng = np.random.default_rng([5, *name.encode()])
    for trial in range(9):
        f = cases.functions(6, rng)[name]
        d = 1 + trial % 3
        depth = 1 + trial % 4
        whole = network("plain", (d, *[6] * depth, 2), f, rng)
        pair = shrunk(whole, rng, 0.05 if trial % 2 else 0.5)
        low = rng.standard_normal(d)
        high = low + 10.0 ** rng.uniform(-2, 0.5)
        found = certify_ends(pair, BoxDomain(low, high), rng, seconds=60.0, boxes=10)
        holds(pair, found, grid(low, high, {1: 400, 2: 25, 3: 9}[d]))


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_networks_and_domains_are_no_exception(kind: str) -> None:
    rng = np.random.default_rng([6, *kind.encode()])
    for where in cases.DOMAINS:
        for _ in range(3):
            d, n = int(rng.integers(1, 5)), int(rng.integers(1, 7))
            whole = network(kind, (d, n, n, 3), cases.RELU, rng)
            pair = shrunk(whole, rng, 0.3)
            domain = cases.domain(where, d, rng)
            found = certify_ends(pair, domain, rng, seconds=0.03, boxes=6)
            x = cases.inputs(domain, 200, d, rng)
            assert np.all(surely(pair, domain, x) <= found.certified), (kind, where)
            assert np.all(found.attacked <= found.certified)


def test_the_same_network_twice_differs_by_rounding_alone() -> None:
    rng = np.random.default_rng(7)
    whole = network("plain", (4, 8, 8, 8, 3), cases.RELU, rng)
    same = Pair.of(whole, whole, [np.arange(8)] * 3)
    found = certify_ends(same, BoxDomain(-np.ones(4), np.ones(4)), rng)
    # Sums of a few hundred terms below 1e3, each off by a few units in the last place.
    assert np.all(found.certified < 1e-9) and found.boxes < 3 and np.all(found.attacked == 0.0)


def test_a_case_solved_by_hand() -> None:
    # |x| as two neurons against the positive half alone: they differ by -x below 0, at most 2 on [-2, 1].
    whole = FeedForward((Neurons(np.array([[1.0], [-1.0]]), np.zeros(2), cases.RELU),), np.ones((1, 2)), np.zeros(1))
    half = FeedForward((Neurons(np.array([[1.0]]), np.zeros(1), cases.RELU),), np.ones((1, 1)), np.zeros(1))
    found = certify_ends(Pair.of(whole, half, [np.array([0])]), BoxDomain(np.array([-2.0]), np.array([1.0])))
    assert 2.0 <= found.certified[0] <= 2.0 * 1.05 * (1 + 1e-12)
    assert found.attacked[0] == pytest.approx(2.0, abs=1e-12) and found.worst[0, 0] == -2.0
    assert found.before[0][0] <= 0.0 and 2.0 <= found.before[1][0] <= 2.0 + 1e-9


def test_halving_boxes_comes_close_to_what_is_reached() -> None:
    rng = np.random.default_rng(8)
    ratios = []
    for _ in range(6):
        pair = shrunk(network("plain", (2, 10, 10, 10, 2), cases.RELU, rng), rng, 0.2, 0.7)
        found = certify_ends(pair, BoxDomain(-np.ones(2), np.ones(2)), rng, seconds=10.0)
        ratios.append(found.certified / found.attacked)
    # The goal is 5 % above what the attack found.
    assert np.max(ratios) <= 1.05 * (1 + 1e-9)


def test_slopes_of_their_own_make_bounds_tighter_where_no_box_is_halved() -> None:
    rng = np.random.default_rng(13)
    better = []
    for trial in range(6):
        f = cases.functions(8, rng)[("Relu", "Gelu", "Tanh", "LeakyRelu")[trial % 4]]
        pair = shrunk(network("plain", (20, 8, 8, 8, 2), f, rng), rng, 0.3)
        one = np.eye(2)
        both = Functions(np.concatenate([-one, one]), np.concatenate([one, -one]), np.zeros(4))
        domain = BoxDomain(-np.ones(20), np.ones(20)) if trial % 3 else BallDomain(np.zeros(20), 2.0)
        proof = prove(pair, region(domain), both, Limits(0.5))
        assert np.all(proof.value <= proof.first)
        x = cases.inputs(domain, 3000, 20, rng)
        assert np.all(surely(pair, domain, x) <= np.maximum(proof.value[:2], proof.value[2:]))
        better.append(np.mean(proof.value / proof.first))
    assert np.mean(better) < 0.9


def test_neurons_stay_in_their_ranges_in_every_layer() -> None:
    rng = np.random.default_rng(9)
    for trial in range(40):
        f = list(cases.functions(7, rng).values())[trial % 20]
        pair = shrunk(network("plain", (3, 7, 7, 7, 2), f, rng), rng, 0.1)
        low = rng.standard_normal(3)
        high = low + rng.uniform(0, 1.5, 3)
        found = ranges(pair, region(BoxDomain(low, high)))
        x = grid(low, high, 7)
        h, g = x, x
        layers = zip(pair.before.hidden, pair.after.hidden, pair.twins, found.bands, strict=True)
        for one, other, (own, of), band in layers:
            t, s = h @ one.incoming.T + one.bias, g @ other.incoming.T + other.bias
            slack = 1e-12 * (1.0 + np.abs(t).max() + np.abs(s).max())
            for values, (least, most) in ((t, band.before), (s, band.after), (s[:, own] - t[:, of], band.gap)):
                assert np.all(values >= least - slack) and np.all(values <= most + slack)
            h, g = one.activation(t), other.activation(s)


def test_exact_rational_values_are_below_the_bound_of_a_point() -> None:
    rng = np.random.default_rng(10)
    for scale in (1.0, 1e-20, 1e15):
        for _ in range(5):
            pair = shrunk(network("plain", (3, 6, 6, 2), cases.RELU, rng), rng, 0.4)
            x = scale * rng.standard_normal(3)
            found = certify_ends(pair, BoxDomain(x, x), rng, boxes=1)
            apart = [a - b for a, b in zip(exact(pair.after, x), exact(pair.before, x), strict=True)]
            for value, bound, reached in zip(apart, found.certified, found.attacked, strict=True):
                assert Fraction(reached) <= abs(value) <= Fraction(bound)
                # A point leaves nothing but rounding: 1e3 operations on numbers of its own size.
                assert bound <= float(abs(value)) + 1e-12 * (1.0 + 1e3 * scale)


def test_rounding_of_terms_that_cancel_is_in_the_bound() -> None:
    rng = np.random.default_rng(14)
    for _ in range(30):
        # Pairs of neurons of size 1e8 whose outgoing weights nearly cancel: all that is left is rounding.
        p, b = rng.standard_normal((4, 3)), 1e8 * (1.0 + rng.random(4))
        first = Neurons(np.concatenate([p, p]), np.concatenate([b, b]), cases.RELU)
        w = rng.standard_normal((2, 4))
        whole = FeedForward((first,), np.concatenate([w, -w * (1.0 + 1e-9)], axis=1), np.zeros(2))
        pair = shrunk(whole, rng, 0.0, 1.0)
        half = FeedForward(pair.after.hidden, np.zeros((2, 8)), np.zeros(2))
        x = rng.standard_normal(3)
        found = certify_ends(Pair.of(whole, half, pair.kept), BoxDomain(x, x), rng, boxes=1)
        rounded = whole(x[None])[0]
        apart = [a - b for a, b in zip(exact(half, x), exact(whole, x), strict=True)]
        for value, bound, seen in zip(apart, found.certified, rounded, strict=True):
            # What float64 makes of the sum is no further from the truth than the bound knows.
            assert abs(value) <= Fraction(bound)
            assert abs(abs(Fraction(seen)) - abs(value)) <= Fraction(bound)


def test_inputs_that_are_off_count_as_much_as_the_weights_carry_them() -> None:
    rng = np.random.default_rng(15)
    p, q = np.abs(rng.standard_normal((6, 4))), rng.standard_normal((5, 6))
    net = FeedForward(
        (Neurons(p, np.ones(6), cases.RELU), Neurons(q, 100.0 + np.zeros(5), cases.RELU)), np.ones((2, 5)), np.zeros(2)
    )
    far = (np.ones((1, 4)), np.full((1, 6), 20.0), np.full((1, 5), 300.0))
    ends = [(np.zeros((1, 6)), np.full((1, 6), 20.0)), (np.ones((1, 5)), np.full((1, 5), 300.0))]
    plain, moved = computed(net, far, ends), computed(net, far, ends, off=np.full(4, 1e-3))
    carried = np.abs(net.outgoing @ q @ p) @ np.full(4, 1e-3)
    assert np.all(moved - plain >= 0.999 * carried) and np.all(plain > 0) and np.all(plain < 1e-2)


def exact(net: FeedForward, x: Array) -> list[Fraction]:
    h = [Fraction(v) for v in x.tolist()]
    for number, (W, b) in enumerate(net.affine):
        h = [
            sum((Fraction(w) * v for w, v in zip(row, h, strict=True)), Fraction(c))
            for row, c in zip(W.tolist(), b.tolist(), strict=True)
        ]
        h = [max(v, Fraction(0)) for v in h] if number < net.depth else h
    return h


@pytest.mark.parametrize(
    ("rounds", "plan"),
    [(1e9, (8, 40)), (320.0, (8, 40)), (160.0, (8, 20)), (40.0, (2, 20)), (16.0, (1, 16)), (0.5, (1, 4))],
)
def test_a_short_search_has_fewer_starts_and_then_fewer_steps(rounds: float, plan: tuple[int, int]) -> None:
    assert _fitting(8, 40, rounds) == plan


def test_a_short_search_of_many_inputs_finds_half_of_what_a_long_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(18)
    pair = shrunk(network("plain", (300, 80, 80, 80, 5), cases.RELU, rng), rng, 0.3)
    domain = BoxDomain(-np.ones(300), np.ones(300))
    long = attack(pair, domain, np.random.default_rng(0)).value
    monkeypatch.setattr("onnx_coreset.core.certificates.depth.attack._fitting", lambda *_: (1, 6))
    short = attack(pair, domain, np.random.default_rng(0)).value
    assert np.all(short >= 0.25 * long) and short.mean() > 0.5 * long.mean()


def test_signs_of_gaps_are_never_claimed_wrongly_and_often_found() -> None:
    rng = np.random.default_rng(11)
    decided = 0
    for _ in range(20):
        pair = shrunk(network("plain", (2, 8, 8, 4), cases.RELU, rng), rng, 0.1)
        low = rng.standard_normal(2)
        domain = BoxDomain(low, low + 0.2)
        for after, net in ((False, pair.before), (True, pair.after)):
            bound = gaps(pair, domain, after, seconds=5.0, boxes=200)
            y = net(grid(domain.low, domain.high, 12))
            largest = np.max(y[:, :, None] - y[:, None, :], axis=0)
            assert np.all(largest <= bound + 1e-12 * np.abs(y).max())
            decided += np.count_nonzero(bound < 0)
    assert decided > 100


@pytest.mark.parametrize("domain", [BallDomain(np.zeros(2), 1.0), BoxDomain(np.zeros(2), np.ones(2))])
def test_a_domain_of_other_inputs_is_refused(domain: Domain) -> None:
    pair = shrunk(network("plain", (3, 4, 2), cases.RELU, np.random.default_rng(0)), np.random.default_rng(0), 0.1)
    with pytest.raises(ValueError, match="inputs"):
        certify_ends(pair, domain)


@pytest.mark.parametrize("boxes", [1, 300])
def test_rounding_of_float32_stays_below_its_bound(boxes: int) -> None:
    rng = np.random.default_rng(12)
    for trial in range(20):
        f = cases.functions(8, rng)[("Relu", "Tanh", "Gelu", "Sigmoid")[trial % 4]]
        whole = network("plain", (5, 8, 8, 8, 3), f, rng)
        pair = shrunk(single(whole), rng, 0.0)
        found = certify_ends(pair, BoxDomain(-np.ones(5), np.ones(5)), rng, seconds=1.0, boxes=boxes)
        x = place(found.domain, cases.points(False, 100, 5, rng)).astype(np.float32)
        for net in (pair.before, pair.after):
            assert np.all(np.abs(as_single(net, x) - net(x.astype(np.float64))) <= found.rounding)
        assert np.all(found.rounding < 1e-2)


def single(net: FeedForward) -> FeedForward:
    hidden = tuple(Neurons(p.incoming.astype(np.float32), p.bias.astype(np.float32), p.activation) for p in net.hidden)
    return FeedForward(hidden, net.outgoing.astype(np.float32), net.constant.astype(np.float32))


def test_rounding_of_coarse_numbers_stays_below_its_bound_on_every_part() -> None:
    """Numbers of few bits, rounded after each operation, come within a few times of the bound."""
    rng = np.random.default_rng(16)
    unit, most = 2.0**-9, 0.0
    for _ in range(30):
        net = network("plain", (2, 4, 4, 2), cases.RELU, rng)
        net = FeedForward(
            tuple(Neurons(coarse(p.incoming), coarse(p.bias), p.activation) for p in net.hidden),
            coarse(net.outgoing),
            coarse(net.constant),
        )
        low = coarse(rng.standard_normal((3, 2)))
        parts = Boxes(low, low + coarse(rng.uniform(0, 1, (3, 2))))
        same = Pair.of(net, net, [np.arange(4)] * 2)
        found = ranges(same, parts)
        far = (found.far, *(layer.far[0] for layer in found.relaxed))
        bound = computed(net, far, [band.before for band in found.bands], unit)
        for part in range(3):
            x = np.clip(coarse(grid(parts.low[part], parts.high[part], 9)), parts.low[part], parts.high[part])
            h = x
            for number, (W, b) in enumerate(net.affine):
                total = np.zeros((len(x), len(b)))
                for column in rng.permutation(W.shape[1]):
                    total = coarse(total + coarse(h[:, [column]] * W[:, column]))
                h = coarse(total + b)
                h = np.maximum(h, 0.0) if number < net.depth else h
            off = np.abs(h - net(x)).max(axis=0)
            assert np.all(off <= bound[part])
            most = max(most, float(np.max(off / bound[part])))
    assert most > 0.2


def coarse(values: Array) -> Array:
    """Return numbers rounded to nine bits."""
    fraction, power = np.frexp(values)
    return np.asarray(np.ldexp(np.round(np.ldexp(fraction, 9)), power - 9))


def test_what_rounds_in_front_of_neurons_that_are_off_does_not_get_through() -> None:
    # The second layer is surely off: all that rounds is the sum of the outputs, of 0 and the constant 3.
    first = Neurons(1e6 * np.ones((5, 2)), np.zeros(5), cases.RELU)
    second = Neurons(-np.ones((4, 5)), -np.ones(4), cases.RELU)
    net = FeedForward((first, second), np.ones((1, 4)), np.array([3.0]))
    found = certify_ends(Pair.of(net, net, [np.arange(5), np.arange(4)]), BoxDomain(np.ones(2), np.full(2, 2.0)))
    assert np.all(found.rounding <= 2 * 3.0 * gamma(5, 2.0**-24) * (1 + 1e-6))


@pytest.mark.parametrize(
    "steps",
    [
        (Step("Relu", (0,)), Step("Sub", (0, np.array(5.9))), Step("Relu", (2,)), Step("Sub", (1, 3))),
        (Step("Add", (0, np.array(1000.0))), Step("Max", (1, np.array(1000.0))), Step("Sub", (2, np.array(1000.0)))),
        (Step("Mul", (0, np.array(3.0))), Step("Relu", (1,)), Step("Div", (2, np.array(3.0)))),
    ],
    ids=["clip", "relu, moved", "relu, scaled"],
)
def test_functions_that_select_but_are_written_otherwise_round(steps: tuple[Step, ...]) -> None:
    f = recognise(Program(steps))
    assert isinstance(f, Named) and not f.selects
    one = np.array([[1.0]])
    net = FeedForward((Neurons(one, np.zeros(1), f),), one, np.zeros(1))
    found = certify_ends(Pair.of(net, net, [np.array([0])]), BoxDomain(np.array([64.0]), np.array([127.0])), boxes=1)
    x = np.linspace(64.0, 127.0, 3001).astype(np.float32)
    values = [x]
    for step in steps:
        operands = [values[o] if isinstance(o, int) else np.float32(o) for o in step.operands]
        values.append(np.float32(ELEMENTWISE[step.op](operands, {})))
    assert np.all(np.abs(values[-1].astype(np.float64) - net(x[:, None].astype(np.float64))[:, 0]) <= found.rounding[0])


@pytest.mark.parametrize(
    ("dtype", "unit", "weights"),
    [(np.float16, 2.0**-11, (1e-3, 1e-3, 1e3)), (np.float32, 2.0**-24, (1e-30, 1e-14, 1e38))],
)
def test_what_underflows_counts(dtype: type, unit: float, weights: tuple[float, float, float]) -> None:
    first, second, last = (np.array([[float(dtype(w))]]) for w in weights)
    hidden = (Neurons(first, np.zeros(1), cases.RELU), Neurons(second, np.zeros(1), cases.RELU))
    net = FeedForward(hidden, last, np.zeros(1))
    low, high = np.array([0.5]), np.array([1.0])
    found = certify_ends(Pair.of(net, net, [np.array([0])] * 2), BoxDomain(low, high), unit=unit, boxes=1)
    x = np.linspace(0.5, 1.0, 1001).astype(dtype)[:, None]
    h = x
    for w in (first, second, last):
        h = (h * dtype(w[0, 0])).astype(dtype)
    assert np.all(np.abs(h.astype(np.float64) - net(x.astype(np.float64))) <= found.rounding)


def test_what_is_infinite_besides_hides_no_box() -> None:
    rng = np.random.default_rng(19)
    f = cases.functions(8, rng)["ThresholdedRelu"]
    pair = shrunk(network("plain", (2, 8, 8, 2), f, rng), rng, 0.1)
    one = np.eye(2)
    asked = Functions(np.concatenate([-one, one]), np.concatenate([one, -one]), np.full(4, -1e3))
    box = region(BoxDomain(-np.ones(2), np.ones(2)))
    nothing = Besides(lambda found: np.full((found.region.parts, 1), np.inf), np.zeros(1))
    alone, beside = (prove(pair, box, asked, Limits(60.0, 60), more) for more in (None, nothing))
    assert np.array_equal(alone.value, beside.value) and np.isinf(beside.besides).all()


def test_halving_boxes_lets_less_rounding_through() -> None:
    rng = np.random.default_rng(17)
    pair = shrunk(single(network("plain", (2, 20, 20, 20, 20, 2), cases.RELU, rng)), rng, 0.0)
    domain = BoxDomain(-20 * np.ones(2), 20 * np.ones(2))
    once, often = (certify_ends(pair, domain, np.random.default_rng(0), boxes=boxes) for boxes in (1, 1000))
    assert np.all(often.rounding <= once.rounding) and often.rounding.max() < 0.5 * once.rounding.max()


def as_single(net: FeedForward, x: np.ndarray) -> np.ndarray:
    h = x
    for number, (W, b) in enumerate(net.affine):
        h = h @ W.astype(np.float32).T + b.astype(np.float32)
        assert h.dtype == np.float32
        h = net.hidden[number].activation(h).astype(np.float32) if number < net.depth else h
    return h
