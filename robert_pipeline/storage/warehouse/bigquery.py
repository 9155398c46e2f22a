"""The published tables as BigQuery tables: rows travel by load jobs, and one transaction swaps a partition.

Rows of a partition enter a staging table by BigQuery's own loader; a multi-statement transaction takes them over in the
place of the old ones and writes the ledger. Credentials are the application default ones; none is read here.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
from google.api_core.exceptions import GoogleAPIError, NotFound, ServerError, TooManyRequests
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import RobertError, WarehouseError
from robert_pipeline.storage.warehouse import bigquery_sql as sql
from robert_pipeline.storage.warehouse.columns import TableColumn, missing_columns, someone_elses
from robert_pipeline.storage.warehouse.data_files import new_attempt, spooled, write_spool
from robert_pipeline.storage.warehouse.patience import persist
from robert_pipeline.storage.warehouse.rows import RowsFailed, check_names, checked, one_line, source_errors_unchanged
from robert_pipeline.storage.warehouse.sink import (
    TABLES,
    AsOf,
    Commit,
    PartitionExists,
    TableName,
    Upkeep,
    UpkeepReport,
    Version,
    contract_of,
    no_history,
    schema_of,
)
from schemas import Contract

STAGE_DAYS = 1


class BigQuerySink:
    """Published tables in one data set of one project."""

    def __init__(self, config: Warehouse, *, patience_seconds: float = 120.0) -> None:
        parts = urlsplit(config.uri)
        if parts.scheme != "bigquery" or not parts.netloc:
            raise WarehouseError(
                f"warehouse.uri {config.uri} is not a BigQuery project", fix="Give bigquery://project?location=EU"
            )
        self._project, self._dataset, self._shown = parts.netloc, config.namespace, config.uri
        self._location = parse_qs(parts.query).get("location", [None])[0]
        self._patience_seconds = patience_seconds
        self._opened: bigquery.Client | None = None

    def check(self) -> None:
        """Refuse a project out of reach, and tables with other columns than their contract."""
        for name in TABLES:
            with self._clear_errors(name):
                self._missing(contract_of(name))

    def replace_partition(
        self,
        table: TableName,
        partition: str,
        rows: Iterable[pa.RecordBatch],
        commit_key: str,
        *,
        only_new: bool = False,
    ) -> Commit:
        """A load into a staging table, then one transaction that takes its rows over; see Sink."""
        contract = contract_of(table)
        check_names(partition, commit_key)
        with source_errors_unchanged(), self._clear_errors(table):
            if self._missing(contract) is not None and self._keys(contract).get(partition) == commit_key:
                return Commit.ALREADY_COMMITTED
            self._ensure(contract)
            stage = f"_robert_stage_{new_attempt()}"
            try:
                self._load(contract, stage, checked(rows, contract, partition))
                outcome = persist(
                    lambda: self._swap(contract, stage, partition, commit_key, only_new=only_new),
                    transient=_lost_a_race,
                    patience_seconds=self._patience_seconds,
                )
            finally:
                self._client().delete_table(self._reference(stage), not_found_ok=True)
        if outcome == "exists":
            raise PartitionExists(f"partition '{partition}' of {self._where(table)} exists", fix="Try again")
        return Commit(outcome)

    def _load(self, contract: Contract, stage: str, batches: Iterator[pa.RecordBatch]) -> None:
        staged = bigquery.Table(
            self._reference(stage), schema=[bigquery.SchemaField.from_api_repr(f) for f in sql.load_schema(contract)]
        )
        staged.expires = datetime.now(UTC) + timedelta(days=STAGE_DAYS)  # of a killed run
        self._client().create_table(staged)
        with tempfile.TemporaryDirectory(prefix="robert-rows-") as folder:
            spool = Path(folder) / "rows.parquet"
            empty = pa.RecordBatch.from_pylist([], schema=contract.schema)
            (shape,) = sql.staged_batches(iter([empty]))
            with spool.open("wb") as stream:
                write_spool(stream, sql.staged_batches(batches), shape.schema)
            options = bigquery.ParquetOptions()
            options.enable_list_inference = True
            config = bigquery.LoadJobConfig(
                source_format=bigquery.SourceFormat.PARQUET,
                parquet_options=options,
                schema=staged.schema,
                write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
            )
            with spool.open("rb") as stream:
                self._client().load_table_from_file(stream, self._reference(stage), job_config=config).result()

    def _swap(self, contract: Contract, stage: str, partition: str, commit_key: str, *, only_new: bool) -> str:
        script = sql.replace_script(contract, self._project, self._dataset, stage)
        (row,) = self._query(script, partition=partition, commit_key=commit_key, only_new=only_new)
        return str(row["outcome"])

    def _ensure(self, contract: Contract) -> None:
        missing = self._missing(contract)
        if missing is None:
            dataset = bigquery.Dataset(f"{self._project}.{self._dataset}")
            dataset.location = self._location
            self._client().create_dataset(dataset, exists_ok=True)
            statements = sql.create_statements(contract, self._project, self._dataset)
        else:
            statements = sql.add_columns(contract, self._project, self._dataset, missing)
        # A table that was made by hand has no lock, with or without a ledger of others.
        if missing is None or not self._keys(contract):
            statements = [*sql.ledger_statements(contract, self._project, self._dataset), *statements]
        for statement in statements:
            self._query(statement)

    def _has_ledger(self) -> bool:
        """Whether anything was ever committed: a table may also have been made by hand."""
        try:
            self._client().get_table(self._reference(sql.LEDGER))
        except NotFound:
            return False
        return True

    def _missing(self, contract: Contract) -> list[str] | None:
        """Columns that the table still has to be given; None where there is no table. Refuses a foreign one."""
        try:
            table = self._client().get_table(self._reference(contract.name))
        except NotFound:
            return None
        found = {field.name: _column(field) for field in table.schema}
        wanted = {
            field.name: TableColumn(
                shape=sql.api_type(field.type),
                required=not field.nullable and not sql.api_type(field.type).startswith("REPEATED"),
            )
            for field in contract.schema
        }
        fix = someone_elses("warehouse.namespace")
        return missing_columns(contract, wanted, found, where=self._where(contract.name), fix=fix)

    def commit_keys(self, table: TableName) -> dict[str, str]:
        """The ledger, from the table of commits; see Sink."""
        contract = contract_of(table)
        with self._clear_errors(table):
            return {} if self._missing(contract) is None else self._keys(contract)

    def _keys(self, contract: Contract) -> dict[str, str]:
        if not self._has_ledger():
            return {}
        rows = self._query(sql.ledger_query(contract, self._project, self._dataset))
        return {row["partition"]: row["commit_key"] for row in rows}

    def read(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        doc_id: str | None = None,
        as_of: AsOf | None = None,
    ) -> pa.RecordBatchReader:
        """The rows that are committed when the query runs; see Sink."""
        return self._reader(table, {"partition": partition, "doc_id": doc_id}, as_of)

    def _reader(
        self,
        table: TableName,
        chosen: dict[str, str | None],
        as_of: AsOf | None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> pa.RecordBatchReader:
        contract = contract_of(table)
        if as_of is not None:
            raise no_history(self._where(table))
        schema = schema_of(contract, columns)
        given = {name: value for name, value in chosen.items() if value is not None}
        with self._clear_errors(table):
            missing = self._missing(contract)
            if missing is None:
                raise WarehouseError(
                    f"there is no table '{contract.name}' in {self._shown}", fix="Publish a partition first"
                )
            names = [name for name in schema.names if name not in missing]
            query = sql.select(contract, self._project, self._dataset, names, list(given), limit)
            result = self._query(query, **given)

        def stream() -> Iterator[pa.RecordBatch]:
            with self._clear_errors(table):
                for batch in result.to_arrow_iterable():
                    yield from sql.contract_batch(batch, schema).to_batches()

        return pa.RecordBatchReader.from_batches(schema, stream())

    def dataset(
        self,
        table: TableName,
        partition: str | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        as_of: AsOf | None = None,
    ) -> ds.Dataset:
        """A copy of the rows in a temporary file; see Sink."""
        reader = self._reader(table, {"partition": partition}, as_of, columns=columns, limit=limit)
        with self._clear_errors(table):
            return spooled(reader, reader.schema)

    def history(self, table: TableName) -> list[Version]:
        """None that is kept here: BigQuery's own is read with FOR SYSTEM_TIME AS OF."""
        contract_of(table)
        raise no_history(self._where(table))

    def maintain(self, table: TableName, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:  # noqa: ARG002 - the protocol's
        """Nothing: BigQuery does it by itself."""
        contract_of(table)
        return UpkeepReport(table=table, note="BigQuery maintains its tables by itself")

    def location(self, table: TableName) -> str:
        """The table's qualified name."""
        contract_of(table)
        return f"{self._project}.{self._dataset}.{table} (BigQuery)"

    def _client(self) -> bigquery.Client:
        if self._opened is None:
            self._opened = bigquery.Client(project=self._project, location=self._location)
        return self._opened

    def _query(self, text: str, **parameters: str | bool) -> Any:
        kinds = {str: "STRING", bool: "BOOL"}
        config = bigquery.QueryJobConfig(
            query_parameters=[
                bigquery.ScalarQueryParameter(name, kinds[type(value)], value) for name, value in parameters.items()
            ]
        )
        return self._client().query(text, job_config=config).result()

    def _reference(self, table: str) -> str:
        return f"{self._project}.{self._dataset}.{table}"

    def _where(self, table: str) -> str:
        return f"table '{self._dataset}.{table}' in {self._shown}"

    @contextmanager
    def _clear_errors(self, table: str) -> Iterator[None]:
        try:
            yield
        except (RobertError, RowsFailed):
            raise
        except (GoogleAPIError, GoogleAuthError, OSError, pa.ArrowException) as error:
            raise WarehouseError(
                f"{self._where(table)}: {one_line(error)}",
                fix="See that the project can be reached and that its credentials (GOOGLE_APPLICATION_CREDENTIALS) may "
                "write the data set",
                transient=isinstance(error, OSError | ServerError | TooManyRequests) or _lost_a_race(error),
            ) from None


def _column(field: bigquery.SchemaField) -> TableColumn:
    kind = field.field_type
    if kind == "RECORD":
        kind = f"RECORD<{', '.join(f'{inner.name} {inner.field_type}' for inner in field.fields)}>"
    shape = f"REPEATED {kind}" if field.mode == "REPEATED" else kind
    return TableColumn(shape=shape, required=field.mode == "REQUIRED")


def _lost_a_race(error: Exception) -> bool:
    reason = str(error).lower()
    return isinstance(error, GoogleAPIError) and ("concurrent" in reason or "serialize access" in reason)
