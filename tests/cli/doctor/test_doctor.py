"""`forwardpass doctor`: what it finds on real files, ports, certificates and installations."""

import json
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support import onnx_files
from support.certificates import write_self_signed
from support.command import Finished, run, run_here

from forwardpass.cli.doctor.certificates import validity

FREE = ("--port", "0")


def examine(*options: str | Path, **settings: object) -> tuple[Finished, dict[str, dict[str, str]]]:
    """Run it here; return how it ended, and its findings by what was looked at."""
    done = run_here("doctor", *FREE, *options, "--json")
    return done, {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_a_sound_installation_ends_with_0_and_says_what_there_is() -> None:
    done = run("doctor", *FREE, columns=80)
    assert (done.code, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "telemetry: off" in done.stdout
    assert "1 thread a run, spinning off, memory arena off" in done.stdout
    assert "CPU quota: " in done.stdout


def test_telemetry_that_the_environment_turns_on_is_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    done, found = examine()
    assert done.code == 0
    assert found["telemetry"]["verdict"] == "note"
    assert "ORT_DISABLE_TELEMETRY is '0'" in found["telemetry"]["found"]


def test_the_quota_is_the_cpus_that_a_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        _, found = examine()
    finally:
        os.sched_setaffinity(0, allowed)
    if (os.cpu_count() or 1) > 1:
        assert found["CPU quota"]["found"].startswith(f"1 of {os.cpu_count()} CPUs")


def test_a_port_that_is_taken_is_wrong_and_the_way_out_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_here("doctor", "--port", port)
    assert done.code == 1
    assert f"wrong  port {port}: 127.0.0.1: Address already in use" in done.stdout
    assert "-> end what listens there, or serve on another --port" in done.stdout
    assert "1 of " in done.error


def test_models_are_read_tried_run_and_reported_with_how_they_will_be_batched(
    tmp_path: Path,
) -> None:
    onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    onnx_files.save(onnx_files.identity("BYTES", ["batch", 1]), tmp_path / "texts.onnx")
    onnx_files.save(onnx_files.slow(), tmp_path / "slow.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    done, found = examine(tmp_path)
    assert done.code == 1
    linear = found["model linear version 1"]
    assert linear["verdict"] == "ok"
    assert linear["found"].startswith("plain: loaded without a trial; rows run together, up to ")
    assert "not batched: 'y' holds BYTES" in found["model texts version 1"]["found"]
    assert found["model slow version 1"]["verdict"] == "wrong"
    assert found["model broken version 1"]["verdict"] == "wrong"
    assert done.error.startswith("2 of ")


def test_a_path_without_models_is_wrong(tmp_path: Path) -> None:
    done, found = examine(tmp_path)
    assert done.code == 1
    assert found["models"]["verdict"] == "wrong"


# TLS files


def certificate(begin: timedelta, end: timedelta) -> bytes:
    """A certificate that is valid between two times from now, in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now + begin).not_valid_after(now + end)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("begin", "end", "verdict", "text"),
    [
        (-DAY, 400 * DAY, "ok", "valid until"),
        (-DAY, 3 * DAY, "note", "valid until"),
        (-9 * DAY, -DAY, "wrong", "expired on"),
        (DAY, 400 * DAY, "wrong", "valid from"),
        (-DAY, 20000 * DAY, "ok", "valid until 2"),
    ],
    ids=["for long", "ends soon", "expired", "not yet", "beyond 2050"],
)
def test_certificates_are_reported_with_their_end(
    tmp_path: Path, begin: timedelta, end: timedelta, verdict: str, text: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(certificate(begin, end))
    done, found = examine("--tls-client-ca", tmp_path / "ca.pem")
    assert found["CA of clients"]["verdict"] == verdict
    assert text in found["CA of clients"]["found"]
    assert done.code == (1 if verdict == "wrong" else 0)


def test_the_times_of_a_certificate_are_those_that_cryptography_reads() -> None:
    for years in (1, 20, 30, 60):
        pem = certificate(-DAY, timedelta(days=365 * years))
        read = x509.load_pem_x509_certificate(pem)
        expected = (read.not_valid_before_utc, read.not_valid_after_utc)
        assert validity(read.public_bytes(Encoding.DER)) == expected


def test_of_a_chain_the_certificate_that_ends_first_counts(tmp_path: Path) -> None:
    chain = certificate(-DAY, 400 * DAY) + certificate(-9 * DAY, -DAY)
    (tmp_path / "ca.pem").write_bytes(chain)
    _, found = examine("--tls-client-ca", tmp_path / "ca.pem")
    assert "expired on" in found["CA of clients"]["found"]


def test_a_key_of_another_certificate_is_wrong(tmp_path: Path) -> None:
    cert, key = write_self_signed(tmp_path)
    _, other = write_self_signed(tmp_path, "other_")
    _, found = examine("--tls-cert", cert, "--tls-key", key)
    assert found["key"]["verdict"] == "ok"
    done, found = examine("--tls-cert", cert, "--tls-key", other)
    assert (done.code, found["key"]["verdict"]) == (1, "wrong")
    _, found = examine("--tls-cert", cert)
    assert "give both --tls-cert and --tls-key" in found["TLS"]["fix"]


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END"])
def test_a_file_that_is_no_certificate_is_wrong(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ca.pem").write_bytes(content)
    _, found = examine("--tls-client-ca", tmp_path / "ca.pem")
    assert "no certificate in PEM form" in found["CA of clients"]["found"]
    _, found = examine("--tls-client-ca", tmp_path / "none.pem")
    assert "No such file" in found["CA of clients"]["found"]


# Installations


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds Forwardpass installed with other requirements."""
    from forwardpass.proto.version import __version__

    info = tmp_path / f"forwardpass-{__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: forwardpass\nVersion: {__version__}\n"
        "Requires-Dist: numpy>=999\nRequires-Dist: grpcio>=1\n"
        "Provides-Extra: data\nRequires-Dist: no-such-package>=1; extra == 'data'\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


def test_packages_below_our_bounds_are_wrong_and_extras_are_offered(
    installed: dict[str, str],
) -> None:
    done = run("doctor", *FREE, "--json", env=installed)
    assert done.code == 1
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert found["package numpy"]["verdict"] == "wrong"
    assert found["package numpy"]["fix"] == "pip install 'numpy>=999'"
    assert "expected >=999" in found["package numpy"]["found"]
    assert "grpcio" in found["packages"]["found"]
    assert found["extra 'data'"]["verdict"] == "note"
    assert "no-such-package" in found["extra 'data'"]["found"]
