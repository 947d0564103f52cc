"""Checks that the connections of layers are feed-forward, in an order of computation."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from forwardpass.models.errors import NetworkError


def check_connections(inputs: Iterable[str], reads: Mapping[str, Sequence[str]]) -> None:
    """Raise NetworkError unless each layer reads only the input and layers before it.

    inputs: names of the input and its scalings. reads: names of the layers, in order, with the
    names that they read.
    """
    before = set(inputs)
    for name, sources in reads.items():
        for source in sources:
            if source not in before:
                raise _error(name, source, before, reads)
        before.add(name)


def _error(
    name: str, source: str, before: set[str], reads: Mapping[str, Sequence[str]]
) -> NetworkError:
    if source not in reads:
        available = ", ".join(sorted(before))
        return NetworkError(
            f"layer {name!r}",
            expected=f"to read earlier layers or the input ({available})",
            got=repr(source),
            fix="there is no layer of that name",
        )
    cycle = _path(source, name, reads)
    if cycle is None:
        return NetworkError(
            f"layer {name!r}",
            expected="to read layers that come before it",
            got=f"{source!r}, which comes later",
            fix=f"put {source!r} before {name!r}",
        )
    return NetworkError(
        f"layer {name!r}",
        expected="a network without cycles",
        got=" -> ".join([*cycle, name]),
        fix="a feed-forward network computes each layer once: remove one of these connections",
    )


def _path(start: str, goal: str, reads: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the shortest path of values from goal to start, including both, or None."""
    came_from: dict[str, str | None] = {start: None}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        if name == goal:
            path: list[str] = []
            step: str | None = name
            while step is not None:
                path.append(step)
                step = came_from[step]
            return path
        for source in reads.get(name, ()):
            if source not in came_from:
                came_from[source] = name
                queue.append(source)
    return None
