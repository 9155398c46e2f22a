"""An Evaluation as one HTML page: who is right how often, on which lengths, how sure, and where it errs."""

from collections.abc import Sequence

from robert_pipeline.core.evaluation import Difference, Evaluation, LengthBand, ModelResult, Spread
from robert_pipeline.core.metrics import CALIBRATION_BINS, ClassScore, ReliabilityBin
from robert_pipeline.pages.page import Section, facts, figure, folded, page, table
from robert_pipeline.pages.plots import Curve, Point, Series, against_diagonal, heat, lines, ranges

LABELS_IN_HEAT = 60


def evaluation_page(evaluation: Evaluation) -> str:
    """The page, whole."""
    first = evaluation.models[0]
    sections = [_models(evaluation), _lengths(evaluation), _calibration(evaluation)]
    if first.runs[0].confusion and len(evaluation.labels) <= LABELS_IN_HEAT:
        sections.append(_confusion(evaluation, first))
    sections += [_classes(evaluation), _facts(evaluation)]
    return page(f"Evaluation: {first.name}", summary(evaluation), sections)


def summary(evaluation: Evaluation) -> list[str]:
    """What it all comes to, in sentences."""
    first = evaluation.models[0]
    judged_on = f"{evaluation.test_documents:,} documents{' that it has not learned from' * evaluation.all_unseen}"
    sentences = [
        f"{first.name} is right on {spread_percent(first.accuracy)} of {judged_on}; "
        f"macro-F1 {spread_percent(first.macro_f1)}."
    ]
    return sentences + [difference_sentence(first.name, difference) for difference in evaluation.differences]


def difference_sentence(name: str, difference: Difference) -> str:
    """One comparison, and whether it is more than the luck of the test documents."""
    points = f"{100 * difference.accuracy:+.1f} points"
    interval = f"95% interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if not difference.is_clear:
        return f"Against {difference.against}: {points} ({interval}): these documents do not tell them apart."
    word = "better" if difference.accuracy > 0 else "worse"
    return f"Against {difference.against}: {points} ({interval}): {name} is {word}."


def spread_percent(spread: Spread) -> str:
    """A mean with its deviation over seeds, where there is one."""
    return f"{spread.mean:.1%}" + (f" ± {100 * spread.deviation:.1f}" if spread.lowest < spread.highest else "")


def band_name(band: LengthBand) -> str:
    """The chunks of a band."""
    if band.fewest == band.most:
        return f"{band.fewest} chunk{'s' if band.fewest > 1 else ''}"
    return f"{band.fewest}–{band.most} chunks"


def _models(evaluation: Evaluation) -> Section:
    rows = [
        Series(name=model.name, points=(_point(model.accuracy, f"{model.name}: {spread_percent(model.accuracy)}"),))
        for model in evaluation.models
    ]
    given = [_given(model) for model in evaluation.models]
    columns = ["model", "accuracy", "macro-F1", "ECE", "labels given", "of these right", "seeds", "seconds"]
    body = figure(ranges(rows, label="Accuracy of each model", top=1.0), "Accuracy; the bar spans the seeds.")
    body += table(
        columns,
        [
            (
                model.name,
                spread_percent(model.accuracy),
                spread_percent(model.macro_f1),
                spread_percent(model.calibration_error),
                *shares,
                len(model.runs),
                _seconds(model),
            )
            for model, shares in zip(evaluation.models, given, strict=True)
        ],
        stress_first=True,
    )
    body += facts([(model.name, model.description) for model in evaluation.models])
    note = (
        "All models are judged on the same documents, and learned from the same others; TF-IDF also from those held "
        "out to stop and calibrate by, where it was calibrated before. ± is the standard deviation over seeds; ECE the "
        "expected calibration error after calibration; labels given are those not withheld for review; seconds are "
        "those of training and answering."
    )
    return Section(heading="Models, side by side", note=note, body=body)


def _given(model: ModelResult) -> tuple[str, str]:
    shares = [run.given_share for run in model.runs]
    right = [run.given_accuracy for run in model.runs if run.given_accuracy is not None]
    return f"{sum(shares) / len(shares):.1%}", f"{sum(right) / len(right):.1%}" if right else "none given"


def _seconds(model: ModelResult) -> str:
    measured = [run.seconds for run in model.runs if run.seconds is not None]
    return f"{_mean(measured):.1f}" if measured else "not measured"


