"""What other people's clients get from our server, and that docs/clients.md says the same."""

import numpy as np
import pytest
from conformance.clients import CLIENTS, MODEL, REST_CLIENTS, found
from conformance.support_table import (
    BEGIN,
    REST_BEGIN,
    committed,
    found_by_all,
    rest_tables,
    tables,
)

from forwardpass.models import forward
from forwardpass.models.zoo import ZOO
from forwardpass.server.config import Transport

TRIED = [(name, transport) for name in CLIENTS for transport in Transport] + [
    # One event loop answers, whichever transport speaks gRPC.
    (name, Transport.ASYNCIO)
    for name in REST_CLIENTS
]


@pytest.mark.parametrize(("name", "transport"), TRIED)
def test_all_that_a_client_asks_is_answered_as_it_expects(name: str, transport: str) -> None:
    faults = found(name, transport).faults
    assert not faults, "\n".join(f"{row}: {fault}" for row, fault in faults.items())


@pytest.mark.parametrize(("name", "transport"), TRIED)
def test_every_way_to_infer_gives_the_reference_numbers(name: str, transport: str) -> None:
    expected = forward(ZOO[MODEL].network(), ZOO[MODEL].held_out().x)
    answers = found(name, transport).answers
    assert answers
    for way, outputs in answers.items():
        assert list(outputs) == list(expected), way
        for output, reference in expected.items():
            error = np.abs(np.array(outputs[output]) - reference).max()
            assert error <= 2e-6 * np.abs(reference).max(), (way, output)


def test_the_tables_of_the_documentation_say_what_was_found() -> None:
    written = committed(BEGIN), committed(REST_BEGIN)
    wanted = tables(found_by_all(CLIENTS)), rest_tables(found_by_all(REST_CLIENTS))
    assert written == wanted, "make docs-clients writes what was found"
