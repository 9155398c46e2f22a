"""Commands about what comes in: `import` and `plan`."""

from typing import Annotated

import typer

from robert_pipeline.cli.options import Partitions, with_settings
from robert_pipeline.config import Columns, Settings
from robert_pipeline.terminal import counted, import_progress, say, show_table


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("import")(import_)
    app.command("plan")(with_settings(plan))


def import_(
    source: Annotated[str, typer.Argument(help="Hub name, file, or folder of CSV, JSON, Parquet or text files.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the corpus.")] = "corpus",
    split: Annotated[str, typer.Option("--split", help="Split of a hub data set.")] = "train",
    subset: Annotated[str | None, typer.Option("--subset", help="Configuration of a hub data set.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="Name of the partition [split=SPLIT].")] = None,
    doc_id_column: Annotated[str, typer.Option("--doc-id-column", help="Column of the ids.")] = Columns().doc_id,
    text_column: Annotated[str, typer.Option("--text-column", help="Column of the texts.")] = Columns().text,
    label_column: Annotated[str, typer.Option("--label-column", help="Column of the labels.")] = Columns().label,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what the partition holds.")] = False,
) -> None:
    """Turn a data set into a corpus, or into one more partition of a corpus.

    Rows without an id get the number of their row. A text file is one document, its folder is its label. Unusable rows
    are kept, and rejected with a reason when they are embedded.

    Example: `robert import reviews.csv --out corpus --text-column body --partition day=2026-01-31`
    """
    from robert_pipeline.runs.import_corpus import import_corpus

    columns = Columns(doc_id=doc_id_column, text=text_column, label=label_column)
    with import_progress() as on_rows:
        report = import_corpus(
            source,
            out=out,
            columns=columns,
            split=split,
            subset=subset,
            partition=partition,
            replace=replace,
            on_rows=on_rows,
        )
    documents = counted(report.documents, "document")
    say(f"{documents}, {report.labelled:,} with a label, in partition '{report.partition}'")
    say(f"written to {report.path}")
    if report.left_out:
        say(f"left out: {', '.join(report.left_out[:5])}{', …' if len(report.left_out) > 5 else ''}")


def plan(settings: Settings, partition: Partitions = None) -> None:
    """Show what there is to embed, reading no text.

    A unit is what one worker embeds into one shard; what is embedded already is kept.

    Example: `robert plan --corpus corpus`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import plan as run_plan

    planned = run_plan(settings, partitions=partition or (), run_id=new_run_id())
    show_table(
        "",
        ("partition", "documents", "text MB", "units", "to embed"),
        [
            (p.partition, f"{p.document_count:,}", f"{p.text_bytes / 1e6:,.1f}", len(p.units), len(p.missing))
            for p in planned.partitions
        ],
    )
