"""Score tables with a model's file in the workers of batch engines, with the bits of `load`.

Nothing is imported until it is used: each engine comes with an extra of its own.
"""

from typing import TYPE_CHECKING

from forwardpass.proto.late import late_names

if TYPE_CHECKING:
    from forwardpass.batch.scorer import Scorer
    from forwardpass.batch.with_arrow import arrow_map
    from forwardpass.batch.with_dask import dask_array, dask_frame
    from forwardpass.batch.with_duckdb import duckdb_function
    from forwardpass.batch.with_polars import polars_expr
    from forwardpass.batch.with_ray import ray_udf
    from forwardpass.batch.with_spark import spark_map, spark_udf

__all__ = [
    "Scorer",
    "arrow_map",
    "dask_array",
    "dask_frame",
    "duckdb_function",
    "polars_expr",
    "ray_udf",
    "spark_map",
    "spark_udf",
]

_WHEN_ASKED_FOR = {
    "Scorer": "forwardpass.batch.scorer",
    "arrow_map": "forwardpass.batch.with_arrow",
    "dask_array": "forwardpass.batch.with_dask",
    "dask_frame": "forwardpass.batch.with_dask",
    "duckdb_function": "forwardpass.batch.with_duckdb",
    "polars_expr": "forwardpass.batch.with_polars",
    "ray_udf": "forwardpass.batch.with_ray",
    "spark_map": "forwardpass.batch.with_spark",
    "spark_udf": "forwardpass.batch.with_spark",
}

__getattr__, __dir__ = late_names(globals(), _WHEN_ASKED_FOR)
