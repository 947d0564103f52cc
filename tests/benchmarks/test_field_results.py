"""What the benchmarks make of measurements: ratios, claims, changes, the document."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.field.claims import CLAIMS, Claim, Verdict, verdicts
from benchmarks.field.comparison import changes
from benchmarks.field.grid import (
    HALF_OF_OURS,
    HUGE,
    LARGE,
    MANY,
    ONE,
    SATURATING,
    SOME,
    SPREAD,
    Case,
    Grid,
)
from benchmarks.field.measure import measure
from benchmarks.field.page import page
from benchmarks.field.peers import ALONE, FRAMES, NAIVE, OURS, OURS_ON_TWO, Peer
from benchmarks.field.request import expected, nearly, request, rows
from benchmarks.field.results import Figure, Results
from benchmarks.networks import publish_all

from forwardpass.proto import inference_pb2 as pb

ROOT = Path(__file__).parents[2]
CASES = (ONE, SOME, MANY, SPREAD, LARGE, HUGE, SATURATING, HALF_OF_OURS)
ALL = (OURS, OURS_ON_TWO, NAIVE, FRAMES, "Triton")


def results(**ours: list[float]) -> Results:
    """A run of three rounds, in which all figures are 1 but those of ours that are given."""
    records: list[dict[str, Any]] = []
    for round_ in range(3):
        for server in ALL:

            def value(name: str, server: str = server, round_: int = round_) -> float:
                return ours.get(name, [1.0] * 3)[round_] if server == OURS else 1.0

            common = {"server": server, "round": round_}
            names = ("start_s", "start_cpu_s", "resident_bytes")
            records.append({**common, "kind": "start", **{name: value(name) for name in names}})
            for case in CASES:
                figures = {
                    name: value(name) for name in ("calls_per_s", "cpu_us", "p50_us", "p99_us")
                }
                records.append({**common, "kind": "case", **asdict(case), **figures, "errors": {}})
        alone = Case(HUGE.network, HUGE.rows, callers=1)
        record: dict[str, Any] = {"kind": "case", "server": ALONE, "round": round_, "errors": {}}
        records.append({**record, **asdict(alone), "calls_per_s": 1.0})
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
    ratio = run.ratio(OURS, NAIVE, SOME, "calls_per_s")
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2.0, 3.0, 4.0))


def test_a_measurement_with_an_error_counts_nowhere_but_as_an_error() -> None:
    run = results(calls_per_s=[2.0, 3.0, 100.0])
    for record in run.records:
        if record["server"] == OURS and record["round"] == 2 and record["kind"] == "case":
            record["errors"] = {"wrong answer": 1}
    figure = run.figure(OURS, SOME, "calls_per_s")
    assert figure is not None
    assert figure.high == 3.0
    assert (OURS, "small, 1 rows, 32 callers", "1 x wrong answer") in run.errors()


def test_claims_hold_at_their_bounds_and_fail_beyond() -> None:
    at_bounds = results(cpu_us=[0.028] * 3, p99_us=[0.12] * 3, start_cpu_s=[1.15] * 3)
    for record in at_bounds.records:
        if record["server"] == OURS_ON_TWO and record["kind"] == "case":
            record["calls_per_s"], record["cpu_us"] = 1.8, 0.028 * 1.1
    assert {verdict.word for verdict in verdicts(at_bounds)} == {"pass"}
    beyond = results(
        **dict.fromkeys(("cpu_us", "resident_bytes", "start_cpu_s"), [1.2] * 3),
        calls_per_s=[0.8] * 3,
        p99_us=[1.6] * 3,
    )
    failed = [verdict.claim.text for verdict in verdicts(beyond) if verdict.word[:4] == "fail"]
    # Of two processes over one, the one is slower still.
    assert len(failed) == len(CLAIMS) - 1


@pytest.mark.parametrize(
    ("floor", "why", "word"),
    [
        (None, "", "fail"),
        (1.9, "", "fail"),
        (1.9, "the kernel", "fail: the kernel"),
        (2.5, "", "fail: onnxruntime alone and `frames` have 2.50"),
        (2.5, "the kernel", "fail: onnxruntime alone and `frames` have 2.50; the kernel"),
    ],
)
def test_a_claim_that_fails_says_why(floor: float | None, why: str, word: str) -> None:
    claim = Claim("so many", 2.0, lambda _: Figure(3.0, 3.0, 3.0, 1), why=why)
    least = None if floor is None else Figure(floor, floor, floor, 1)
    assert Verdict(claim, claim.measured(results()), least).word == word


def test_a_foreign_triton_has_bounds_of_its_own() -> None:
    run = results(cpu_us=[0.1] * 3)
    assert len(list(verdicts(run))) == len(CLAIMS)
    run.data["foreign"] = ["Triton", "another"]
    beside = list(verdicts(run))[len(CLAIMS) :]
    assert [verdict.word for verdict in beside] == ["pass"] * 5
    assert all("Triton" in verdict.claim.text for verdict in beside)


def test_what_was_not_measured_is_not_claimed() -> None:
    run = results()
    run.records[:] = [record for record in run.records if record["server"] == OURS]
    assert {verdict.word for verdict in verdicts(run)} == {"not measured"}


def test_only_changes_beyond_the_spread_of_both_runs_are_reported() -> None:
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
    assert nearly(file, x).right(reply.SerializeToString())
    changed = bytearray(wanted.outputs[0])
    changed[0] ^= 1
    reply.raw_output_contents[0] = bytes(changed)
    assert not wanted.right(reply.SerializeToString())
    assert nearly(file, x).right(reply.SerializeToString())
    reply.raw_output_contents[0] = (np.frombuffer(wanted.outputs[0], "<f4") * 1.01).tobytes()
    assert not nearly(file, x).right(reply.SerializeToString())
    assert not wanted.right(b"")
    assert not nearly(file, x).right(b"")
    sent = pb.ModelInferRequest.FromString(request("small", x))
    np.testing.assert_array_equal(
        np.frombuffer(sent.raw_input_contents[0], "<f4").reshape(sent.inputs[0].shape), x
    )


def test_the_document_reports_every_figure_of_its_file() -> None:
    run = results(calls_per_s=[1234.0] * 3, start_cpu_s=[2.0, 2.5, 3.0])
    text = page(run, Path("benchmarks.json"), "images")
    assert "| 30-64-32-2, 1 row, 8x4 | 1,234 ±0 % | 1 ±0 % | 1 ±0 % | 1 ±0 % |" in text
    assert "| at most 0.15 | 1.50 (1.00 to 2.00) | fail |" in text
    assert "Nothing: every answer was whole" in text


def test_a_file_holds_what_the_document_needs(tmp_path: Path) -> None:
    run = results(calls_per_s=[1234.5678, 2.0, 1 / 3])
    run.records[1]["errors"] = {"wrong answer": 1}
    run.records.append({"kind": "failure", "server": "another", "round": 0, "error": "no start"})
    run.write(tmp_path / "run.json")
    again = Results.read(tmp_path / "run.json")
    assert page(again, Path("run.json"), "images") == page(run, Path("run.json"), "images")
    assert again.servers() == run.servers()
    assert again.errors() == run.errors()


def test_the_committed_document_is_that_of_its_file() -> None:
    file = ROOT / "docs" / "benchmarks.json"
    written = page(Results.read(file), file, "images/benchmarks")
    assert (ROOT / "docs" / "benchmarks.md").read_text() == written
    assert file.stat().st_size < 120_000


@pytest.mark.parametrize("text", ["T", "T=h:1", "T=h,5", "=h:1,5", "T=h:x,5", "T=h:1,x"])
def test_a_foreign_server_is_named_with_address_and_process(text: str) -> None:
    assert Peer.of("Triton 2=127.0.0.1:8001,77").foreign == ("127.0.0.1", 8001, 77)
    with pytest.raises(ValueError, match="expected NAME=HOST:PORT,PID"):
        Peer.of(text)


@pytest.mark.slow
def test_a_foreign_server_is_measured_and_left_running(tmp_path: Path) -> None:
    files = publish_all(tmp_path / "models")
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.servers.naive"]
    with subprocess.Popen(
        [*command, tmp_path / "models"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready, _, target = process.stdout.readline().strip().rpartition(" ")
            assert ready == "ready on"
            peer = Peer.of(f"theirs={target},{process.pid}")
            grid = Grid("one", (ONE,), (), rounds=3, repeats=1, seconds=0.05, open_seconds=0.05)
            found = measure(peer, files, grid, 0, lambda _: None, {})
            assert process.poll() is None
        finally:
            process.kill()
    case, after = found
    assert (case["kind"], case["server"], case["errors"]) == ("case", "theirs", {})
    assert case["cpu_us"] >= 0
    assert case["calls_per_s"] > 0
    assert after["kind"] == "after load"
    assert after["resident_bytes"] > 2**20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quick_run_measures_and_writes(tmp_path: Path) -> None:
    file, document = tmp_path / "run.json", tmp_path / "docs" / "benchmarks.md"
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.field", "--quick"]
    command += ["--json", file]
    command += ["--page", document, "--only", "naive", "--only", "forwardpass"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    run = Results.read(file)
    assert not run.errors()
    for server in run.servers():
        for case in run.cases():
            figure = run.figure(server, case, "cpu_us")
            assert figure is None or (figure.count >= 3 and figure.low > 0)
    assert {"echo", "MLServer"}.isdisjoint(run.servers())
    assert {OURS, NAIVE} <= set(run.servers())
    pictures = sorted(document.parent.glob("images/benchmarks/*.svg"))
    assert len(pictures) == 2
    assert all(picture.name in document.read_text() for picture in pictures)
