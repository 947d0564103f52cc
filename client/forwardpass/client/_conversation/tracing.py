"""The context of OpenTelemetry, passed on to the server if a program uses it."""

import sys


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata of this program's propagators, usually `traceparent`.

    Empty if OpenTelemetry was not imported: then there is no context to pass on.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), text) for key, text in carrier.items())
