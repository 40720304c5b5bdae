"""Model-local functions: how deep their calls go, and how many nodes they stand for.

Whoever runs or inlines a model replaces each call by the nodes of its function, and recurses: calls in a circle, or a
thousand functions deep, end a process, and twofold calls on each of thirty levels take for ever. Such a model is
refused before anybody is given it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from onnx_coreset.errors import ModelError

__all__ = ["MANY_CALLED", "check_calls"]

_DEEPEST = 100
_MOST = 1 << 17
# ONNX Runtime takes seconds to load as many, and four times as long for twice as many.
MANY_CALLED = 1 << 13

_Key = tuple[str, str, str]


def check_calls(model: onnx.ModelProto) -> int:
    """Check that the calls of model-local functions end, and soon.

    Args:
        model: Any model.

    Returns:
        How many nodes the calls in the main graph stand for.

    Raises:
        ModelError: A function calls itself, calls are too deep, or they stand for too many nodes.
    """
    if not model.functions:
        return 0
    bodies = {(f.domain, f.name, f.overload): f for f in model.functions}
    called = {key: [k for node in _nodes(f.node) if (k := _key(node)) in bodies] for key, f in bodies.items()}
    own = {key: sum(1 for _ in _nodes(f.node)) for key, f in bodies.items()}
    sizes, depths = dict[_Key, int](), dict[_Key, int]()
    for key in _innermost_first(called):
        sizes[key] = own[key] + sum(sizes[inner] for inner in called[key])
        depths[key] = 1 + max((depths[inner] for inner in called[key]), default=0)
        if depths[key] > _DEEPEST:
            raise ModelError(
                f"calls of functions are more than {_DEEPEST} deep, down from {key[1]!r}: "
                "inline them with the exporter, and export the model again"
            )
    met = [key for node in _nodes(model.graph.node) if (key := _key(node)) in bodies]
    total = sum(sizes[key] for key in met)
    if total > _MOST:
        worst = max(met, key=lambda key: sizes[key])
        raise ModelError(
            f"the functions of the model stand for more than {_MOST} nodes, {worst[1]!r} alone for {sizes[worst]:.3g}: "
            "export the model again"
        )
    return total


def _key(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those of the graphs in them."""
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [attribute.g.node] if attribute.HasField("g") else []
                waiting += [graph.node for graph in attribute.graphs]


def _innermost_first(called: Mapping[_Key, list[_Key]]) -> Iterator[_Key]:
    """Yield functions, each after those that it calls."""
    done, path = set[_Key](), dict[_Key, Iterator[_Key]]()
    for start in called:
        if start not in done:
            path[start] = iter(called[start])
        while path:
            key, inner = next(reversed(path.items()))
            following = next((k for k in inner if k not in done), None)
            if following is None:
                path.popitem()
                done.add(key)
                yield key
            elif following in path:
                raise ModelError(f"the function {following[1]!r} calls itself, which ONNX does not allow")
            else:
                path[following] = iter(called[following])
