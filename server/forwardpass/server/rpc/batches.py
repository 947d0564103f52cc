"""Decides which calls run together, and which run in pieces.

Nothing here runs or waits; `in_thread` and `on_loop` do, each in its own way.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job, Kind, expects_interactive
from forwardpass.server.rpc.budget import AnswerMemory
from forwardpass.server.rpc.infer import Inference, Portion

_BESIDE_BYTES = 2**8
"""Size of a reply beside its tensors, in bytes for each."""


class Batch(NamedTuple):
    """Calls of one model and one kind that run together."""

    model: Model
    portions: Sequence[Portion]
    rows: int
    """Rows of all calls; above the model's `max_rows` only for a call that runs alone."""

    @property
    def large(self) -> bool:
        """Whether this is one call that runs in pieces."""
        return self.rows > 1 and self.rows > self.piece_rows

    @property
    def piece_rows(self) -> int:
        """Maximum rows of a piece of a large call."""
        model = self.model
        return min(model.piece_rows, model.batch_rows) if self.batch else model.piece_rows

    @property
    def batch(self) -> bool:
        """Whether the class of the calls is batch."""
        return self.portions[0].kind.batch

    def joined(self) -> dict[Job, Portion]:
        """Return one job per portion: cheapest if a runner is free."""
        return {portion.job(): portion for portion in self.portions}

    def separate(self) -> dict[Job, Portion]:
        """Return one job per call: a waiting call has its own deadline and may be cancelled."""
        return {part.job(): part for portion in self.portions for part in portion.parts(1)}


def batches(portions: Sequence[Portion]) -> list[Batch]:
    """Return the calls that run together: of one kind, in order, as many rows as pay off."""
    if len(portions) == 1:
        # Nearly always, and quicker than by groups.
        (portion,) = portions
        model, rows = portion.plan.model, portion.plan.rows * len(portion.calls)
        if len(portion.calls) == 1 or rows <= _max_rows(model, portion.kind):
            return [Batch(model, portions, rows)]
    groups: dict[tuple[Model, Kind], list[Portion]] = {}
    for portion in portions:
        groups.setdefault((portion.plan.model, portion.kind), []).append(portion)
    result: list[Batch] = []
    for (model, kind), group in groups.items():
        max_rows = _max_rows(model, kind)
        together: list[Portion] = []
        rows = 0
        for portion in group:
            size = portion.plan.rows
            for part in portion.parts(max(1, max_rows // size)):
                more = size * len(part.calls)
                if together and rows + more > max_rows:
                    result.append(Batch(model, together, rows))
                    together, rows = [], 0
                together.append(part)
                rows += more
        result.append(Batch(model, together, rows))
    return result


def with_room(
    inference: Inference, portions: Sequence[Portion], memory: AnswerMemory
) -> list[Portion]:
    """Return the calls whose answers are promised memory, and answer the others with an error."""
    result: list[Portion] = []
    for portion in portions:
        for single in portion.parts(1):
            if memory.promise(single.answer_bytes):
                result.append(single)
            else:
                inference.refuse(single, memory.refusal())
    return result


def promise_rest(portion: Portion, job: Job, memory: AnswerMemory) -> None:
    """Have memory promised to answers whose size nobody knew; fail the job if there is none."""
    size, count = sum(map(len, job.answers)), len(portion.calls)
    reply = -(-size // count) + _BESIDE_BYTES * len(job.answers)
    each = reply * portion.answer_share
    if each <= portion.answer_bytes:
        return
    if memory.promise((each - portion.answer_bytes) * count):
        portion.answer_bytes = each
        portion.plan.answer_bytes = max(portion.plan.answer_bytes, reply)
    else:
        job.error, job.answers = memory.refusal(), ()


def _max_rows(model: Model, kind: Kind) -> int:
    """Return the maximum rows of several calls that run together, as of now."""
    max_rows = model.batching.max_rows if kind.by_rows else 1
    return min(max_rows, model.batch_rows) if kind.batch and expects_interactive() else max_rows


def alone(portion: Portion) -> list[Batch]:
    """Return the calls of a portion one by one, since some may succeed alone."""
    plan = portion.plan
    return [Batch(plan.model, [single], plan.rows) for single in portion.parts(1)]


def pieces(job: Job, max_rows: int) -> Iterator[Job]:
    """Yield the pieces of a large call's job; other calls run between them.

    Run each piece before asking for the next. After the last one the job has its answers, or the
    error of the piece that failed.
    """
    ended: list[Job] = []
    for start in range(0, job.rows, max_rows):
        piece = _piece(job, start, min(start + max_rows, job.rows))
        yield piece
        if piece.error is not None:
            job.error = piece.error
            return
        ended.append(piece)
    job.answers = [b"".join(parts) for parts in zip(*(p.answers for p in ended), strict=True)]
    job.shapes = [(job.rows, *shape[1:]) for shape in ended[0].shapes]
    job.waited_ns = sum(piece.waited_ns for piece in ended)
    job.ran_ns = sum(piece.ran_ns for piece in ended)


def _piece(job: Job, start: int, end: int) -> Job:
    tensors = [
        # The rows of an array of texts, or the bytes of as many.
        tensor[start:end]
        if isinstance(tensor, np.ndarray)
        else memoryview(tensor)[start * len(tensor) // job.rows : end * len(tensor) // job.rows]
        for tensor in job.tensors
    ]
    return Job(job.kind, tensors, end - start, job.deadline, job.active)


def give_way() -> None:
    """Let whatever else waits for this CPU run first: before a run of the class batch."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
