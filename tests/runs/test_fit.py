"""Fine-tuning and the whole recipe, on a small corpus and an encoder of two narrow layers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robert_pipeline.config import Chunking, FinetuneConfig, Settings
from robert_pipeline.core.evaluation import from_json
from robert_pipeline.core.finetune.loop import Watchers
from robert_pipeline.errors import ConfigError, EncoderError, TrainingError
from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.evaluate import Comparison, evaluate
from robert_pipeline.runs.finetune import STATE_FOLDER, finetune, read_material, tune
from robert_pipeline.runs.fit import LABELLED_FOLDER, STORE_FOLDER, fit
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.predict import predict
from robert_pipeline.runs.train import train
from robert_pipeline.storage.encoders import identify_encoder
from robert_pipeline.storage.encoders.checkpoint import load_checkpoint
from robert_pipeline.storage.encoders.learned import LEARNED_FILE, load_learned
from robert_pipeline.storage.files import Files
from robert_pipeline.storage.heads import load_head, load_learned_keys
from tests.projects import WORDS, texts

COUNT = 40
QUICK = FinetuneConfig(epochs=1, step_tokens=800, batch_tokens=400)


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_source):
    folder = tmp_path_factory.mktemp("fit")
    rows = [(f"{label}-{i}", text, label) for label in WORDS for i, text in enumerate(texts(label, COUNT, "fit"))]
    rows += [("nameless", "a match without a label", None), ("blank", "  ", "sport")]
    write(folder / "corpus.parquet", rows)
    return Settings(
        corpus=str(folder / "corpus.parquet"),
        encoder=tiny_source,
        chunking=Chunking(chunk_tokens=16, overlap_tokens=4),
        finetune=QUICK,
    )


def write(path, rows):
    columns = dict(zip(("doc_id", "text", "label"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)


@pytest.fixture(scope="module")
def fitted(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "model"
    return fit(settings, plan(settings, run_id="fit"), out=str(out), max_minutes=5)


def test_one_folder_is_the_whole_model(fitted, tmp_path):
    """A model could not be handed on: an encoder, a page or the card would be missing, or a store left behind."""
    found = {path.name for path in Path(fitted.model).iterdir()}
    words = f"words-{fitted.head.fingerprint}.safetensors"
    assert {"encoder", "head.json", "evaluation.json", "evaluation.html", "README.md", words} <= found
    assert not found & {STATE_FOLDER, STORE_FOLDER, LABELLED_FOLDER}
    assert json.loads((Path(fitted.model) / "head.json").read_text())["encoder"]["name"] == "./encoder"
    back = load_head(fitted.model)
    assert back.fingerprint == fitted.head.fingerprint
    assert back.fusion.sha256 == fitted.head.fusion.sha256
    assert from_json((Path(fitted.model) / "evaluation.json").read_text()) == fitted.evaluation
    card = (Path(fitted.model) / "README.md").read_text()
    assert fitted.head.fingerprint in card
    assert "2 labels: `business`, `sport`" in card
    assert "1 without a label, 1 not usable" in card


def test_it_labels_after_its_folder_was_moved(fitted, settings, tmp_path):
    """A model copied to another machine would look for an encoder that is not there."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(fitted.model, moved)
    rows = [(f"{label}-{i}", text, "") for label in WORDS for i, text in enumerate(texts(label, 10, "new"))]
    write(tmp_path / "new.parquet", rows)
    hidden = f"{fitted.model}.away"
    os.rename(fitted.model, hidden)  # noqa: PTH104
    try:
        report = predict(
            str(tmp_path / "new.parquet"), model=str(moved), out=str(tmp_path / "out.parquet"), run_id="predict"
        )
    finally:
        os.rename(hidden, fitted.model)  # noqa: PTH104
    assert report.labelled == 20
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert np.mean([row["doc_id"].startswith(row["label"]) for row in found]) > 0.8
    assert {row["head_fingerprint"] for row in found} == {fitted.head.fingerprint}


