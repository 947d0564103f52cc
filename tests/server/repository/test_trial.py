"""The trial: what a model does to its process, and that nothing of it reaches this one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper
from support import hostile_files, onnx_files
from support.hostile_files import GENERAL, HARMFUL, MEMORY_BYTES
from support.onnx_files import build, save, tensor
from support.proc import children, resident_mib
from support.trials import bytes_of, try_file

from forwardpass.proto import metadata
from forwardpass.server.guard import GuardError, Limits, check_file
from forwardpass.server.repository.trial import Trial, TrialError

DEADLINE_S = 0.5


@pytest.fixture(scope="module")
def shared() -> Iterator[Trial]:
    with Trial(memory_bytes=MEMORY_BYTES, cpu_s=DEADLINE_S) as trial:
        yield trial


@pytest.fixture(scope="module")
def patient() -> Iterator[Trial]:
    """For what passes: the first file of some kinds imports onnx, which counts as its time."""
    with Trial(memory_bytes=MEMORY_BYTES) as trial:
        yield trial


def admit(path: Path, trial: Trial, *, general: bool = False) -> None:
    """What a server does with a file before it loads it itself."""
    checked = check_file(path, root=path.parent, limits=Limits(general=general))
    with checked.content as content:
        if not checked.plain:
            trial.run(path, content, general=general)


def good(folder: Path) -> Path:
    return save(onnx_files.pick(), folder / "good.onnx")


def long(folder: Path) -> Path:
    return save(hostile_files.loops_long(), folder / "long.onnx")


def only_child(before: set[int]) -> int:
    (pid,) = children(os.getpid()) - before
    return pid


@pytest.mark.parametrize("general", [False, True], ids=["", "general"])
@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_file_ends_in_a_reason_in_time_and_takes_no_memory_here(
    name: str, general: bool, shared: Trial, tmp_path: Path
) -> None:
    path = HARMFUL[name](tmp_path)
    before, start = resident_mib(), time.monotonic()

    with pytest.raises((GuardError, TrialError), match=r"\w+ \w+"):
        admit(path, shared, general=general)

    # In time for whoever waits, on a busy machine too.
    assert time.monotonic() - start < DEADLINE_S + 30
    assert resident_mib() - before < 50
    # And the next one is tried as if nothing had been.
    try_file(shared, good(tmp_path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "allocates more than it may in a run",
            "answering its samples, or a row where it has none, took more than 128 MiB of memory",
        ),
        # So much in pieces may take longer than the deadline of these tests.
        ("widens a row to two megabytes", "running many rows at once took"),
        (
            "a loop of many turns",
            "answering its samples, or a row where it has none, took longer than 0.5 s of CPU time",
        ),
    ],
)
def test_the_reason_reports_what_it_did_and_when(
    name: str, reason: str, shared: Trial, tmp_path: Path
) -> None:
    with pytest.raises(TrialError) as failed:
        try_file(shared, HARMFUL[name](tmp_path), general=True)

    assert str(failed.value).startswith(reason)
    # Its own maximum of memory is the same another time.
    assert failed.value.may_pass == ("CPU time" in str(failed.value))


def test_loading_too_long_is_the_reason_where_there_is_memory_enough(tmp_path: Path) -> None:
    # What it computes within a second on a fast machine is beyond the small limit of the others.
    with Trial(memory_bytes=2**33, cpu_s=DEADLINE_S) as trial:
        with pytest.raises(TrialError) as failed:
            try_file(trial, HARMFUL["loads long"](tmp_path), general=True)

    assert str(failed.value) == (
        "loading it took longer than 0.5 s of CPU time; have the operator raise --trial-s if it may"
    )


@pytest.mark.parametrize("name", GENERAL)
def test_general_models_pass_where_they_are_allowed(
    name: str, patient: Trial, tmp_path: Path
) -> None:
    path = GENERAL[name](tmp_path)

    with pytest.raises((GuardError, TrialError), match="--general-models"):
        admit(path, patient)
    admit(path, patient, general=True)


@pytest.mark.parametrize("make", [onnx_files.pick, onnx_files.fold, onnx_files.linear])
def test_a_good_model_passes(
    make: Callable[[], ModelProto], patient: Trial, tmp_path: Path
) -> None:
    try_file(patient, save(make(), tmp_path / "model.onnx"))


def test_integers_may_be_divided_by_what_is_not_minus_1(patient: Trial, tmp_path: Path) -> None:
    nodes = [
        # Nothing that is known to be plain gives the dividend.
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Div", ["shape", "two"], ["y"]),
    ]
    inputs, outputs = [tensor("x", "FP32", ["n"])], [tensor("y", "INT64", [1])]
    for divisor, passes in ((2, True), (-1, False)):
        model = build(nodes, inputs, outputs, constants={"two": np.array([divisor])})
        path = save(model, tmp_path / "model.onnx")
        if passes:
            try_file(patient, path)
        else:
            with pytest.raises(TrialError, match=r"constants other than -1"):
                try_file(patient, path)


def test_wrong_samples_and_refusals_of_onnxruntime_are_reasons_too(
    patient: Trial, tmp_path: Path
) -> None:
    x = np.ones((1, 3), np.float32)
    samples = metadata.Samples({"x": x}, {"y": x[:, :2]}, {"y": 1e-6})
    wrong = onnx_files.linear({metadata.SAMPLES: samples.dump()})
    for model, reason in (
        (wrong, "of its samples: expected 1 within 1e-06, got 6.5"),
        (onnx_files.sequence(), "which the Open Inference Protocol cannot carry"),
    ):
        with pytest.raises(TrialError, match=reason):
            try_file(patient, save(model, tmp_path / "model.onnx"))


def test_one_process_serves_many_trials_until_it_has_had_enough(tmp_path: Path) -> None:
    path, before = good(tmp_path), children(os.getpid())
    with Trial(trials_each=3) as trial:
        assert children(os.getpid()) == before, "it starts with the first trial"
        pids = []
        for _ in range(6):
            try_file(trial, path)
            pids.append(only_child(before))

    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] == pids[5]
    assert children(os.getpid()) == before


def test_a_model_that_is_refused_leaves_the_process_to_the_next(tmp_path: Path) -> None:
    before = children(os.getpid())
    with Trial() as trial:
        with pytest.raises(TrialError):
            try_file(trial, save(onnx_files.sequence(), tmp_path / "model.onnx"))
        first = only_child(before)
        try_file(trial, good(tmp_path))
        assert only_child(before) == first


def test_a_trial_loads_the_bytes_that_were_checked_whatever_the_file_is_now(
    patient: Trial, tmp_path: Path
) -> None:
    path = good(tmp_path)
    with bytes_of(path) as content:
        # Swapped between the check and the trial.
        saved_anew = save(onnx_files.sequence(), tmp_path / ".new")
        saved_anew.replace(path)
        patient.run(path, content)

    with pytest.raises(TrialError, match="cannot carry"):
        try_file(patient, path)


def test_time_that_others_take_does_not_count(tmp_path: Path) -> None:
    """Stopped for longer than its CPU time may be, as on a machine that is busy."""
    before = children(os.getpid())
    with Trial(cpu_s=0.5) as trial:
        try_file(trial, good(tmp_path))
        pid = only_child(before)
        os.kill(pid, signal.SIGSTOP)
        again = threading.Timer(1.5, os.kill, (pid, signal.SIGCONT))
        again.start()
        try_file(trial, good(tmp_path))
        again.join()
        assert only_child(before) == pid


def test_a_trial_that_waits_for_ever_ends_too_and_may_pass_another_time(tmp_path: Path) -> None:
    before = children(os.getpid())
    with Trial(cpu_s=60, time_s=0.5) as trial:
        with pytest.raises(TrialError) as failed:
            try_file(trial, long(tmp_path), general=True)
        assert failed.value.may_pass
        assert str(failed.value) == (
            "answering its samples, or a row where it has none, took longer than 0.5 s, on a "
            "machine that is busy"
        )
        assert children(os.getpid()) == before


def test_memory_that_the_machine_lacks_may_be_there_another_time(tmp_path: Path) -> None:
    """Within a limit on all that the process of a trial has, as a container's is."""
    program = LITTLE.format(limit=2**28)
    path = HARMFUL["allocates more than it may in a run"](tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )

    may_pass, reason = done.stdout.split(" ", 1)
    assert may_pass == "True"
    assert "MiB of memory; all that is left to a trial, which may take 1024 MiB" in reason


