"""A HeadDiff beside its limits as one HTML page: what flips, where to, and the passages that made the new head sure."""

from collections.abc import Sequence
from dataclasses import dataclass

from robert_pipeline.core.flips import Flip, HeadDiff, Move, TruthChange, outcome_name
from robert_pipeline.core.gate import Measure, describe
from robert_pipeline.pages.page import Section, facts, figure, folded, page, table, text
from robert_pipeline.pages.plots import heat

OUTCOMES_IN_HEAT = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffPage:
    """What a comparison of two heads found, and how it was done, in words: name and value."""

    before: str
    candidate: str
    diff: HeadDiff
    measures: tuple[Measure, ...]
    facts: tuple[tuple[str, str], ...]


def diff_page(content: DiffPage) -> str:
    """The page, whole."""
    diff = content.diff
    sections = [_limits(content.measures), _flips(diff), _distribution(diff)]
    if diff.truth is not None:
        sections.append(_truth(diff.truth))
    sections += [_top(diff.top_flips), Section(heading="What was done", body=facts(content.facts))]
    return page(f"Head {content.candidate} against {content.before}", summary(diff, content.measures), sections)


def to_json(content: DiffPage) -> str:
    """The same for programs."""
    from pydantic import TypeAdapter

    return TypeAdapter(DiffPage).dump_json(content, indent=2).decode() + "\n"


def summary(diff: HeadDiff, measures: Sequence[Measure]) -> list[str]:
    """What it all comes to, in sentences."""
    sentences = [
        f"{diff.flips:,} of {diff.documents:,} documents ({diff.flip_share:.2%}) get another label; the distribution "
        f"of labels changes by {diff.distribution_change:.2%}."
    ]
    if diff.truth is None:
        sentences.append("What is right is not known: no document has a label in the corpus that neither head learned.")
    else:
        sentences.append(_truth_sentence(diff.truth))
    if diff.only_before or diff.only_after:
        sentences.append(
            f"Left out: {diff.only_before:,} documents that only the head before can label, {diff.only_after:,} that "
            "only the candidate can."
        )
    broken = [each for each in measures if not each.is_kept]
    if not broken:
        return [*sentences, "Every limit is kept: the candidate may be promoted."]
    return [*sentences, f"The candidate may not be promoted: {'; '.join(map(describe, broken))}."]


def _truth_sentence(truth: TruthChange) -> str:
    before, after = truth.right_before / truth.documents, truth.right_after / truth.documents
    points = f"{100 * truth.gain:+.2f} points, 95% interval {100 * truth.low:+.2f} to {100 * truth.high:+.2f}"
    known = f"{truth.documents:,} documents whose truth is known"
    return f"Accuracy goes from {before:.2%} to {after:.2%} on {known} ({points})."


def _limits(measures: Sequence[Measure]) -> Section:
    rows = [(each.name, describe(each), "kept" if each.is_kept else "broken") for each in measures]
    return Section(heading="Limits", body=table(["setting", "found", ""], rows, words=3))


def flip_rows(diff: HeadDiff) -> list[tuple[str, str, int, str]]:
    """(before, after, documents, share of the documents that had the label before) of every flip."""
    had = {outcome: before for outcome, before, _ in diff.distribution}
    return [
        (
            outcome_name(move.before),
            outcome_name(move.after),
            move.documents,
            f"{move.documents / had[move.before]:.1%}",
        )
        for move in diff.moves
        if move.before != move.after
    ]


def _flips(diff: HeadDiff) -> Section:
    outcomes = [outcome for outcome, _, _ in diff.distribution]
    shown = table(["before", "after", "documents", "of those before"], flip_rows(diff), words=2)
    note = "Rows are labels before, columns labels after; documents. Shades are shares of the row."
    if len(outcomes) > OUTCOMES_IN_HEAT:
        return Section(heading="What flips to what", body=shown)
    drawing = heat(_matrix(diff.moves, outcomes), [outcome_name(each) for each in outcomes], label="Flip matrix")
    return Section(heading="What flips to what", note=note, body=figure(drawing) + folded("as a table", shown))


def _matrix(moves: Sequence[Move], outcomes: Sequence[tuple[str, ...]]) -> list[list[float]]:
    place = {outcome: number for number, outcome in enumerate(outcomes)}
    matrix = [[0.0] * len(outcomes) for _ in outcomes]
    for move in moves:
        matrix[place[move.before]][place[move.after]] = move.documents
    return matrix


def distribution_rows(diff: HeadDiff) -> list[tuple[str, str, str, str]]:
    """(label, documents before, after, change of its share in points)."""
    return [
        (outcome_name(outcome), f"{before:,}", f"{after:,}", f"{100 * (after - before) / diff.documents:+.2f}")
        for outcome, before, after in diff.distribution
    ]


def _distribution(diff: HeadDiff) -> Section:
    columns = ["label", "documents before", "after", "points"]
    return Section(heading="Distribution of labels", body=table(columns, distribution_rows(diff)))


def _truth(truth: TruthChange) -> Section:
    note = "Before anything is withheld, on documents with a label in the corpus that neither head has learned from."
    columns = ["", "documents"]
    rows = [
        ("truth known", f"{truth.documents:,}"),
        ("right before", f"{truth.right_before:,}"),
        ("right after", f"{truth.right_after:,}"),
        ("wrong before, right after", f"{truth.won:,}"),
        ("right before, wrong after", f"{truth.lost:,}"),
    ]
    return Section(heading="Where the truth is known", note=note, body=table(columns, rows))


def _top(flips: Sequence[Flip]) -> Section:
    if not flips:
        return Section(heading="Flips", body="<p>No document gets another label.</p>")
    parts = []
    for flip in flips:
        moved = f"{outcome_name(flip.before)} → {outcome_name(flip.after)}"
        truth = "" if flip.truth is None else f"; the truth is {outcome_name(flip.truth)}"
        parts.append(
            f"<h3>{text(flip.doc_id)}: {text(moved)}</h3>"
            f'<p class="note">{text(flip.partition)}; the candidate is {flip.confidence:.1%} sure, the head before was '
            f"{flip.probability_before:.1%}{text(truth)}</p>"
            f"<p>{text(flip.passage_after)}</p>"
        )
        if flip.passage_before != flip.passage_after:
            parts.append(folded("the passage that decided before", f"<p>{text(flip.passage_before)}</p>"))
    note = "The most confident first, each with the passage that decided for the candidate."
    return Section(heading=f"The {len(flips)} most confident flips", note=note, body="".join(parts))
