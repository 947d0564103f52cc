"""`predict_stream`: several calls in flight, answers in order."""

import asyncio
import gc
import itertools
import threading
import time

import grpc
import numpy as np
import pytest
from client.conftest import OipServer
from support.clients import AnyClient

from forwardpass.client import AsyncClient, Client, InvalidInputError, ServerError


def ones(count):
    return (np.full(3, i) for i in range(count))


def totals(stream):
    return [float(prediction["total"]) for prediction in stream]


@pytest.mark.parametrize("in_flight", [1, 2, 8, 100])
def test_answers_come_in_the_order_of_what_was_asked(
    client: AnyClient, server: OipServer, in_flight
) -> None:
    def answer(request, context):
        # The later, the sooner: in groups.
        time.sleep(0.002 * (5 - server.calls["ModelInfer"] % 5))
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    stream = client.predict_stream("net", ones(40), in_flight=in_flight)
    assert totals(stream) == [3 * i for i in range(40)]
    assert server.calls["ModelMetadata"] == 1


def test_nothing_asked_gives_nothing(client: AnyClient) -> None:
    assert list(client.predict_stream("net", [])) == []


def test_so_many_calls_are_in_flight_and_no_more(client: AnyClient, server: OipServer) -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Event()

    def answer(request, context):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == 5:
                together.set()
        together.wait(10)
        try:
            return server._model_infer(request, context)
        finally:
            with lock:
                now -= 1

    server.answers["ModelInfer"] = answer
    assert len(totals(client.predict_stream("net", ones(40), in_flight=5))) == 40
    assert most == 5


def test_no_more_is_read_ahead_than_is_in_flight(client: AnyClient) -> None:
    read = 0

    def endless():
        nonlocal read
        for read in itertools.count(1):
            yield np.full(3, read)

    stream = client.predict_stream("net", endless(), in_flight=4)
    for yielded in range(1, 20):
        assert next(stream)["total"] == 3 * yielded
        assert read <= yielded + 4
    stream.close()


def test_a_stream_that_is_left_cancels_its_calls(client: AnyClient, server: OipServer) -> None:
    release, full = threading.Event(), threading.Semaphore(0)
    cancelled = []

    def answer(request, context):
        if request.endswith(bytes(12)):
            # The first, of zeros: answered once four others are here.
            for _ in range(4):
                full.acquire(timeout=20)
        else:
            context.add_callback(lambda: cancelled.append(not release.is_set()))
            full.release()
            release.wait(20)
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    stream = client.predict_stream("net", ones(1000), in_flight=5)
    assert next(stream)["total"] == 0
    stream.close()
    deadline = time.monotonic() + 10
    while len(cancelled) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    release.set()
    assert cancelled == [True] * 4


def test_an_error_ends_the_stream_after_what_came_before(
    client: AnyClient, server: OipServer
) -> None:
    def xs():
        yield from ones(3)
        yield np.zeros(4)
        yield from ones(100)

    stream = client.predict_stream("net", xs(), in_flight=10)
    assert [float(next(stream)["total"]) for _ in range(3)] == [0, 3, 6]
    with pytest.raises(InvalidInputError, match="expected shape"):
        next(stream)
    assert list(stream) == []


def test_an_error_of_the_server_ends_the_stream(client: AnyClient, server: OipServer) -> None:
    def answer(request, context):
        if server.calls["ModelInfer"] == 4:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        return server._model_infer(request, context)

    server.answers["ModelInfer"] = answer
    with pytest.raises(ServerError, match="broken"):
        totals(client.predict_stream("net", ones(20), in_flight=1))
    assert server.calls["ModelInfer"] == 4