def _lengths(evaluation: Evaluation) -> Section:
    bands = evaluation.bands
    series = [
        Series(
            name=model.name,
            points=tuple(
                _point(spread, f"{model.name}, {band_name(band)}: {spread_percent(spread)}")
                for band, spread in ((band, model.accuracy_in_band(number)) for number, band in enumerate(bands))
            ),
        )
        for model in evaluation.models
    ]
    categories = [(band_name(band), f"{band.documents:,} documents") for band in bands]
    rows = [
        (model.name, *(spread_percent(model.accuracy_in_band(number)) for number in range(len(bands))))
        for model in evaluation.models
    ]
    body = figure(lines(series, categories, label="Accuracy by length of the document", top=1.0))
    body += folded("as a table", table(["model", *(f"{name} ({content})" for name, content in categories)], rows))
    note = "Accuracy by the number of chunks of a document: recurrence should pay where there are many."
    return Section(heading="By length of the document", note=note, body=body)


def _calibration(evaluation: Evaluation) -> Section:
    drawings = []
    for model in evaluation.models:
        run = model.runs[0]
        before, after = model.uncalibrated_error, model.calibration_error
        drawings.append(
            figure(
                against_diagonal(
                    _curve("calibrated", run.calibrated.bins),
                    _curve("before", run.uncalibrated.bins),
                    x_name="probability",
                    label=f"Reliability of {model.name}",
                ),
                f"{model.name}: ECE {100 * before.mean:.1f}% before, {100 * after.mean:.1f}% after",
            )
        )
    rows = [
        (
            model.name,
            spread_percent(model.uncalibrated_error),
            spread_percent(model.calibration_error),
            f"{_mean([run.uncalibrated.log_loss for run in model.runs]):.3f}",
            f"{_mean([run.calibrated.log_loss for run in model.runs]):.3f}",
            f"{_mean([run.uncalibrated.brier for run in model.runs]):.3f}",
            f"{_mean([run.calibrated.brier for run in model.runs]):.3f}",
        )
        for model in evaluation.models
    ]
    about = "every label's probability" if evaluation.output == "multilabel" else "the probability of the label chosen"
    note = (
        f"How often labels are right against how probable they were called; on the dashed line both agree. ECE: "
        f"{CALIBRATION_BINS} bins of equal width over {about}, the difference in each weighted by its share of "
        "documents; a mark's area is that share, and drawings show the first seed."
    )
    columns = ["model", "ECE before", "after", "log loss before", "after", "Brier before", "after"]
    body = f'<div class="row">{"".join(drawings)}</div>' + table(columns, rows)
    return Section(heading="Can the probabilities be trusted?", note=note, body=body)


def _curve(name: str, bins: Sequence[ReliabilityBin]) -> Curve:
    return Curve(
        name=name,
        points=tuple((each.probability, each.accuracy, float(each.count)) for each in bins),
        tips=tuple(
            f"{name}: probability {each.probability:.1%}, right {each.accuracy:.1%}, {each.count:,} of them"
            for each in bins
        ),
    )


def _confusion(evaluation: Evaluation, model: ModelResult) -> Section:
    count, seeds = len(evaluation.labels), len(model.runs)
    mean = [
        [round(sum(run.confusion[row][column] for run in model.runs) / seeds, 1) for column in range(count)]
        for row in range(count)
    ]
    note = "Rows are the true labels, columns those given; documents, mean of the seeds. Shades are shares of the row."
    label = f"Confusion matrix of {model.name}"
    return Section(
        heading=f"What {model.name} takes for what", note=note, body=figure(heat(mean, evaluation.labels, label=label))
    )


def _classes(evaluation: Evaluation) -> Section:
    columns = ["label", "precision", "recall", "F1", "have it", "got it"]
    tables = []
    for number, model in enumerate(evaluation.models):
        rows = [_class_row([run.classes[k] for run in model.runs]) for k in range(len(evaluation.labels))]
        shown = table(columns, rows)
        tables.append(shown if number == 0 else folded(model.name, shown))
    note = f"{evaluation.models[0].name} first; means over seeds."
    return Section(heading="Label by label", note=note, body="".join(tables))


def _class_row(scores: Sequence[ClassScore]) -> tuple[str, ...]:
    return (
        scores[0].label,
        f"{_mean([score.precision for score in scores]):.1%}",
        f"{_mean([score.recall for score in scores]):.1%}",
        f"{_mean([score.f1 for score in scores]):.1%}",
        f"{scores[0].support:,}",
        f"{_mean([score.given for score in scores]):,.0f}",
    )


def _facts(evaluation: Evaluation) -> Section:
    counts = [("judged on", f"{evaluation.test_documents:,} documents")]
    if evaluation.learned_documents is not None:
        counts.append(("learned from", f"{evaluation.learned_documents:,} documents"))
    if evaluation.held_out_documents is not None:
        counts.append(("held out to stop and calibrate by", f"{evaluation.held_out_documents:,} documents"))
    return Section(heading="What was done", body=facts([*counts, *evaluation.facts]))


def _point(spread: Spread, tip: str) -> Point:
    return Point(value=spread.mean, low=spread.lowest, high=spread.highest, tip=tip)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
