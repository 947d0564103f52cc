"""`forwardpass predict`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from forwardpass.cli.answers import check_output, write_prediction
from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.rows import read_rows
from forwardpass.client import Client, ModelSpec
from forwardpass.proto import metadata
from forwardpass.proto.spec import TensorSpec


def connect(
    target: str,
    *,
    timeout_s: float,
    tls: bool,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
) -> Client:
    """Return a client as the options say; a file of certificates implies TLS.

    Raises UsageError for options that contradict each other.
    """
    given = any(file is not None for file in (ca_file, cert_file, key_file))
    try:
        return Client(
            target,
            tls=tls or given,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            timeout_s=timeout_s,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def predict_file(
    client: Client,
    model: str,
    input_file: Path,
    output_file: Path | None,
    *,
    version: str,
    select: Sequence[str] | None,
) -> None:
    """Send the rows of a file, write the outputs.

    Raises CommandError for files that cannot be read or written as asked, ClientError for
    what the server or the check before it refuses.
    """
    if output_file is not None:
        check_output(output_file)
    spec = client.metadata(model, version)
    source = _only_input(model, spec)
    features = _labels(spec.properties, metadata.INPUTS).get(source.name, ())
    x = read_rows(input_file, source.datatype, features)
    if x.ndim == len(source.shape) - 1:
        x = x[np.newaxis]
    prediction = client.predict(model, x, version=version, outputs=select or None)
    write_prediction(prediction, _labels(spec.properties, metadata.OUTPUTS), output_file)


def _only_input(model: str, spec: ModelSpec) -> TensorSpec:
    if len(spec.inputs) != 1:
        inputs = ", ".join(map(str, spec.inputs)) or "none that the server tells"
        raise CommandError(
            f"model {model!r}: expected one input for the rows of a file, got {inputs}; "
            "call it from Python, with a dict of arrays"
        )
    return spec.inputs[0]


def _labels(properties: Mapping[str, str], key: str) -> dict[str, tuple[str, ...]]:
    columns = metadata.load_columns(key, properties.get(key, "{}"))
    return {name: column.labels for name, column in columns.items()}
