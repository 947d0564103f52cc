"""docker-compose.tls.yml: TLS on both sides of Envoy, tokens, and a new certificate under load."""

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers.load import MODEL, load
from containers.machine import ROOT, Machine, until
from containers.stack import Stack, stack, until_answered
from cryptography import x509

from forwardpass.client import Client, ServerUnavailableError, UnauthenticatedError

FILES = ("docker-compose.yml", "docker-compose.override.yml", "docker-compose.tls.yml")


@pytest.fixture(scope="module")
def certificates(host: Machine) -> Iterator[Path]:
    # In the checkout, since an engine may see no other folder of this machine.
    folder = ROOT / ".cache" / "containers" / "certificates"
    shutil.rmtree(folder, ignore_errors=True)
    host.run("deploy/certificates.sh", CERTIFICATES=str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def secured(host: Machine, certificates: Path) -> Iterator[Stack]:
    with stack(host, "forwardpass-tls", FILES, CERTIFICATES=str(certificates)) as made:
        with client(made, certificates) as known:
            until_answered(known)
        yield made


def client(stack: Stack, certificates: Path) -> Client:
    return Client(f"localhost:{stack.port}", tls=True, ca_file=certificates / "ca.pem")


def bearer(certificates: Path) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {(certificates / 'token').read_text().strip()}")]


def shown(stack: Stack, certificates: Path) -> x509.Certificate:
    """The certificate that a new connection to Envoy gets."""
    ca_file = str(certificates / "ca.pem")
    pem = ssl.get_server_certificate(("localhost", stack.port), ca_certs=ca_file)
    return x509.load_pem_x509_certificate(pem.encode())


def test_who_has_the_authority_and_a_token_is_answered(secured: Stack, certificates: Path) -> None:
    options: dict[str, Any] = {"ca_file": certificates / "ca.pem", "metadata": bearer(certificates)}
    with load(secured.port, retrying=False, **options) as calls:
        until(lambda: calls.answered + len(calls.failed) >= 100, within_s=60)
    calls.assert_none_failed(at_least=100)


def test_without_a_token_it_is_unauthenticated(secured: Stack, certificates: Path) -> None:
    with client(secured, certificates) as known, pytest.raises(UnauthenticatedError):
        known.predict(MODEL, [[0.0] * 30])


def test_plain_text_is_not_answered(secured: Stack) -> None:
    with (
        Client(f"localhost:{secured.port}", timeout_s=5) as plain,
        pytest.raises(ServerUnavailableError),
    ):
        plain.predict(MODEL, [[0.0] * 30])


def test_a_token_appended_as_documented_is_known_without_a_restart(
    host: Machine, secured: Stack, certificates: Path
) -> None:
    making = f"docker run --rm {host.settings['FORWARDPASS_IMAGE']} token web --models {MODEL}"
    # As in docs/deploy.md; what it says on stderr is the token.
    appending = f"tee -a {certificates / 'server' / 'tokens.jsonl'} >/dev/null"
    said = host.run("bash", "-c", f"{{ {making} | {appending}; }} 2>&1")
    token = said.strip().rpartition(" ")[2]
    options: dict[str, Any] = {"tls": True, "ca_file": certificates / "ca.pem", "token": token}
    with Client(f"localhost:{secured.port}", **options) as known:

        def answered() -> bool:
            try:
                # By each of the three.
                return all(known.predict(MODEL, [[0.0] * 30]) for _ in range(6))
            except UnauthenticatedError:
                return False

        until(answered, within_s=30)


def test_the_key_can_be_read_by_the_containers_user_alone(certificates: Path) -> None:
    key = (certificates / "server" / "key.pem").stat()
    assert (key.st_uid, key.st_mode & 0o777) == (10001, 0o400)


def test_a_new_certificate_is_taken_under_load_without_a_failed_call(
    host: Machine, secured: Stack, certificates: Path
) -> None:
    before = shown(secured, certificates)
    started = secured.servers()
    options: dict[str, Any] = {"ca_file": certificates / "ca.pem", "metadata": bearer(certificates)}
    with load(secured.port, retrying=True, **options) as calls:
        host.run("deploy/certificates.sh", CERTIFICATES=str(certificates))
        until(lambda: shown(secured, certificates) != before, within_s=60)
        after = calls.answered
        until(lambda: calls.answered >= after + 300, within_s=60)
    calls.assert_none_failed(at_least=300)
    # Nothing was started again for it, and the servers' own side is healthy with the new pair.
    assert secured.servers() == started
    until(lambda: secured.healthy() == 3, within_s=60)


def test_servers_are_replaced_only_by_servers_of_the_same_files(
    secured: Stack, certificates: Path
) -> None:
    before = set(secured.servers())
    with pytest.raises(AssertionError, match=f"run: export COMPOSE_FILE={':'.join(FILES)}"):
        secured.machine.run("deploy/roll.sh")
    assert set(secured.servers()) == before
    options: dict[str, Any] = {"ca_file": certificates / "ca.pem", "metadata": bearer(certificates)}
    with load(secured.port, retrying=True, **options) as calls:
        until(lambda: calls.answered >= 100, within_s=60)
        secured.machine.run("deploy/roll.sh", COMPOSE_FILE=":".join(FILES))
        after = calls.answered
        until(lambda: calls.answered >= after + 100, within_s=60)
    calls.assert_none_failed(at_least=200)
    assert len(secured.servers()) == 3
    assert not before & set(secured.servers())
