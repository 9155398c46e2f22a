"""Commands about the embedding store: `store ls`, `stats`, `verify`, `gc`; and about what was rejected."""

from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import Partitions, store_address, with_settings
from robert_pipeline.cli.table_options import ConfigOption
from robert_pipeline.config import Settings
from robert_pipeline.terminal import megabytes, say, show_table, work_progress

if TYPE_CHECKING:
    from robert_pipeline.runs.store_gc import GcReport
    from robert_pipeline.runs.store_verify import VerifyReport

SHOWN_FILES = 20

StoreOption = Annotated[
    str | None, typer.Option("--store", help="Folder of the embedding store [store].", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    store = typer.Typer(
        help="Look after the embedding store: what is in it, is it whole, what of it can go.", no_args_is_help=True
    )
    store.command("ls")(ls)
    store.command("stats")(stats)
    store.command("verify")(with_settings(verify))
    store.command("gc")(with_settings(gc))
    app.add_typer(store, name="store")
    app.command("rejects")(with_settings(rejects))
    app.command("replay")(with_settings(replay, like_head=True))


def ls(store: StoreOption = None, config: ConfigOption = None) -> None:
    """List the store by encoder and partition, from the shards' footers.

    Example: `robert store ls --store store`
    """
    from robert_pipeline.runs.store_inventory import list_store

    listings = list_store(store_address(store, config))
    show_table(
        "",
        ("encoder", "chunking", "partition", "shards", "documents", "rejected", "chunks", "MB", "scored by"),
        [
            (
                f"{item.encoder_name} {item.key.encoder_fingerprint}".strip(),
                item.key.chunking_fingerprint,
                item.partition,
                f"{item.shard_count}" + (f" ({item.unreadable} unreadable)" if item.unreadable else ""),
                f"{item.counts.embedded:,}",
                f"{item.counts.rejected:,}",
                f"{item.counts.chunks:,}",
                megabytes(item.embedding_bytes),
                ", ".join(item.scored_by),
            )
            for item in listings
        ],
    )


def stats(store: StoreOption = None, config: ConfigOption = None) -> None:
    """Documents, chunks, bytes and reuse, by encoder.

    Example: `robert store stats --store s3://bucket/store`
    """
    from robert_pipeline.runs.store_inventory import store_stats

    report = store_stats(store_address(store, config))
    show_table(
        "",
        ("encoder", "chunking", "vectors", "shards", "documents", "reused", "chunks", "tokens", "MB", "bytes/chunk"),
        [
            (
                f"{item.encoder_name} {item.key.encoder_fingerprint}".strip(),
                item.key.chunking_fingerprint,
                f"{item.dimension} × {item.key.vector_dtype}",
                item.shard_count,
                f"{item.counts.embedded:,}",
                f"{item.reuse_rate:.1%}",
                f"{item.counts.chunks:,}",
                f"{item.counts.tokens:,}",
                megabytes(item.embedding_bytes),
                f"{item.bytes_per_chunk:,.0f}",
            )
            for item in report.encoders
        ],
    )
    say(", ".join(f"{name} {megabytes(size)} MB" for name, size in report.bytes_of.items() if size))
    if report.unreadable:
        say(f"{report.unreadable} shards cannot be read: run `robert store verify`")


def verify(
    settings: Settings,
    check: Annotated[bool, typer.Option("--check", help="Only look; set nothing aside, rebuild nothing.")] = False,
) -> None:
    """Check every byte of the store; set aside what is damaged, and embed and score it again.

    Checked are seals, checksums, contracts, counts, fingerprints and that vectors are finite. A damaged file is moved
    to the folder quarantine/ of the store. Exit code 1 where something damaged was not made anew.

    Example: `robert store verify --corpus corpus --encoder minilm`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.store_verify import verify_store

    report = verify_store(settings, check_only=check, run_id=new_run_id())
    _show_verified(report)
    if not all(finding.is_mended for finding in report.findings):
        raise typer.Exit(1)


def gc(
    settings: Settings,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what is listed. Without it nothing changes.")
    ] = False,
    older_than_hours: Annotated[
        float, typer.Option("--older-than-hours", help="Spare younger files: a run at work may need them.")
    ] = 24,
    superseded_days: Annotated[
        float | None,
        typer.Option(
            "--superseded-days",
            help="Also let go vectors older than this that no planned unit holds [they are kept].",
        ),
    ] = None,
) -> None:
    """List, and with --delete remove, what the store holds for nothing.

    That is: leftovers of killed runs; shards of units that the corpus does not hold any more, as long as every text
    of theirs is in a unit that it does hold; rejects and predictions without their embedding shard. Vectors of texts
    that are nowhere else are kept, since a text that comes back is then not embedded again; --superseded-days lets
    go the old ones. Shards of other corpora, other columns or another unit size are never touched, and under every
    encoder and head, units that the corpus holds are kept. On object stores, a lifecycle rule ends unfinished uploads.

    Example: `robert store gc --corpus corpus`, then the same with `--delete`
    """
    from robert_pipeline.runs.store_gc import collect_garbage

    report = collect_garbage(
        settings, delete=delete, older_than_hours=older_than_hours, superseded_days=superseded_days
    )
    _show_garbage(report)


def rejects(
    settings: Settings,
    partition: Partitions = None,
    reason: Annotated[list[str] | None, typer.Option("--reason", help="Only these reasons, may be repeated.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Only count.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="Rows to list.", min=1)] = SHOWN_FILES,
) -> None:
    """List and count the rows that could not be labelled, with reason, file and row.

    Read from the store: what is not published yet is seen too. The published ones are the table `rejects` of
    `robert query`.

    Example: `robert rejects --corpus corpus --partition day=2026-01-31 --reason empty_text`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.rejects import list_rejects

    report = list_rejects(settings, partitions=partition or (), reasons=reason or (), run_id=new_run_id())
    if not count and report.rows.num_rows:
        columns = ("doc_id", "partition", "file", "row", "reason", "detail")
        shown = report.rows.select(columns).slice(0, limit).to_pylist()
        show_table("", columns, [list(row.values()) for row in shown])
        if report.rows.num_rows > limit:
            say(f"and {report.rows.num_rows - limit:,} more; --limit shows more of them")
    if report.counts:
        show_table("", ("partition", "reason", "rows"), [(p, r, f"{n:,}") for p, r, n in report.counts])
    say(f"{report.rows.num_rows:,} rows rejected")
    if report.missing_unit_count:
        say(f"{report.missing_unit_count} units are not embedded yet; what they reject is not known")


def replay(settings: Settings, partition: Partitions = None) -> None:
    """Run rejected rows again, after their cause is mended, and publish their partitions anew.

    Example: `robert replay --corpus corpus --model model --partition day=2026-01-31`
    """
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.replay import plan_replay
    from robert_pipeline.runs.replay import replay as run_replay

    replayed = plan_replay(settings, partitions=partition or (), run_id=new_run_id())
    planned = replayed.planned
    with work_progress({"embedding": planned.missing_document_count, "scoring": planned.document_count}):
        partitions = run_replay(settings, replayed)
    if not partitions:
        say("nothing is rejected")
        return
    show_table(
        "",
        ("partition", "rejected before", "rejected now", "table"),
        [(p.partition, f"{p.rejected_before:,}", f"{p.rejected_after:,}", str(p.commit)) for p in partitions],
    )


def _show_verified(report: "VerifyReport") -> None:
    for finding in report.findings:
        say(f"{finding.problem}: {finding.outcome}")
        if finding.why_not:
            say(f"    not rebuilt: {finding.why_not}")
    damaged = f"{len(report.findings)} damaged" if report.findings else "all whole"
    say(f"{report.file_count:,} files, {megabytes(report.size_bytes)} MB, in {report.seconds:.1f} s: {damaged}")


def _show_garbage(report: "GcReport") -> None:
    by_reason: dict[str, list[int]] = {}
    for item in report.garbage:
        by_reason.setdefault(item.reason, []).append(item.size_bytes)
    for item in report.garbage[:SHOWN_FILES]:
        say(f"{item.path}  ({item.reason})")
    if len(report.garbage) > SHOWN_FILES:
        say(f"and {len(report.garbage) - SHOWN_FILES:,} more")
    if by_reason:
        rows = [(reason, len(sizes), megabytes(sum(sizes))) for reason, sizes in sorted(by_reason.items())]
        show_table("", ("reason", "files", "MB"), rows)
    done = "deleted" if report.is_deleted else "can go; --delete removes them" if report.garbage else "can go"
    say(f"{len(report.garbage):,} files, {megabytes(report.size_bytes)} MB, {done}")
    if report.kept_superseded_shards:
        say(
            f"kept: {report.kept_superseded_shards:,} shards ({megabytes(report.kept_superseded_bytes)} MB) that are "
            "not planned any more, for the texts that only they hold; --superseded-days lets old ones go"
        )
    if report.other_shards:
        say(f"kept: {report.other_shards:,} shards of other corpora or settings")
