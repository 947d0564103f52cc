"""The document of a run: tables in Markdown, written from its file alone."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from benchmarks.documents import table
from benchmarks.field.claims import described, verdicts
from benchmarks.field.grid import CLOSED, Case
from benchmarks.field.plots import PLOTS
from benchmarks.field.results import Figure, Results
from benchmarks.networks import NETWORKS

_INTRODUCTION = """\
# Speed compared with other servers

Written by `{command}` from [{json}]({json}), which has every measurement; run it to measure on your
machine, `--server NAME=HOST:PORT,PID` adds a server of yours. A server runs on core 0, the load on
core 1 (with two cores, beside it), one server at a time, all with the same ONNX files over the same
protocol, as each serves by default. Each figure is the median of {measurements} turns, with half
the distance from the smallest to the largest in percent; a claim is the median of the ratios of
each turn. AxB: A connections, each with B calls in flight that wait for their answers; at half load
calls come at random times, and a latency counts from when its call was due. All replies are counted
by their bytes, some (at half load all) are compared bit for bit with onnxruntime's. naive is the
simplest server made of grpcio and onnxruntime; `frames` reads HTTP/2 frames and computes nothing.
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
        introduction,
        "## What holds\n\n" + claims_table(results),
        _pictures(images),
        "## CPU microseconds a call\n\n" + _case_table(results, servers, closed, "cpu_us"),
        "## Calls a second\n\n" + _case_table(results, servers, closed, "calls_per_s"),
        "## Latency, microseconds: p50, p99\n\n" + _latencies(results, servers, open_),
        "## Start and memory\n\n" + _starts(results, servers),
        "## Measurements that were not used\n\n" + _errors(results),
        "## Machine and versions\n\n" + _machine(results),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def claims_table(results: Results) -> str:
    """Return the claims with what was measured, as Markdown."""
    rows = [
        [
            verdict.claim.text,
            f"{'at least' if verdict.claim.at_least else 'at most'} {verdict.claim.bound:g}",
            _range(verdict.figure),
            verdict.word,
        ]
        for verdict in verdicts(results)
    ]
    return table(("ratio or time", "bound", "measured", "result"), rows)


def _pictures(images: str) -> str:
    return "".join(f"\n![{plot.title}]({images}/{plot.file})\n" for plot in PLOTS)


def _case_table(
    results: Results, servers: Sequence[str], cases: Sequence[Case], metric: str
) -> str:
    rows = [
        [described(case)]
        + [_written(results.figure(server, case, metric), 0) for server in servers]
        for case in cases
    ]
    return table(("network, rows, load", *servers), rows)


def _latencies(results: Results, servers: Sequence[str], cases: Sequence[Case]) -> str:
    def both(server: str, case: Case) -> str:
        p50, p99 = (results.figure(server, case, metric) for metric in ("p50_us", "p99_us"))
        return "" if p50 is None else f"{_written(p50, 0)}, {_written(p99, 0)}"

    measured = [
        server for server in servers if any(results.figure(server, c, "p50_us") for c in cases)
    ]
    rows = [[described(case), *(both(name, case) for name in measured)] for case in cases]
    return table(("network, rows, load", *measured), rows)


def _starts(results: Results, servers: Sequence[str]) -> str:
    def mebibytes(server: str, kind: str) -> str:
        figure = results.figure(server, kind, "resident_bytes")
        return "" if figure is None else f"{figure.median / 2**20:.0f}"

    rows = [
        [
            server,
            _written(results.figure(server, "start", "start_s"), 2),
            _written(results.figure(server, "start", "start_cpu_s"), 2),
            mebibytes(server, "start"),
            mebibytes(server, "after load"),
        ]
        for server in servers
        if results.figure(server, "start", "start_s") is not None
    ]
    return table(
        (
            "server",
            "first answer, s",
            "CPU until then, s",
            "memory then, MiB",
            "after the load, MiB",
        ),
        rows,
    )


def _errors(results: Results) -> str:
    rows = [[server, case, _one_line(text)] for server, case, text in results.errors()]
    if not rows:
        return "Nothing: every answer was whole, and every answer that was compared was right."
    return "Measurements with a failed or wrong answer are in no table above.\n\n" + table(
        ("server", "case", "what went wrong"), rows
    )


def _machine(results: Results) -> str:
    about = "; ".join(f"{name}: {value}" for name, value in results.data["machine"].items())
    found = "; ".join(
        f"{server}: {', '.join(f'{name} {number}' for name, number in packages.items())}"
        for server, packages in results.data["versions"].items()
    )
    return "\n\n".join(fill(text, 100, break_long_words=False) for text in (about, found))


def _place(case: Case) -> tuple[int, int, int, str]:
    return list(NETWORKS).index(case.network), case.rows, case.callers, case.load


def _written(figure: Figure | None, digits: int) -> str:
    if figure is None:
        return ""
    text = f"{figure.median:,.{digits}f}"
    return f"{text} ±{figure.spread * 100:.0f} %" if figure.count > 1 else f"{text} (once)"


def _range(figure: Figure | None) -> str:
    if figure is None:
        return ""
    digits = 2 if figure.median >= 0.1 else 3
    low, text, high = (f"{each:.{digits}f}" for each in (figure.low, figure.median, figure.high))
    return f"{text} ({low} to {high})" if figure.count > 1 else text


def _one_line(text: str) -> str:
    return " ".join(text.split())[:120].replace("|", "/")
