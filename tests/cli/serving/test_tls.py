"""TLS from the command line, server and caller."""

from pathlib import Path

import pytest
from support.certificates import write_self_signed
from support.command import Finished, run, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    write_self_signed(folder)
    write_self_signed(folder, "client_")
    (folder / "rows.csv").write_text("1,10\n")
    return folder


def predict(folder: Path, target: str, *options: str) -> Finished:
    command = ("predict", "adder", "--input", "rows.csv", "--target", target)
    return run(*command, *options, cwd=folder)


def test_a_caller_that_trusts_the_certificate_is_answered(folder: Path, repository: Path) -> None:
    pair = ("--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem")
    with serving(repository, "--port", "0", *pair) as server:
        assert predict(folder, server.target, "--ca-file", "cert.pem").code == 0
        for options in ((), ("--tls",), ("--ca-file", "client_cert.pem")):
            done = predict(folder, server.target, "--timeout-s", "5", *options)
            assert done.code == 1
            assert "both use TLS or neither" in done.stderr.splitlines()[-1]
            assert "Traceback" not in done.stderr


def test_mutual_tls_answers_who_brings_a_certificate(folder: Path, repository: Path) -> None:
    pair = ("--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem")
    authority = ("--tls-client-ca", folder / "client_cert.pem")
    with serving(repository, "--port", "0", *pair, *authority) as server:
        trust = ("--ca-file", "cert.pem", "--timeout-s", "5")
        own = ("--cert-file", "client_cert.pem", "--key-file", "client_key.pem")
        assert predict(folder, server.target, *trust, *own).code == 0
        assert predict(folder, server.target, *trust).code == 1
