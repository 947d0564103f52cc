"""ModelInfer for threads: the caller's thread waits until its calls are answered."""

from collections.abc import Sequence

from forwardpass.server.errors import InternalError, ServingError
from forwardpass.server.rpc.batches import batches, give_way, pieces, promise_rest, with_room
from forwardpass.server.rpc.budget import AnswerMemory
from forwardpass.server.rpc.infer import Call, Inference, Reply


def infer(
    inference: Inference, calls: Sequence[Call], memory: AnswerMemory | None = None
) -> list[Reply | ServingError]:
    """Answer calls that arrived together: one answer or error each, in order.

    memory: Of the answers; None: they are not counted.
    """
    portions = inference.prepare(calls)
    if memory is not None:
        portions = with_room(inference, portions, memory)
    for batch in batches(portions):
        queue = batch.model.queue
        owners = batch.separate()
        if batch.large:
            (job,) = owners
            for piece in pieces(job, batch.piece_rows):
                if batch.batch:
                    give_way()
                queue.run([piece])
        else:
            queue.run(list(owners))
        for job, portion in owners.items():
            if memory is not None and portion.plan.open_ended and job.error is None:
                promise_rest(portion, job, memory)
            inference.finish(portion, job)
    return [call.answer or InternalError() for call in calls]
