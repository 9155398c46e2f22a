"""The command that labels history: `backfill`, and its price list."""

from typing import TYPE_CHECKING, Annotated

import typer

from robert_pipeline.cli.options import Force, Partitions, with_settings
from robert_pipeline.config import Settings
from robert_pipeline.terminal import say, show_table, working_progress

if TYPE_CHECKING:
    from robert_pipeline.core.price import Estimate
    from robert_pipeline.runs.backfill import BackfilledPartition, BackfillReport
    from robert_pipeline.runs.backfill_plan import BackfillPlan

UNKNOWN = "unknown"
SOME_FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("backfill")(with_settings(backfill, like_head=True))


def backfill(
    settings: Settings,
    partition: Partitions = None,
    since: Annotated[
        str | None, typer.Option("--since", help="First day, such as 2026-01-01 [the oldest].", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Last day, included [the newest].", show_default=False)
    ] = None,
    reprocess: Annotated[
        str,
        typer.Option(
            "--reprocess",
            help="What to run besides partitions never published: none; those that failed; also the stale ones (by "
            "another head, encoder, contract, or from other documents); also the completed ones.",
        ),
    ] = "none",
    max_active: Annotated[
        int | None,
        typer.Option("--max-active", help="Partitions at the same time [1].", min=1, show_default=False),
    ] = None,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="Begin with the last day.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its price; run nothing.")] = False,
    price_per_hour: Annotated[
        float | None,
        typer.Option("--price-per-hour", help="What an hour of this machine costs.", min=0, show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="Refuse to start above this cost, and stop at it.", min=0, show_default=False),
    ] = None,
    force: Force = False,
) -> None:
    """Label the partitions that the published table lacks, or holds from an older head, and show the price first.

    Every partition is a process of its own, and none runs twice at a time, whoever starts it. What was killed or
    stopped goes on when the same command is given again. Hours come from earlier runs on this kind of machine.

    Example: `robert backfill --since 2026-01-01 --until 2026-01-31 --reprocess stale --max-active 2 --dry-run`
    """
    from robert_pipeline.core.backfill import check_reprocess, parse_day
    from robert_pipeline.runs.backfill import run_backfill
    from robert_pipeline.runs.backfill_plan import Selection, plan_backfill
    from robert_pipeline.runs.identity import new_run_id

    selection = Selection(
        since=None if since is None else parse_day("--since", since),
        until=None if until is None else parse_day("--until", until),
        partitions=tuple(partition or ()),
        reprocess=check_reprocess(reprocess),
        newest_first=newest_first,
    )
    planned = plan_backfill(settings, selection, run_id=new_run_id(), price_per_hour=price_per_hour)
    _show_plan(planned)
    planned.estimate.check_budget(budget)
    if dry_run:
        say("nothing was run; leave --dry-run out to run it")
        return
    if not planned.chosen:
        return
    with working_progress("backfill") as progress:

        def on_ended(ended: "BackfilledPartition", count: int) -> None:
            say(f"{ended.partition}: {ended.ending}{f': {ended.error}' if ended.error else ''}")
            progress(f"{count} of {len(planned.chosen)} partitions", count / len(planned.chosen))

        report = run_backfill(planned, max_active=max_active, force=force, budget=budget, on_ended=on_ended)
    _show_report(report)
    if report.count("failed") or report.over_budget:
        raise typer.Exit(SOME_FAILED)


def _show_plan(planned: "BackfillPlan") -> None:
    states = [fact.state for fact in planned.facts]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    say(f"{len(states)} partitions: {counted}")
    if planned.chosen:
        show_table(
            "to run",
            ("partition", "state", "documents", "to embed", "because"),
            [
                (
                    fact.partition,
                    fact.state,
                    f"{fact.documents:,}",
                    f"{fact.missing_documents:,}",
                    fact.why(planned.current),
                )
                for fact in planned.chosen
            ],
        )
    show_table("price list", ("", "estimate"), _prices(planned.estimate))
    if planned.estimate.hours is None:
        say(
            f"hours are unknown: no partition was run with this encoder on this machine ({planned.machine}); "
            "`robert backfill --partition NAME` runs one"
        )
    elif planned.chosen:
        say(f"hours come from {planned.rates.samples} earlier runs on {planned.machine}")


def _prices(estimate: "Estimate") -> list[tuple[str, str]]:
    rows = [
        ("partitions", f"{estimate.partitions:,}"),
        ("documents", f"{estimate.documents:,}, of which {estimate.documents_to_embed:,} to embed"),
        ("tokens", f"{_number(estimate.tokens)}, of which {_number(estimate.tokens_to_embed)} to embed"),
        ("embedded already", f"{estimate.embedded_share:.1%} of the text"),
        ("hours", _hours(estimate.hours)),
    ]
    if estimate.price_per_hour is not None:
        rows.append((f"money at {estimate.price_per_hour:,.2f} an hour", _money(estimate.money)))
    return rows


def _show_report(report: "BackfillReport") -> None:
    show_table(
        "",
        ("partition", "ended", "attempts", "documents", "rejected", "tokens", "seconds", "error"),
        [
            (
                p.partition,
                p.ending,
                p.attempts,
                f"{p.documents:,}",
                f"{p.rejected:,}",
                f"{p.tokens:,}",
                f"{p.seconds:.1f}",
                p.error,
            )
            for p in report.partitions
        ],
    )
    rows = [
        ("hours", _hours(report.estimate.hours), _hours(report.hours)),
        ("tokens to embed", _number(report.estimate.tokens_to_embed), f"{report.tokens:,}"),
    ]
    if report.money is not None:
        rows.append(("money", _money(report.estimate.money), _money(report.money)))
    show_table("estimate and actual", ("", "estimate", "actual"), rows)
    if report.over_budget:
        say(f"stopped at the budget: {report.count('not started')} partitions were not started")


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _hours(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _money(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.2f}"
