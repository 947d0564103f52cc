"""`forwardpass status`."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from forwardpass.client import Client, ClientError, ModelNotFoundError, UnimplementedError
from forwardpass.client.served import ModelState, ModelStatistics

READY = "READY"

_NAME_WIDTH = 13
_RATE = "calls/s"
_FIGURES = ("calls", "failed", "rows", "batch", "wait", "run", "call", _RATE)
"""Headings: batch is rows a run; wait, run and call are means in microseconds."""


@dataclass(frozen=True, slots=True)
class Version:
    """The state and the statistics of one version of one model."""

    state: ModelState
    statistics: ModelStatistics | None = None
    """Statistics; None where the server reports none."""


@dataclass(frozen=True, slots=True)
class Look:
    """The state of a server at one moment."""

    target: str
    server: str
    """Name and version of the server; empty where it reports none."""
    ready: bool
    versions: tuple[Version, ...]
    notes: tuple[str, ...]
    """The methods that the server does not offer, with a fix for each."""
    seen_s: float = field(default_factory=time.monotonic)


def show_status(
    client: Client, models: Sequence[str], *, every_s: float | None, as_json: bool
) -> None:
    """Show what a server says of these models, or of all; every_s: again and again.

    Raises ClientError if the server does not answer, or knows none of that name.
    """
    looks = _looks(client, models, every_s)
    if as_json:
        for look in looks:
            print(json.dumps(_plain(look)), flush=True)  # noqa: T201 - read by programs
        return
    console = Console()
    if every_s is None or not console.is_terminal:
        before = None
        for look in looks:
            console.print(_shown(look, before))
            before = look
        return
    with Live(console=console, auto_refresh=False, screen=sys.stdout.isatty()) as live:
        before = None
        for look in looks:
            live.update(_shown(look, before), refresh=True)
            before = look


def _looks(client: Client, models: Sequence[str], every_s: float | None) -> Iterator[Look]:
    yield _look(client, models)
    while every_s is not None:
        time.sleep(every_s)
        yield _look(client, models)


def _look(client: Client, models: Sequence[str]) -> Look:
    notes: list[str] = []
    # The one call that every server has: its error is final.
    ready = client.ready()
    try:
        spec = client.server_metadata()
        server = f"{spec.name} {spec.version}".strip()
    except UnimplementedError:
        server = ""
        notes.append("it does not report its name (no ServerMetadata)")
    states = _states(client, models, notes)
    statistics = _statistics(client, models, notes)
    versions = tuple(
        Version(state, statistics.get((state.name, state.version))) for state in states
    )
    return Look(client.target, server, ready, versions, tuple(notes))


def _states(client: Client, models: Sequence[str], notes: list[str]) -> list[ModelState]:
    try:
        index = client.index()
    except UnimplementedError:
        if not models:
            notes.append("it does not list its models (no RepositoryIndex); name them by --model")
        return [state for name in models for state in _asked(client, name)]
    for name in models:
        if name not in {state.name for state in index}:
            known = ", ".join(sorted({state.name for state in index})) or "none"
            raise ModelNotFoundError(
                f"model {name!r} not found; the server lists {known}",
                target=client.target,
                model=name,
            )
    shown = [state for state in index if not models or state.name in models]
    return sorted(shown, key=lambda state: (state.name, len(state.version), state.version))


def _asked(client: Client, name: str) -> list[ModelState]:
    """Ask for one model, where the server has no list."""
    spec = client.metadata(name)
    return [
        ModelState(
            name=name,
            version=version,
            state=READY if client.model_ready(name, version) else "UNAVAILABLE",
            reason="",
        )
        for version in spec.versions or ("",)
    ]


def _statistics(
    client: Client, models: Sequence[str], notes: list[str]
) -> dict[tuple[str, str], ModelStatistics]:
    found: list[ModelStatistics] = []
    try:
        for name in models or ("",):
            found += client.statistics(name)
    except UnimplementedError:
        notes.append("it does not count calls (no ModelStatistics)")
    except ClientError as error:
        # A model that is listed but not loaded has none; servers differ in how they report that.
        notes.append(f"no counts: {error.details}")
    return {(each.name, each.version): each for each in found}


def _shown(look: Look, before: Look | None) -> Group:
    """Return the table: counts since the models were loaded, means since the look before."""
    ready = "ready" if look.ready else "not ready"
    title = f"{look.target}: {look.server or 'a server'}, {ready}"
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold", min_width=_NAME_WIDTH)
    table.add_column("ver", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in _FIGURES:
        if heading != _RATE or before is not None:
            table.add_column(heading, justify="right", no_wrap=True)
    earlier = {} if before is None else {_key(version): version for version in before.versions}
    for version in look.versions:
        state = version.state
        figures = _figures(version, earlier.get(_key(version)), look, before)
        texts = (Text(state.name), Text(state.version), Text(state.state))
        table.add_row(*texts, *figures[: len(table.columns) - len(texts)])
    reasons = [
        f"{version.state.name} {version.state.version}: {version.state.reason}"
        for version in look.versions
        if version.state.reason
    ]
    lines = map(Text, (*reasons, *look.notes))
    return Group(Text(title), *([table] if look.versions else []), *lines)


def _key(version: Version) -> tuple[str, str]:
    return version.state.name, version.state.version


def _figures(
    version: Version, earlier: Version | None, look: Look, before: Look | None
) -> list[str]:
    now = version.statistics
    if now is None:
        return [""] * len(_FIGURES)
    then = None if earlier is None else earlier.statistics
    recent = now if then is None else _since(then, now)
    rate = ""
    if before is not None and then is not None:
        rate = f"{recent.answered / (look.seen_s - before.seen_s):,.0f}"
    return [
        f"{now.answered:,}",
        f"{now.failed:,}",
        f"{now.rows:,}",
        _ratio(recent.rows, recent.runs, 1),
        *(
            _ratio(ns / 1000, recent.answered, 0)
            for ns in (recent.queue_ns, recent.compute_ns, recent.total_ns)
        ),
        rate,
    ]


def _since(then: ModelStatistics, now: ModelStatistics) -> ModelStatistics:
    """Return the difference; all of `now` for a model that was loaded again in between."""
    counters = ("answered", "failed", "rows", "runs", "total_ns", "queue_ns", "compute_ns")
    added = {name: getattr(now, name) - getattr(then, name) for name in counters}
    return now if min(added.values()) < 0 else replace(now, **added)


def _ratio(total: float, count: int, digits: int) -> str:
    return f"{total / count:,.{digits}f}" if count else ""


def _plain(look: Look) -> dict[str, object]:
    """Return a look for JSON; times are means since the model was loaded."""
    return {
        "target": look.target,
        "server": look.server,
        "ready": look.ready,
        "models": [
            asdict(version.state)
            | {"statistics": None if version.statistics is None else asdict(version.statistics)}
            for version in look.versions
        ],
        "notes": list(look.notes),
    }
