"""Commands about which head labels: `diff` two of them, `promote` one, `rollback`, and the ledger, `promotions`."""

from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import GATE, LABELS_WITH, VECTORS, Partitions, with_settings
from robert_pipeline.cli.table_options import ConfigOption, SinkOption, WarehouseOption, settings_of, warehouse_of
from robert_pipeline.config import Settings
from robert_pipeline.terminal import comparing_progress, say, show_table

if TYPE_CHECKING:
    from robert_pipeline.runs.diff import DiffReport
    from robert_pipeline.storage.promotions import Promotion

CandidateOption = Annotated[
    str | None, typer.Option("--candidate", help="Folder of the new head [`model` of the settings].")
]
SampleOption = Annotated[
    int | None, typer.Option("--sample", help="Compare about so many documents, chosen by a hash of the text [all].")
]
OutOption = Annotated[str, typer.Option("--out", help="Folder of diff.json and diff.html.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Who decides it [user@machine].", show_default=False)]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Why, for the ledger.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("diff")(with_settings(diff, GATE, LABELS_WITH, without=VECTORS))
    app.command("promote")(with_settings(promote, GATE, without=VECTORS | {"model"}))
    app.command("rollback")(rollback)
    app.command("promotions")(promotions)


def diff(
    settings: Settings,
    partition: Partitions = None,
    candidate: CandidateOption = None,
    sample: SampleOption = None,
    out: OutOption = "diff",
) -> None:
    """Show what would change if another head labelled, before any table does.

    Scores embedded documents with the head that labels now (--model, else the one promoted last) and with the
    candidate; embeds nothing. Shows how many labels flip, where to, what that does to the distribution of labels and,
    where the corpus has labels, to accuracy; the page also has the passages of the most confident flips.

    Example: `robert diff --candidate new-model --partition day=2026-01-31 --sample 10000`
    """
    from robert_pipeline.runs.diff import diff as run_diff
    from robert_pipeline.runs.identity import new_run_id

    with comparing_progress() as on_documents:
        report = run_diff(
            settings,
            candidate=candidate,
            partitions=partition or (),
            sample=sample,
            out=out,
            run_id=new_run_id(),
            on_documents=on_documents,
        )
    _show_diff(report)


def promote(
    settings: Settings,
    partition: Partitions = None,
    candidate: CandidateOption = None,
    sample: SampleOption = None,
    reason: ReasonOption = None,
    by: ByOption = None,
    out: OutOption = "diff",
) -> None:
    """Let a head label from now on, where what it changes is within the limits.

    Compares it with the current head as `robert diff` does. Where every limit of [gate] in robert.toml is kept, a copy
    goes into the registry and an entry into the ledger; `label`, `score`, `publish`, `predict` and the flows use it
    from then on. A first head is compared with nothing. Tables change when their partitions are labelled again.

    Example: `robert promote --candidate new-model --partition day=2026-01-31 --reason "trained on January"`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.promote import promote as run_promote
    from robert_pipeline.runs.promote import this_user

    with comparing_progress() as on_documents:
        report = run_promote(
            settings,
            candidate=candidate,
            partitions=partition or (),
            sample=sample,
            out=out,
            decided_by=by or this_user(),
            reason=reason,
            run_id=new_run_id(),
            on_documents=on_documents,
        )
    if report.diff is not None:
        _show_diff(report.diff)
    say(f"entry {report.entry.number}: head {report.entry.head_fingerprint} labels from now on, from {report.folder}")
    if report.diff is None:
        say("it is the first one, and was compared with nothing")


def rollback(
    reason: ReasonOption = None,
    by: ByOption = None,
    warehouse: WarehouseOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
) -> None:
    """Go back to the head that was the current one before.

    Its scores are still in the store: labelling the partitions again publishes them without scoring anything.

    Example: `robert rollback --reason "too many complaints"`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.promote import rollback as run_rollback
    from robert_pipeline.runs.promote import this_user

    settings = settings_of(warehouse, sink, config)
    entry = run_rollback(settings, decided_by=by or this_user(), reason=reason, run_id=new_run_id()).entry
    say(f"entry {entry.number}: head {entry.head_fingerprint} labels again; {entry.previous_head_fingerprint} did")


def promotions(warehouse: WarehouseOption = None, sink: SinkOption = None, config: ConfigOption = None) -> None:
    """List the ledger: which head was the current one since when, who decided it, and on what.

    Example: `robert promotions --warehouse warehouse`
    """
    from robert_pipeline.runs.promotions import promotions as run_promotions

    entries, current = run_promotions(warehouse_of(warehouse, sink, config))
    show_table(
        "",
        ("entry", "", "head", "before", "by", "at", "flips", "reason"),
        [_row(entry) for entry in entries],
    )
    say(f"current: head {current.head_fingerprint}" if current else "no head was promoted: that of `model` labels")


def _row(entry: "Promotion") -> tuple[object, ...]:
    return (
        entry.number,
        entry.action,
        entry.head_fingerprint,
        entry.previous_head_fingerprint or "",
        entry.decided_by,
        f"{entry.decided_at:%Y-%m-%d %H:%M:%S %Z}",
        f"{entry.flips:,} of {entry.documents:,}" if entry.documents else "",
        entry.reason or "",
    )


def _show_diff(report: "DiffReport") -> None:
    from robert_pipeline.core.flips import outcome_name
    from robert_pipeline.pages.diff import distribution_rows, flip_rows, summary

    found = report.diff
    show_table("labels", ("label", "documents before", "after", "points"), distribution_rows(found))
    if found.flips:
        show_table("flips", ("before", "after", "documents", "of those before"), flip_rows(found))
        show_table(
            "the most confident flips",
            ("partition", "document", "before", "after", "sure", "passage"),
            [
                (
                    flip.partition,
                    flip.doc_id,
                    outcome_name(flip.before),
                    outcome_name(flip.after),
                    f"{flip.confidence:.1%}",
                    flip.passage_after,
                )
                for flip in found.top_flips
            ],
        )
    for sentence in summary(found, report.measures):
        say(sentence)
    say(f"written to {report.json_path} and {report.page_path}")
