"""The document of a run: tables in Markdown, written from its file alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

from benchmarks.documents import table
from benchmarks.field.claims import tail, verdicts
from benchmarks.field.grid import CLOSED, Case
from benchmarks.field.peers import ECHO, FRAMES
from benchmarks.field.plots import PLOTS
from benchmarks.field.results import Figure, Results
from benchmarks.networks import NETWORKS

_INTRODUCTION = """\
# Measured against the field

Written by `{command}` from [{json}]({json}); run it again to get yours. Servers have core 0, the
load core 1, one server at a time; all serve the same ONNX files over the same protocol. Each
figure is the median of {measurements} measurements, with half the way from the least to the most
in percent of it. Closed loops are h2load's, of callers that each wait for their answer; in open
loops calls come at random times at a share of the server's own maximum, and a call's latency
counts from the time at which it was due. Replies are counted by their bytes, and a sample (in
open loops all) is compared bit for bit with what onnxruntime answers alone, its `grpc-status`
included. `echo` is a grpcio server that returns its request: what grpcio itself costs; `frames`
reads HTTP/2's frames and answers nothing: what load and machine allow any server.
"""


def page(results: Results, json: Path, images: str) -> str:
    """Return the document; `images` is the folder of the plots as seen from it."""
    grid = results.data["grid"]
    introduction = _INTRODUCTION.format(
        command=results.data["command"],
        json=json.name,
        measurements=grid["rounds"] * grid["repeats"],
    )
    heading, text = introduction.split("\n\n", 1)
    introduction = f"{heading}\n\n{fill(text, 100, break_long_words=False)}\n"
    servers = results.servers()
    cases = sorted(results.cases(), key=_place)
    closed = [case for case in cases if case.load == CLOSED]
    open_ = [case for case in cases if case.load != CLOSED]
    sections = [
        introduction + _pictures(images),
        "## What has to hold\n\n" + claims_table(results) + _limit(results),
        "## Calls per second, closed loop\n\n"
        + _case_table(results, servers, closed, "calls_per_s"),
        "## CPU microseconds a call, closed loop\n\n"
        + _case_table(results, servers, closed, "cpu_us"),
        "## Latency at a share of the server's own maximum, microseconds\n\n"
        "The 50th and the 99th percentile.\n\n" + _latencies(results, servers, open_),
        "## Cold start and memory\n\n"
        "From the start of the process to the first right answer, with one model; resident\n"
        "memory of all of a server's processes then, and after the load with all models.\n\n"
        + _starts(results, servers),
        "## What was left out\n\n" + _errors(results),
        "## Machine and versions\n\n" + _machine(results),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def claims_table(results: Results) -> str:
    """Return the claims with what was measured, as Markdown."""
    rows = [
        [
            verdict.server,
            verdict.claim.text,
            f"{'at least' if verdict.claim.at_least else 'at most'} {verdict.claim.bound:g}",
            _range(verdict.figure),
            verdict.word,
        ]
        for verdict in verdicts(results)
    ]
    return table(("server", "ratio or time", "bound", "measured", ""), rows)


def _limit(results: Results) -> str:
    """Say how even the latencies are of servers that compute nothing, on this machine."""
    found = [(name, tail(results, name)) for name in (ECHO, FRAMES)]
    told = [f"of `{name}` {_range(figure)}" for name, figure in found if figure is not None]
    if not told:
        return ""
    return f"\n\np99 over p50 at half load, of servers that compute nothing: {', '.join(told)}."


def _pictures(images: str) -> str:
    return "".join(f"\n![{plot.title}]({images}/{plot.file})\n" for plot in PLOTS)


def _case_table(
    results: Results, servers: Sequence[str], cases: Sequence[Case], metric: str
) -> str:
    rows = [
        [*_named(case), str(case.callers)]
        + [_written(results.figure(server, case, metric), 0) for server in servers]
        for case in cases
    ]
    return table(("network", "rows", "callers", *servers), rows)


def _latencies(results: Results, servers: Sequence[str], cases: Sequence[Case]) -> str:
    def both(server: str, case: Case) -> str:
        p50, p99 = (results.figure(server, case, metric) for metric in ("p50_us", "p99_us"))
        return "" if p50 is None else f"{_written(p50, 0)}, {_written(p99, 0)}"

    measured = [
        server for server in servers if any(results.figure(server, c, "p50_us") for c in cases)
    ]
    rows = [
        [*_named(case), case.load.removeprefix("open "), *(both(name, case) for name in measured)]
        for case in cases
    ]
    return table(("network", "rows", "load", *measured), rows)


def _starts(results: Results, servers: Sequence[str]) -> str:
    def mebibytes(server: str, kind: str) -> str:
        figure = results.figure(server, kind, "resident_bytes")
        return "" if figure is None else f"{figure.median / 2**20:.0f}"

    rows = [
        [
            server,
            _written(results.figure(server, "start", "start_s"), 2),
            mebibytes(server, "start"),
            mebibytes(server, "after load"),
        ]
        for server in servers
        if results.figure(server, "start", "start_s") is not None
    ]
    return table(("server", "start, s", "memory then, MiB", "memory after load, MiB"), rows)


def _errors(results: Results) -> str:
    rows = [[server, case, _one_line(text)] for server, case, text in results.errors()]
    if not rows:
        return "Nothing: every answer was whole, and every answer that was compared was right."
    return "Measurements with a failed or wrong answer count nowhere above.\n\n" + table(
        ("server", "case", "what went wrong"), rows
    )


def _machine(results: Results) -> str:
    parts = [[name, str(value)] for name, value in results.data["machine"].items()]
    environments = [
        [server, ", ".join(f"{name} {number}" for name, number in found.items())]
        for server, found in results.data["versions"].items()
    ]
    return table(("", ""), parts) + "\n\n" + table(("server", "environment"), environments)


def _place(case: Case) -> tuple[int, int, int, str]:
    return list(NETWORKS).index(case.network), case.rows, case.callers, case.load


def _named(case: Case) -> Iterator[str]:
    yield "-".join(map(str, NETWORKS[case.network].sizes))
    yield f"{case.rows:,}"


def _written(figure: Figure | None, digits: int) -> str:
    if figure is None:
        return ""
    text = f"{figure.median:,.{digits}f}"
    return f"{text} ±{figure.spread * 100:.0f} %" if figure.count > 1 else f"{text} (once)"


def _range(figure: Figure | None) -> str:
    if figure is None:
        return ""
    text = f"{figure.median:.2f}"
    return f"{text} ({figure.low:.2f} to {figure.high:.2f})" if figure.count > 1 else text


def _one_line(text: str) -> str:
    return " ".join(text.split())[:120].replace("|", "/")
