"""All checks in their order, shown as a table or as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwardpass.cli.doctor.certificates import check_tls
from forwardpass.cli.doctor.finding import Finding, Verdict
from forwardpass.cli.doctor.installation import check_installation
from forwardpass.cli.doctor.machine import check_cpus, check_port
from forwardpass.cli.errors import CommandError

_STYLES = {Verdict.FINE: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "red"}


def examine(
    path: Path | None,
    *,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    as_json: bool,
) -> None:
    """Check everything, show the findings.

    Raises CommandError, after they were shown, if anything is wrong.
    """
    findings = list(_findings(path, host, port, tls_cert, tls_key, tls_client_ca))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))  # noqa: T201
    else:
        _show(findings)
    count = sum(finding.verdict is Verdict.WRONG for finding in findings)
    if count:
        raise CommandError(
            f"{count} of {len(findings)} checks found something wrong; the lines with -> say what "
            "to change"
        )


def _findings(
    path: Path | None,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
) -> Iterator[Finding]:
    installed = list(check_installation())
    yield from installed
    yield check_cpus()
    yield check_port(host, port)
    yield from check_tls(tls_cert, tls_key, tls_client_ca)
    # These need onnxruntime: the checks before report it if it is missing.
    try:
        from forwardpass.cli.doctor.models import check_models
        from forwardpass.cli.doctor.runtime import check_runtime
    except ModuleNotFoundError as error:
        if (error.name or "forwardpass").startswith("forwardpass"):
            raise
        yield Finding(
            "server",
            Verdict.NOTE if path is None else Verdict.WRONG,
            f"cannot serve here: {error.name} is not installed",
            "pip install 'forwardpass[server]'",
        )
        return
    yield from check_runtime()
    if path is not None:
        yield from check_models(path)


def _show(findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        table.add_row(verdict, Text(f"{finding.what}: {finding.found}"))
        if finding.fix:
            table.add_row("", Text(f"-> {finding.fix}"))
    Console().print(table)
