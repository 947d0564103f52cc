#!/usr/bin/env bash
# uvloop 0.23.0: a timer under half a millisecond is none, and timers come before their time.
#
# Expected: uvloop is asyncio, faster: call_later(0.0004, f) runs f no earlier than 0.4 ms from now,
# after what call_soon was given meanwhile, and shorter delays before longer ones.
# What happens: delays are rounded to whole milliseconds. Under 0.5 ms is 0, and 0 is call_soon: in
# the order of the calls, before the loop has waited at all. 1.4 ms is 1 ms: it fires early, which
# asyncio does not.
# Why it matters: a batching server that waits 0.4 ms for more requests does not wait, so its
# batches hold one request and the throughput that was measured on asyncio is gone; a deadline of
# 1.4 ms ends at 1.1. And code that relies on the order of timers runs in another one.
#
# Output seen (the order of three callbacks; the shortest of 50 sleeps of 0.4 and of 1.4 ms, in ms):
#     asyncio  order ['soon', '0.2 ms', '0.4 ms']   0.4 -> 1.1   1.4 -> 2.1
#     uvloop   order ['0.4 ms', '0.2 ms', 'soon']   0.4 -> 0.0   1.4 -> 1.1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    uvloop==0.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import asyncio
import time

import uvloop


async def measure():
    loop = asyncio.get_running_loop()
    order = []
    loop.call_later(0.0004, order.append, "0.4 ms")
    loop.call_later(0.0002, order.append, "0.2 ms")
    loop.call_soon(order.append, "soon")
    await asyncio.sleep(0.02)

    async def least(delay):
        took = []
        for _ in range(50):
            start = time.perf_counter()
            await asyncio.sleep(delay)
            took.append(1e3 * (time.perf_counter() - start))
        return min(took)

    return order, await least(0.0004), await least(0.0014)


def run(factory):
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(measure())


# The least of 50 waits: a busy machine can only make one longer.
seen = {"asyncio": run(asyncio.new_event_loop), "uvloop": run(uvloop.new_event_loop)}
for name, (order, short, long) in seen.items():
    print(f"{name:8} order {order}   0.4 -> {short:.1f}   1.4 -> {long:.1f}")
assert seen["asyncio"][0] == ["soon", "0.2 ms", "0.4 ms"]
assert seen["asyncio"][1] >= 0.4 and seen["asyncio"][2] >= 1.4
assert seen["uvloop"][0] == ["0.4 ms", "0.2 ms", "soon"]
assert seen["uvloop"][1] < 0.3 and seen["uvloop"][2] < 1.4
PROGRAM