def test_every_part_is_judged_on_the_same_documents(fitted):
    """The model would be praised without anybody to compare it with."""
    names = [model.name for model in fitted.evaluation.models]
    assert names[0] == "the model"
    assert {"RoBERT", "mean of chunks", "TF-IDF + linear SVM"} <= set(names)
    assert fitted.evaluation.test_documents == fitted.finetune.held_out_documents > 0
    assert len(fitted.evaluation.models[0].runs) == 3
    total = fitted.finetune.learned_documents + fitted.finetune.held_out_documents
    assert total == 2 * COUNT
    assert fitted.finetune.unlabelled_documents == 1
    assert fitted.finetune.rejected_documents == 1
    assert fitted.embedded_documents == total  # of a night's million documents those without a label would be, too


def test_several_labels_a_document(settings, tmp_path):
    """A multi-label corpus could not be fitted."""
    kinds = list(WORDS)
    rows = []
    for i in range(48):
        chosen = [kinds[0]] if i % 3 == 0 else [kinds[1]] if i % 3 == 1 else kinds
        rows.append((f"d{i}", " ".join(texts(kind, 1, f"multi {i}")[0] for kind in chosen), "|".join(chosen)))
    write(tmp_path / "corpus.parquet", rows)
    many = replace(settings, corpus=str(tmp_path / "corpus.parquet"), head=replace(settings.head, output="multilabel"))
    report = fit(many, plan(many, run_id="fit"), out=str(tmp_path / "model"), max_minutes=5)
    assert report.head.config.output == "multilabel"
    assert report.head.fusion is not None


