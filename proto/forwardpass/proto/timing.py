"""How a server reports the phases of a call's time: our addition to the protocol."""

from collections.abc import Mapping

PARAMETER = "forwardpass_timing"
"""Parameter of a ModelInferRequest that asks for the times; its value does not matter."""
TRAILER = "forwardpass-timing"
"""Key of the trailing metadata with the phases in us, as in `decode=8.1,queue=0.0`."""


def dump_parts(parts: Mapping[str, float]) -> str:
    """Write the value of TRAILER from parts in microseconds."""
    return ",".join(f"{name}={us:.1f}" for name, us in parts.items())


def load_parts(text: str) -> dict[str, float]:
    """Inverse of `dump_parts`; raises ValueError for a part that is not a number."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name: float(us) for name, _, us in pairs}