LITTLE = """
import resource, sys
from pathlib import Path
from forwardpass.server.guard.files import read_model
from forwardpass.server.repository.trial import Trial, TrialError

resource.setrlimit(resource.RLIMIT_DATA, ({limit},) * 2)
path = Path(sys.argv[1])
with Trial() as trial:
    try:
        trial.run(path, read_model(path, None, 2**20), general=True)
    except TrialError as error:
        print(error.may_pass, error)
"""


def test_a_process_that_the_system_ends_may_not_be_ended_another_time(tmp_path: Path) -> None:
    """As the kernel does where memory runs out; it takes a trial before a server."""
    path, before = long(tmp_path), children(os.getpid())
    with Trial(cpu_s=60) as trial:
        try_file(trial, good(tmp_path))
        pid = only_child(before)
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        idle_s = _cpu_s(pid)

        def kill() -> None:
            while _cpu_s(pid) < idle_s + 0.2:
                time.sleep(0.02)
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(TrialError, match=r"\(SIGKILL\)") as failed:
            try_file(trial, path, general=True)
        killer.join()

    assert failed.value.may_pass


def test_a_process_that_takes_too_long_is_replaced_and_leaves_no_zombie(tmp_path: Path) -> None:
    path, before = long(tmp_path), children(os.getpid())
    with Trial(cpu_s=0.5) as trial:
        with pytest.raises(TrialError):
            try_file(trial, path, general=True)
        assert children(os.getpid()) == before
        try_file(trial, good(tmp_path))