def test_a_finetuned_encoder_loads_anywhere_and_is_another_one(settings, tmp_path):
    """Other tools could not read it, or training would have changed nothing."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    seen = []
    report = finetune(settings, plan(settings, run_id="tune"), out=str(tmp_path / "encoder"), on_evaluation=seen.append)
    assert report.history == tuple(seen)
    assert report.best in seen
    before = AutoModel.from_pretrained(settings.encoder.name).state_dict()
    after = AutoModel.from_pretrained(tmp_path / "encoder").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("layer.1" in name for name in changed)
    assert not any("embeddings" in name for name in changed)
    assert AutoTokenizer.from_pretrained(tmp_path / "encoder")("goal")["input_ids"]
    assert not (tmp_path / "encoder" / STATE_FOLDER).exists()
    assert finetune(settings, plan(settings, run_id="tune"), out=str(tmp_path / "encoder")).steps == report.steps


def test_nothing_made_with_a_finetuned_encoder_is_judged_on_what_it_learned(settings, tmp_path):
    """Any labels at all would be 'predicted' by an encoder that knows the texts by heart."""
    rng = np.random.default_rng(0)
    found = pq.read_table(settings.corpus).to_pylist()
    rows = [(row["doc_id"], row["text"], "ab"[rng.integers(2)]) for row in found if row["label"]]
    write(tmp_path / "corpus.parquet", rows)
    settings = replace(
        settings,
        corpus=str(tmp_path / "corpus.parquet"),
        store=str(tmp_path / "store"),
        model=str(tmp_path / "model"),
        training=replace(settings.training, validation_fraction=0.5, epochs=3),
    )
    tuned = finetune(settings, plan(settings, run_id="tune"), out=str(tmp_path / "encoder"))
    learned = load_learned(tmp_path / "encoder")
    assert len(learned) == tuned.learned_documents < 2 * COUNT
    settings = replace(settings, encoder=tuned.encoder)
    assert identify_encoder(settings.encoder).fingerprint == tuned.encoder_fingerprint
    embed(settings, run_id="r")
    planned = plan(settings, run_id="r")
    trained = train(settings, planned)
    assert 0 < trained.held_out_documents <= tuned.held_out_documents
    assert set(learned.tolist()) <= set(load_learned_keys(settings.model).tolist())
    compared = Comparison(seeds=1, against=("tfidf",))
    page = evaluate(settings, planned, compared, out=str(tmp_path / "page")).evaluation
    assert page.test_documents <= tuned.held_out_documents / 2 + 4
    assert page.models[0].accuracy.mean < 0.9
    assert f"none of the {len(learned)} that the encoder has learned from" in dict(page.facts)["split"]
    again = finetune(settings, plan(settings, run_id="again"), out=str(tmp_path / "again"))
    assert again.held_out_documents <= tuned.held_out_documents
    assert set(learned.tolist()) <= set(load_learned(tmp_path / "again").tolist())
    (tmp_path / "encoder" / LEARNED_FILE).write_bytes(b"cut")
    with pytest.raises(EncoderError, match=r"text_keys\.safetensors cannot be read"):
        train(settings, planned)


def test_a_training_goes_on_only_with_what_it_began_with(settings, tmp_path):
    """Labels that were mended would be learned by a classifier of the old ones, or end the training in torch."""
    states = Files(str(tmp_path / "states"))

    def tuned(settings):
        planned = plan(settings, run_id="tune")
        checkpoint = load_checkpoint(planned.encoder)
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        material = read_material(settings, planned, checkpoint, folder)
        steps = []
        watchers = Watchers(on_step=lambda progress: steps.append(progress.step))
        done, _ = tune(settings, checkpoint, material, states=states, budget=None, watchers=watchers)
        return done, steps

    first, steps = tuned(settings)
    assert steps[0] == 1
    again, steps = tuned(settings)
    assert steps == []
    assert again.tokens_per_second == pytest.approx(first.tokens_per_second)
    assert again.earlier_seconds > 0
    other = replace(settings, training=replace(settings.training, positive_label="business"))
    assert tuned(other)[1][0] == 1
    several = replace(settings, head=replace(settings.head, output="multilabel"))
    assert tuned(several)[1][0] == 1


KILLED = """
import sys
from tests.runs.test_fit import slow_training
slow_training(*sys.argv[1:])
"""


def slow_training(corpus, encoder, out):
    """Fine-tune with a state after every step; says each step on stdout."""
    from robert_pipeline.config import EncoderSource
    from robert_pipeline.core.finetune import loop

    loop.Watchers.__init__.__kwdefaults__["state_seconds"] = 0.0
    settings = Settings(
        corpus=corpus,
        encoder=EncoderSource(name=encoder, precision="float32"),
        chunking=Chunking(chunk_tokens=16, overlap_tokens=4),
        finetune=replace(QUICK, epochs=6, dropout=0.0),
    )
    report = finetune(
        settings,
        plan(settings, run_id="tune"),
        out=out,
        on_progress=lambda progress: print(progress.step, flush=True),  # noqa: T201
    )
    print("encoder", report.encoder_fingerprint, flush=True)  # noqa: T201


def test_killed_it_goes_on_and_comes_to_the_same_weights(settings, tmp_path):
    """An hour of training would be lost to a crash, or end in another model."""

    def start(out):
        arguments = [settings.corpus, settings.encoder.name, str(out)]
        return subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)

    whole = start(tmp_path / "whole").communicate()[0].split()
    process = start(tmp_path / "killed")
    seen = [int(process.stdout.readline()) for _ in range(5)]
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / STATE_FOLDER / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    after = start(tmp_path / "killed").communicate()[0].split()
    assert seen[0] == 1
    assert int(after[0]) > 1
    assert after[-1] == whole[-1]


FITTING = """
import sys
from tests.runs.test_fit import told_fit
told_fit(*sys.argv[1:])
"""


def say(text):
    print(text, flush=True)  # noqa: T201 - the test reads it


def told_fit(corpus, encoder, out):
    """Fit; says on stdout what it is doing."""
    from robert_pipeline.config import EncoderSource

    settings = Settings(
        corpus=corpus,
        encoder=EncoderSource(**json.loads(encoder)),
        chunking=Chunking(chunk_tokens=16, overlap_tokens=4),
        finetune=QUICK,
    )
    planned = plan(settings, run_id="fit")
    report = fit(settings, planned, out=out, max_minutes=5, on_step=lambda text, _done: say(text))
    say(report.head.fingerprint)


def test_a_fit_that_was_killed_comes_to_the_same_model(fitted, settings, tmp_path):
    """A training that was done would be done again, or the model be another one."""
    arguments = [settings.corpus, json.dumps(asdict(settings.encoder)), str(tmp_path / "model")]

    def start():
        return subprocess.Popen([sys.executable, "-c", FITTING, *arguments], stdout=subprocess.PIPE, text=True)

    process = start()
    for line in process.stdout:
        if line.startswith("embedding"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = start().communicate()[0].splitlines()
    assert not any(line.startswith("fine-tuning") for line in said)
    assert said[-1] == fitted.head.fingerprint


def test_what_cannot_be_learned_is_refused_by_name(settings, tmp_path):
    """An hour of training would end in an error, or in a model of nothing."""
    rows = [(f"d{i}", text, "sport") for i, text in enumerate(texts("sport", 12, "bad"))]
    for labels, named in (
        ({0: "odd"}, "label 'odd' has one document"),
        ({}, "fewer than two labels"),
        (dict.fromkeys(range(12)), "no label"),
    ):
        changed = [(doc_id, text, labels.get(i, label)) for i, (doc_id, text, label) in enumerate(rows)]
        write(tmp_path / "corpus.parquet", changed)
        bad = replace(settings, corpus=str(tmp_path / "corpus.parquet"))
        with pytest.raises(TrainingError, match=named):
            fit(bad, plan(bad, run_id="fit"), out=str(tmp_path / "model"))
        assert not (tmp_path / "model" / "head.json").exists()


def test_a_place_that_cannot_hold_a_checkpoint_and_chunks_too_long_are_refused(settings):
    """Training would end before what it made can be written or used."""
    with pytest.raises(ConfigError, match="local folder"):
        finetune(settings, plan(settings, run_id="tune"), out="s3://bucket/encoder")
    long = replace(settings, chunking=Chunking(chunk_tokens=511, overlap_tokens=4))
    with pytest.raises(ConfigError, match="reads at most 510"):
        finetune(long, plan(long, run_id="tune"), out="encoder")


def test_what_is_no_model_is_not_replaced(settings, tmp_path):
    """Somebody's README would be gone after an hour of training, or the training for a name that is a file's."""
    planned = plan(settings, run_id="fit")
    (tmp_path / "another" / "encoder").mkdir(parents=True)
    own = tmp_path / "own" / "README.md"
    own.parent.mkdir()
    own.write_text("mine")
    for folder, name in ((own.parent, "README.md"), (tmp_path / "another", "encoder")):
        with pytest.raises(ConfigError, match=rf"--out is .*{folder.name}', where {name} is no model's"):
            fit(settings, planned, out=str(folder))
    for make in (fit, finetune):
        with pytest.raises(ConfigError, match=r"--out is .*README\.md', which is a file"):
            make(settings, planned, out=str(own))
    assert [path.name for path in own.parent.iterdir()] == ["README.md"]
    assert own.read_text() == "mine"


def test_an_encoder_is_not_written_over_the_one_it_begins_with_or_anybodys(settings, tmp_path):
    """Pretrained weights would be gone, and the next training begin with tuned ones."""
    base = tmp_path / "base"
    shutil.copytree(settings.encoder.name, base)
    (tmp_path / "link").symlink_to(base)
    own = replace(settings, encoder=replace(settings.encoder, name=str(base)))
    before = identify_encoder(own.encoder).fingerprint
    for out in (base, tmp_path / "link"):
        with pytest.raises(ConfigError, match="is the encoder that training begins with"):
            finetune(own, plan(own, run_id="tune"), out=str(out))
    with pytest.raises(ConfigError, match="was not fine-tuned here"):
        finetune(settings, plan(settings, run_id="tune"), out=str(base))
    inside = tmp_path / "model"
    shutil.copytree(base, inside / "encoder")
    own = replace(settings, encoder=replace(settings.encoder, name=str(inside / "encoder")))
    with pytest.raises(ConfigError, match="is the one that the fit begins with"):
        fit(own, plan(own, run_id="fit"), out=str(inside))
    assert identify_encoder(replace(settings.encoder, name=str(base))).fingerprint == before


def test_training_that_diverges_says_so(settings, tmp_path):
    """A model of noise would be published."""
    wild = replace(settings, finetune=replace(QUICK, epochs=8, learning_rate=1e30, warmup=0.0))
    with pytest.raises(TrainingError, match="learning_rate"):
        finetune(wild, plan(wild, run_id="tune"), out=str(tmp_path / "encoder"))
