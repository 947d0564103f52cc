"""A model as a function of DuckDB."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from batch.rows import Expected, pieces

from forwardpass.batch import Scorer, duckdb_function

duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def connection(rows: pa.Table) -> Iterator[Any]:
    with duckdb.connect() as connection:
        connection.register("given", pa.concat_tables(pieces(rows, 3)))
        connection.execute("CREATE TABLE plants_seen AS FROM given")
        yield connection


@pytest.mark.parametrize("threads", [1, 4])
def test_it_gives_the_bits_of_load(
    connection: Any, file: Path, expected: Expected, threads: int
) -> None:
    connection.execute(f"SET threads TO {threads}")
    call = duckdb_function(connection, file)
    found = connection.sql(f"SELECT id, unnest({call}) FROM plants_seen")
    expected.check(pa.RecordBatchReader.from_stream(found).read_all())


def test_the_names_of_its_struct_decide(connection: Any, file: Path) -> None:
    call = duckdb_function(connection, file, name="score")
    other = """score({'leaf mass': "leaf mass", 'it''s': "it's", 'length': length,
                      'width': width})"""
    ((equal,),) = connection.sql(
        f"SELECT count(*) FILTER ({call} = {other}) FROM plants_seen"
    ).fetchall()
    assert equal == 100_000
    with pytest.raises(duckdb.BinderException, match="No function matches"):
        connection.sql("SELECT score({'length': 1.0, 'width': 2.0})")


def test_null_is_refused_unless_it_is_to_be_nan(connection: Any, file: Path) -> None:
    call = duckdb_function(connection, file, name="strict")
    holes = "(SELECT * REPLACE (if(id = 2, NULL, width) AS width) FROM plants_seen WHERE id < 4)"
    with pytest.raises(duckdb.InvalidInputException, match="'width': expected a value everywhere"):
        connection.sql(f"SELECT {call} FROM {holes}").fetchall()
    with pytest.raises(duckdb.InvalidInputException, match="'length': expected a value everywhere"):
        connection.sql("SELECT strict(NULL)").fetchall()
    call = duckdb_function(connection, Scorer(file, missing="nan"), name="lenient")
    query = f"SELECT {call}.risk FROM {holes} ORDER BY id"
    assert [risk is None for (risk,) in connection.sql(query).fetchall()] == [0, 0, 1, 0]


def test_other_numbers_are_cast_and_texts_are_not(connection: Any, file: Path) -> None:
    call = duckdb_function(connection, file)
    other = "(SELECT * REPLACE (3::DECIMAL(9, 2) AS width, 7::BIGINT AS length) FROM plants_seen)"
    assert connection.sql(f"SELECT {call} FROM {other} LIMIT 1").fetchall()
    large = "(SELECT * REPLACE (1e300 AS width) FROM plants_seen LIMIT 1)"
    with pytest.raises(duckdb.InvalidInputException, match=r"'width'.*magnitude"):
        connection.sql(f"SELECT {call} FROM {large}").fetchall()
    with pytest.raises(duckdb.BinderException):
        connection.sql(f"SELECT {call} FROM (SELECT * REPLACE ('x' AS width) FROM plants_seen)")