def test_a_process_that_a_model_crashes_is_a_reason_and_replaced(tmp_path: Path) -> None:
    """In the place of a file that crashes onnxruntime, the signal comes of this process."""
    path, before = long(tmp_path), children(os.getpid())
    with Trial(cpu_s=60) as trial:
        try_file(trial, good(tmp_path))
        pid = only_child(before)
        idle_s = _cpu_s(pid)

        def crash() -> None:
            while _cpu_s(pid) < idle_s + 0.3:
                time.sleep(0.02)
            os.kill(pid, signal.SIGFPE)

        killer = threading.Thread(target=crash)
        killer.start()
        with pytest.raises(TrialError) as failed:
            try_file(trial, path, general=True)
        killer.join()

        assert str(failed.value) == (
            "answering its samples, or a row where it has none, ended the process of its trial "
            "(SIGFPE)"
        )
        assert children(os.getpid()) == before
        try_file(trial, good(tmp_path))


def test_a_process_that_dies_between_trials_is_replaced(tmp_path: Path) -> None:
    before = children(os.getpid())
    with Trial() as trial:
        try_file(trial, good(tmp_path))
        os.kill(only_child(before), signal.SIGKILL)
        time.sleep(0.1)
        try_file(trial, good(tmp_path))


def test_it_may_be_closed_and_used_again(tmp_path: Path) -> None:
    before = children(os.getpid())
    trial = Trial()
    for _ in range(2):
        try_file(trial, good(tmp_path))
        trial.close()
        trial.close()
        assert children(os.getpid()) == before


def test_trials_of_several_threads_take_turns(tmp_path: Path) -> None:
    bad = save(onnx_files.sequence(), tmp_path / "sequence.onnx")
    before = children(os.getpid())
    passed: list[Path] = []
    failed: list[Path] = []

    def run(path: Path) -> None:
        for _ in range(10):
            try:
                try_file(trial, path)
                passed.append(path)
            except TrialError:
                failed.append(path)

    with Trial() as trial:
        paths = [good(tmp_path), bad] * 4
        threads = [threading.Thread(target=run, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        only_child(before)

    assert passed == [good(tmp_path)] * 40
    assert failed == [bad] * 40


def test_what_a_model_prints_is_not_taken_for_a_reply(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime warns on stderr about a shape that is not the declared one."""
    model = onnx_files.pick()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 7
    with Trial() as trial:
        try_file(trial, save(model, tmp_path / "model.onnx"))

    assert capfd.readouterr() == ("", "")


PARENT = """
import os, sys, threading
from pathlib import Path
from forwardpass.server.guard.files import read_model
from forwardpass.server.repository.trial import Trial

path = Path(sys.argv[1])
trial = Trial(cpu_s=60)
args = path, read_model(path, None, 2**20)
threading.Thread(target=trial.run, args=args, kwargs={"general": True}).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_server_in_the_middle_of_a_trial(
    end: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PARENT, str(long(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as parent:
        deadline = time.monotonic() + 20
        while not (tried := children(parent.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        (pid,) = tried
        # Until its trial runs.
        while _cpu_s(pid) < 0.8 and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.send_signal(end)

    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("python", "reason"),
    [("/nowhere/python", "can be started"), ("/bin/false", "does not start")],
)
def test_a_process_that_does_not_start_is_a_reason(
    python: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children(os.getpid())
    with Trial() as trial:
        with monkeypatch.context() as without:
            without.setattr(sys, "executable", python)
            with pytest.raises(TrialError, match=reason):
                try_file(trial, good(tmp_path))
        assert children(os.getpid()) == before
        try_file(trial, good(tmp_path))


def test_a_folder_of_modules_is_not_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)

    with Trial() as trial:
        try_file(trial, good(tmp_path))
