"""A model as a scalar function of DuckDB."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from forwardpass.batch.scorer import Model, scorer_of
from forwardpass.proto.datatypes import DATATYPES

_NUMBERS: Mapping[str, str] = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "halffloat": "FLOAT",
    "float": "FLOAT",
    "double": "DOUBLE",
}
"""DuckDB's types by Arrow's."""


def duckdb_function(connection: Any, model: Model, *, name: str | None = None) -> str:
    """Register a model as a function of one struct; return the SQL that calls it on its columns.

    `connection.sql(f"SELECT id, {call} AS answer FROM rows")`, where the SQL returned is
    `"cars"({'length': "length", 'mass': "mass"})`. The struct's names decide, in any order, and
    DuckDB refuses other names. NULL is a missing value, not skipped.

    connection: of DuckDB. name: that of the function; None for the model's.

    Raises errors of duckdb; queries raise duckdb.InvalidInputException for rows that do not fit.
    """
    import duckdb

    scorer = scorer_of(model)
    name = scorer.name if name is None else name

    def score(rows: pa.ChunkedArray) -> pa.ChunkedArray:
        # `flatten` makes the fields of a struct that is NULL null.
        batches = (
            pa.RecordBatch.from_arrays(chunk.flatten(), scorer.columns) for chunk in rows.chunks
        )
        return pa.chunked_array(
            [scorer.score(batch).to_struct_array() for batch in batches], pa.struct(scorer.schema)
        )

    connection.create_function(
        name,
        score,
        [duckdb.struct_type({each: _taken(kind) for each, kind in scorer.datatypes.items()})],
        duckdb.struct_type({field.name: _answered(field.type) for field in scorer.schema}),
        type="arrow",
        null_handling="special",
    )
    fields = ", ".join(f"{_text(each)}: {_identifier(each)}" for each in scorer.columns)
    return f"{_identifier(name)}({{{fields}}})"


def _taken(datatype: str) -> str:
    """Return the widest type of a kind: DuckDB narrows none unasked, and the client casts."""
    if datatype == "BYTES":
        return "VARCHAR"
    kind = DATATYPES[datatype].dtype.kind
    return {"b": "BOOLEAN", "f": "DOUBLE", "i": "BIGINT", "u": "UBIGINT"}[kind]


def _answered(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_answered(kind.value_type)}[]"
    return "VARCHAR" if pa.types.is_string(kind) else _NUMBERS[str(kind)]


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
