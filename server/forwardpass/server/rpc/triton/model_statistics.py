"""ModelStatistics: the counters of each model version, in Triton's form."""

from collections.abc import Iterator

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.statistics import Calls, Runs
from forwardpass.server.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    VersionNotFoundError,
)
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.rpc.method import Extension, rpc_for_caller
from forwardpass.server.rpc.peers import Counted, Peers


def model_statistics(catalog: Catalog, peers: Peers) -> Extension:
    """Offer ModelStatistics: sums over all processes."""

    def answer(request: pb.ModelStatisticsRequest, caller: Caller) -> pb.ModelStatisticsResponse:
        def visible(name: str) -> bool:
            return caller.may(Action.READ, name)

        if request.name:
            caller.check(Action.READ, request.name)
        try:
            models = [model for model in _asked(catalog, request) if visible(model.name)]
        except (ModelNotFoundError, VersionNotFoundError) as error:
            seen = error.as_seen(visible) if isinstance(error, ModelNotFoundError) else error
            # Triton's code for it, where other RPCs return NOT_FOUND.
            raise InvalidRequestError("name", str(seen)) from error
        sums = peers.counted(models)
        return pb.ModelStatisticsResponse(model_stats=map(_statistics, models, sums))

    return Extension(
        names=["statistics"],
        rpcs={"ModelStatistics": rpc_for_caller(pb.ModelStatisticsRequest, answer)},
    )


def _asked(catalog: Catalog, request: pb.ModelStatisticsRequest) -> Iterator[Model]:
    if request.version:
        yield catalog.find(request.name, request.version)
        return
    if request.name:
        # Raises for a name that is unknown.
        catalog.versions(request.name)
    for name in [request.name] if request.name else sorted(catalog):
        yield from catalog.get(name).answering.values()


def _statistics(model: Model, counted: Counted) -> pb.ModelStatistics:
    calls, runs = counted.calls, counted.runs
    return pb.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=calls.last_ms,
        inference_count=calls.rows,
        execution_count=sum(sums.count for sums in runs.values()),
        inference_stats=_of_calls(calls),
        batch_stats=[_of_runs(rows, sums) for rows, sums in runs.items()],
    )


def _of_calls(calls: Calls) -> pb.InferStatistics:
    count = calls.answered
    return pb.InferStatistics(
        success=pb.StatisticDuration(count=count, ns=calls.answered_ns),
        fail=pb.StatisticDuration(count=calls.failed, ns=calls.failed_ns),
        # Theirs has no part for the time until a request is whole.
        queue=pb.StatisticDuration(count=count, ns=calls.receive_ns + calls.queue_ns),
        compute_input=pb.StatisticDuration(count=count, ns=calls.input_ns),
        compute_infer=pb.StatisticDuration(count=count, ns=calls.infer_ns),
        compute_output=pb.StatisticDuration(count=count, ns=calls.output_ns),
        cache_hit=pb.StatisticDuration(),
        cache_miss=pb.StatisticDuration(),
    )


def _of_runs(rows: int, runs: Runs) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=rows,
        compute_input=pb.StatisticDuration(count=runs.count, ns=runs.input_ns),
        compute_infer=pb.StatisticDuration(count=runs.count, ns=runs.infer_ns),
        compute_output=pb.StatisticDuration(count=runs.count, ns=runs.output_ns),
    )
