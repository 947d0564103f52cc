"""What the benchmarks make of measurements: ratios, claims, changes, the document."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.field.claims import verdicts
from benchmarks.field.comparison import changes
from benchmarks.field.grid import Case
from benchmarks.field.page import page
from benchmarks.field.request import expected, request, rows
from benchmarks.field.results import Results
from benchmarks.networks import publish_all

from forwardpass.proto import inference_pb2 as pb

ROOT = Path(__file__).parents[2]
OURS, NAIVE, MLSERVER = "Forwardpass, grpcio", "naive grpcio", "MLServer"
SMALL, LARGE = Case("small", 1, 32), Case("large", 64, 32)
HALF = Case("small", 1, load="open 50 %")


def results(**ours: list[float]) -> Results:
    """A run of three rounds, in which the naive server's figures are 1 and ours are given."""
    records: list[dict[str, Any]] = []
    for round_ in range(3):
        for server in (OURS, NAIVE, MLSERVER):

            def value(name: str, server: str = server, round_: int = round_) -> float:
                return ours.get(name, [1.0] * 3)[round_] if server == OURS else 1.0

            common = {"server": server, "round": round_}
            start = {"start_s": value("start_s"), "resident_bytes": value("resident_bytes")}
            records.append({**common, "kind": "start", **start})
            for case in (SMALL, LARGE, HALF):
                figures = {
                    name: value(name) for name in ("calls_per_s", "cpu_us", "p50_us", "p99_us")
                }
                records.append({**common, "kind": "case", **asdict(case), **figures, "errors": {}})
    return Results(
        {
            "command": "python -m benchmarks.field",
            "machine": {"cores": 2},
            "versions": {OURS: {"onnxruntime": "1.0"}},
            "grid": {"rounds": 3, "repeats": 1},
            "records": records,
        }
    )


def test_ratios_are_of_measurements_of_the_same_turn() -> None:
    run = results(calls_per_s=[2.0, 4.0, 3.0])
    for record in run.records:
        # A minute in which everything was slow.
        if record["round"] == 1 and record["kind"] == "case":
            record["calls_per_s"] /= 10
    ratio = run.ratio(OURS, NAIVE, SMALL, "calls_per_s")
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2.0, 3.0, 4.0))


def test_a_measurement_with_an_error_counts_nowhere_but_as_an_error() -> None:
    run = results(calls_per_s=[2.0, 3.0, 100.0])
    for record in run.records:
        if record["server"] == OURS and record["round"] == 2 and record["kind"] == "case":
            record["errors"] = {"wrong answer": 1}
    figure = run.figure(OURS, SMALL, "calls_per_s")
    assert figure is not None
    assert figure.high == 3.0
    assert (OURS, "small, 1 rows, 32 callers", "1 x wrong answer") in run.errors()


def test_claims_hold_at_their_bounds_and_fail_beyond() -> None:
    at_bounds = results(
        calls_per_s=[4.0] * 3, cpu_us=[0.9] * 3, p99_us=[3.0] * 3, start_s=[1.25] * 3
    )
    assert [verdict.word for verdict in verdicts(at_bounds)] == ["pass"] * 6
    beyond = results(calls_per_s=[1.4] * 3, cpu_us=[0.91] * 3, p99_us=[3.1] * 3, start_s=[1.51] * 3)
    assert [verdict.word for verdict in verdicts(beyond)] == ["fail"] * 6


def test_what_was_not_measured_is_not_claimed() -> None:
    run = results()
    run.records[:] = [record for record in run.records if record["server"] == OURS]
    words = [verdict.word for verdict in verdicts(run)]
    assert words.count("not measured") == 4


def test_only_changes_beyond_the_spread_of_both_runs_are_told() -> None:
    earlier = results(cpu_us=[0.9, 1.0, 1.1], calls_per_s=[1.0, 1.0, 1.0])
    now = results(cpu_us=[1.05, 1.3, 1.5], calls_per_s=[1.2, 1.3, 1.4], p50_us=[1.01] * 3)
    told = {(change.what, change.metric, change.better) for change in changes(earlier, now)}
    assert {metric for _, metric, _ in told} == {"calls_per_s"}
    assert all(better for *_, better in told)
    worse = [change for change in changes(now, earlier) if not change.better]
    assert {change.metric for change in worse} == {"calls_per_s"}


def test_a_right_reply_is_the_runtimes_bit_for_bit(tmp_path: Path) -> None:
    file = publish_all(tmp_path)["small"]
    x = rows("small", 3)
    wanted = expected(file, x)
    reply = pb.ModelInferResponse(model_name="whatever", id="of its own")
    reply.raw_output_contents.extend(wanted.outputs)
    assert wanted.right(reply.SerializeToString())
    changed = bytearray(wanted.outputs[0])
    changed[0] ^= 1
    reply.raw_output_contents[0] = bytes(changed)
    assert not wanted.right(reply.SerializeToString())
    assert not wanted.right(b"")
    sent = pb.ModelInferRequest.FromString(request("small", x))
    np.testing.assert_array_equal(
        np.frombuffer(sent.raw_input_contents[0], "<f4").reshape(sent.inputs[0].shape), x
    )


def test_the_document_tells_every_figure_of_its_file() -> None:
    run = results(calls_per_s=[1234.0] * 3, start_s=[2.0, 2.5, 3.0])
    text = page(run, Path("benchmarks.json"), "images")
    assert "| 30-64-32-2 | 1 | 32 | 1,234 ±0 % | 1 ±0 % | 1 ±0 % |" in text
    assert "| 2.50 (2.00 to 3.00) | fail |" in text
    assert "Nothing: every answer was whole" in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quick_run_measures_and_writes(tmp_path: Path) -> None:
    file, document = tmp_path / "run.json", tmp_path / "docs" / "benchmarks.md"
    command = [sys.executable, "-m", "benchmarks.field", "--quick", "--json", file]
    command += ["--page", document, "--only", "naive", "--only", "forwardpass"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    run = Results(json.loads(file.read_text()))
    assert not run.errors()
    for server in run.servers():
        for case in run.cases():
            figure = run.figure(server, case, "cpu_us")
            assert figure is None or (figure.count >= 3 and figure.low > 0)
    assert {"echo", MLSERVER}.isdisjoint(run.servers())
    assert {OURS, NAIVE} <= set(run.servers())
    pictures = sorted(document.parent.glob("images/benchmarks/*.svg"))
    assert len(pictures) == 4
    assert all(picture.name in document.read_text() for picture in pictures)
