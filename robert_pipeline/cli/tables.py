"""Commands that read the published tables: `query` and `explain`."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.table_options import AsOfOption, ConfigOption, SinkOption, WarehouseOption, warehouse_of
from robert_pipeline.errors import ConfigError
from robert_pipeline.terminal import counted, say, show_arrow, show_csv

if TYPE_CHECKING:
    from robert_pipeline.runs.explain import Explanation, Rejection


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("query")(query)
    app.command("explain")(explain)


def query(
    sql: Annotated[str, typer.Argument(help="SQL in DuckDB's dialect over `predictions`, `rejects` and `promotions`.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, every value whole.")] = False,
    out: Annotated[
        str | None, typer.Option("--out", help="Write the rows to a .csv or .parquet file.", show_default=False)
    ] = None,
    as_of: AsOfOption = None,
    warehouse: WarehouseOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the published tables, of any sink.

    In CSV, a text that a spreadsheet would run as a formula gets an apostrophe in front.

    Example: `robert query "SELECT label, count(*) AS documents FROM predictions GROUP BY label"`
    """
    from robert_pipeline.runs.query import query as run_query
    from robert_pipeline.storage.exports import export
    from robert_pipeline.storage.warehouse.sink import parse_as_of

    moment = None if as_of is None else parse_as_of(as_of)
    if isinstance(moment, str):
        raise ConfigError(f"--as-of is '{as_of}'", fix="Give a time, such as 2026-01-31: a version is one table's")
    rows = run_query(warehouse_of(warehouse, sink, config), sql, as_of=moment)
    if out is not None:
        export(rows, out)
        say(f"{counted(rows.num_rows, 'row')} written to {out}")
    elif csv:
        show_csv(rows)
    else:
        show_arrow(rows)


def explain(
    doc_id: Annotated[str, typer.Argument(help="Id of the document.")],
    partition: Annotated[
        str | None, typer.Option("--partition", help="Corpus partition [all].", show_default=False)
    ] = None,
    as_of: AsOfOption = None,
    warehouse: WarehouseOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what made a label, from the table alone: text, passage, encoder, head, thresholds, code and run.

    Example: `robert explain bbc-0001 --warehouse warehouse --as-of 2026-01-31`
    """
    from robert_pipeline.runs.explain import explain as run_explain
    from robert_pipeline.storage.warehouse.sink import parse_as_of

    moment = None if as_of is None else parse_as_of(as_of)
    report = run_explain(warehouse_of(warehouse, sink, config), doc_id, partition=partition, as_of=moment)
    for facts in (*map(_facts, report.explanations), *map(_rejected, report.rejections)):
        width = max(len(name) for name, _ in facts)
        say("\n".join(f"{name:<{width}}  {value}" for name, value in (("document", doc_id), *facts)) + "\n")


def _facts(found: "Explanation") -> list[tuple[str, str]]:
    given = ", ".join(found.labels) or f"none: withheld for review; would be {found.candidate_label}"
    rows = [("partition", found.partition), ("label", given)]
    for label in found.thresholds:
        held = [
            f"{name} {value:.4g}"
            for name, value in (("decision", label.decision), ("review", label.review))
            if value is not None
        ]
        rows.append((f"probability of {label.label}", f"{label.probability:.4f} (thresholds: {_or_unknown(held)})"))
    passage = (
        f"characters {found.passage_start:,} to {found.passage_end:,}, chunk {found.passage_chunk_index} of "
        f"{found.chunk_count} (from 0), contribution {found.passage_contribution:+.4f}"
    )
    promoted = "; ".join(f"entry {p.number} by {p.decided_by}, {_time(p.decided_at)}" for p in found.promotions)
    return [
        *rows,
        ("passage", passage),
        ("tokens", f"{found.tokens_seen:,} read of {found.tokens_total:,}"),
        ("text (SHA-256)", found.text_hash),
        ("encoder", found.encoder_fingerprint),
        ("chunking", found.chunking_fingerprint),
        ("head", found.head_fingerprint),
        ("head promoted", promoted or "never, as far as the ledger knows"),
        ("code version", found.code_version),
        ("run", found.run_id),
        ("scored at", _time(found.scored_at)),
    ]


def _rejected(found: "Rejection") -> list[tuple[str, str]]:
    return [
        ("partition", found.partition),
        ("label", "none: rejected"),
        ("reason", found.reason),
        ("detail", found.detail),
        ("place", f"{found.file}, row {found.row} (from 0)"),
        ("run", found.run_id),
        ("rejected at", _time(found.rejected_at)),
    ]


def _or_unknown(held: list[str]) -> str:
    return ", ".join(held) or "unknown, scored before they were kept"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"