def test_an_error_of_the_iterable_is_the_callers(client: AnyClient) -> None:
    def xs():
        yield np.ones(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        totals(client.predict_stream("net", xs()))


def test_an_error_of_the_iterable_comes_after_the_answers_before_it(
    client: AnyClient, server: OipServer
) -> None:
    release = threading.Event()

    def answer(request, context):
        release.wait(20)
        return server._model_infer(request, context)

    def xs():
        yield from ones(3)
        # All three are in flight.
        threading.Timer(0.1, release.set).start()
        raise ZeroDivisionError

    server.answers["ModelInfer"] = answer
    stream = client.predict_stream("net", xs(), in_flight=8)
    assert [float(next(stream)["total"]) for _ in range(3)] == [0, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_an_answer_that_fails_before_the_iterable_does_is_the_error(
    client: AnyClient, server: OipServer
) -> None:
    def answer(request, context):
        if server.calls["ModelInfer"] == 2:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        return server._model_infer(request, context)

    def xs():
        yield from ones(2)
        raise ZeroDivisionError

    server.answers["ModelInfer"] = answer
    stream = client.predict_stream("net", xs(), in_flight=8)
    with pytest.raises(ServerError, match="broken"):
        totals(stream)


def test_calls_that_meet_a_new_version_are_sent_again(client: AnyClient, server: OipServer) -> None:
    def xs():
        for i in range(30):
            if i == 10:
                server.models["net"].inputs = {"features": ("FP32", (-1, 3))}
                server.models["net"].run = lambda arrays: {
                    "y": arrays["features"][:, :2],
                    "total": arrays["features"].sum(axis=1),
                }
            yield np.full(3, i)

    assert totals(client.predict_stream("net", xs(), in_flight=1)) == [3 * i for i in range(30)]
    # And with some in flight at the change of names.
    server.models["net"].inputs = {"again": ("FP32", (-1, 3))}
    server.models["net"].run = lambda arrays: {
        "y": arrays["again"][:, :2],
        "total": arrays["again"].sum(axis=1),
    }
    stream = client.predict_stream("net", ones(30), in_flight=6)
    assert totals(stream) == [3 * i for i in range(30)]


def test_none_in_flight_is_refused(client: AnyClient) -> None:
    with pytest.raises(ValueError, match="in_flight: expected at least 1, got 0"):
        client.predict_stream("net", [], in_flight=0)


def test_a_stream_that_is_forgotten_cancels_its_calls(server: OipServer) -> None:
    with Client(server.target) as client:
        stream = client.predict_stream("net", ones(100))
        next(stream)
        del stream
        gc.collect()
        assert server.calls["ModelInfer"] < 20
        assert client.predict("net", [1, 2, 3])["total"] == 6


def test_an_async_iterable_is_read_as_it_comes(server: OipServer) -> None:
    async def xs():
        for i in range(20):
            await asyncio.sleep(0.001)
            yield np.full(3, i)

    async def main():
        async with AsyncClient(server.target) as client:
            return [p["total"] async for p in client.predict_stream("net", xs())]

    assert asyncio.run(main()) == [3 * i for i in range(20)]


def test_an_answer_does_not_wait_for_the_next_item(server: OipServer) -> None:
    async def main():
        answered = asyncio.Event()

        async def xs():
            for i in range(5):
                yield np.full(3, i)
                # What to ask next depends on the answer.
                await answered.wait()
                answered.clear()

        async with asyncio.timeout(30), AsyncClient(server.target) as client:
            totals = []
            async for prediction in client.predict_stream("net", xs()):
                totals.append(prediction["total"])
                answered.set()
            return totals

    assert asyncio.run(main()) == [3 * i for i in range(5)]


def test_no_more_of_an_async_iterable_is_read_ahead_than_is_in_flight(server: OipServer) -> None:
    async def main():
        read = 0

        async def endless():
            nonlocal read
            for read in itertools.count(1):
                yield np.full(3, read)

        async with AsyncClient(server.target) as client:
            stream = client.predict_stream("net", endless(), in_flight=4)
            for yielded in range(1, 20):
                assert (await anext(stream))["total"] == 3 * yielded
                await asyncio.sleep(0.001)
                assert read <= yielded + 4
            await stream.aclose()

    asyncio.run(main())


def test_leaving_a_stream_ends_an_async_iterable_that_waits(server: OipServer) -> None:
    async def main():
        ended = asyncio.Event()

        async def xs():
            try:
                yield np.ones(3)
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with AsyncClient(server.target) as client:
            stream = client.predict_stream("net", xs())
            assert (await anext(stream))["total"] == 3
            await stream.aclose()
            return ended.is_set()

    assert asyncio.run(main())


def test_an_error_of_an_async_iterable_comes_after_the_answers_before_it(server: OipServer) -> None:
    async def main():
        async def xs():
            for i in range(3):
                yield np.full(3, i)
            raise ZeroDivisionError

        async with AsyncClient(server.target) as client:
            stream = client.predict_stream("net", xs())
            assert [(await anext(stream))["total"] for _ in range(3)] == [0, 3, 6]
            with pytest.raises(ZeroDivisionError):
                await anext(stream)

    asyncio.run(main())


def test_a_block_of_an_async_iterable_stays_in_one_task(server: OipServer) -> None:
    async def main():
        async def xs():
            # A timeout ends in the task in which it began, or not at all.
            async with asyncio.timeout(30):
                for i in range(5):
                    yield np.full(3, i)

        async with AsyncClient(server.target) as client:
            return [p["total"] async for p in client.predict_stream("net", xs(), in_flight=2)]

    assert asyncio.run(main()) == [3 * i for i in range(5)]
