"""Every command on a small project: results on stdout, nothing on stderr, the right thing done."""

import csv
import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from robert_pipeline.storage.corpus import open_corpus
from tests.corpora import COLUMNS
from tests.projects import LABEL, LEARN, write_corpus


@pytest.fixture
def folder(project, tmp_path):
    """The current folder holds a copy of the project, and a robert.toml that names its places."""
    for name in ("corpus", "store", "model"):
        shutil.copytree(Path(project.corpus).parent / name, tmp_path / name)
    (tmp_path / "robert.toml").write_text(
        f"[encoder]\nname = '{project.encoder.name}'\nprecision = 'float32'\n"
        "[chunking]\nchunk_tokens = 16\noverlap_tokens = 4\n"
    )
    return tmp_path


def ran(shown):
    """The lines of a command that went well."""
    assert (shown.code, shown.err) == (0, "")
    return shown.out.splitlines()


def cells(line):
    return [cell.strip() for cell in line.strip("│┃").split("│")]


def test_plan_shows_what_is_to_embed(robert, folder):
    """Nobody could see what a run will cost before it starts."""
    lines = ran(robert("plan"))
    assert [cells(line) for line in lines if "day=" in line] == [
        [LEARN, "40", "0.0", "1", "0"],
        [LABEL, "10", "0.0", "1", "1"],
    ]
    assert len([line for line in ran(robert("plan", "--partition", LABEL)) if "day=" in line]) == 1


def test_embed_accounts_for_every_row(robert, folder):
    """A run would end without saying what it did."""
    first = ran(robert("embed", "--partition", LABEL))
    assert first[0].startswith("10 documents: 5 embedded, 5 rejected; ")
    assert first[1].startswith("this run: 1 of 1 units, ")
    assert first[2].startswith("encoder: ")
    assert first[2].endswith(" hours per million documents")
    assert ran(robert("embed", "--partition", LABEL))[1].startswith("this run: 0 of 1 units, ")


def test_train_score_publish_and_query(robert, folder):
    """The steps that `robert label` takes at once could not be taken one by one."""
    shown = ran(robert("train", "--partition", LEARN, "--model", "other"))
    assert shown[-1] == "saved in other"
    ran(robert("embed", "--partition", LABEL))
    assert ran(robert("score", "--partition", LABEL, "--model", "other"))[0].startswith("1 of 1 shards scored by head ")
    published = ran(robert("publish", "--partition", LABEL, "--model", "other"))
    assert cells(published[3]) == [LABEL, "10", "5", "5", "committed"]
    assert published[-1].startswith("published in ")
    shown = ran(robert("query", "SELECT count(*) AS documents FROM predictions"))
    assert cells(shown[3]) == ["5"]
    assert shown[-1] == "1 row"


def test_label_takes_encoder_and_chunking_from_the_head(robert, folder):
    """Whoever labels would have to repeat the options that the head was trained with."""
    (folder / "robert.toml").unlink()
    shown = ran(robert("label", "--partition", LABEL))
    assert cells(shown[3]) == [LABEL, "10", "5", "5", "committed"]
    assert "already_committed" in ran(robert("label", "--partition", LABEL))[3]


def test_predict_writes_rows_and_rejects(robert, folder):
    """A model could not be tried without a warehouse."""
    shutil.copy(folder / "corpus" / LABEL / "a.parquet", folder / "in.parquet")
    assert ran(robert("predict", "in.parquet", "--out", "out.parquet")) == [
        "5 documents labelled: out.parquet",
        "5 rejected, with reasons: out.rejects.parquet",
    ]
    assert pq.read_table("out.parquet").num_rows == 5


def test_import_makes_a_corpus(robert, folder):
    """A data set could not be brought into the pipeline from the command line."""
    (folder / "it's a file.csv").write_text("id,body,kind\n1,one,a\n2,,\n")
    names = ["--doc-id-column", "id", "--text-column", "body", "--label-column", "kind"]
    command = ["import", "it's a file.csv", "--out", "ünï code", "--partition", "day='1'", *names]
    assert ran(robert(*command)) == [
        "2 documents, 1 with a label, in partition 'day='1''",
        "written to ünï code/day='1'/part-00000.parquet",
    ]
    assert open_corpus("ünï code", COLUMNS).partitions() == ["day='1'"]
    assert robert(*command).code == 1
    ran(robert(*command, "--replace"))


def test_import_names_what_it_left_out(robert, folder):
    """Files of a folder would be passed over in silence."""
    (folder / "data").mkdir()
    for name in ("a.txt", "b.txt", "c.doc", "LICENSE"):
        (folder / "data" / name).write_text("text")
    assert ran(robert("import", "data", "--out", "c"))[-1] == "left out: LICENSE, c.doc"


def test_the_steps_of_the_readme_work_without_a_settings_file(robert, folder, project):
    """A newcomer would have to write robert.toml first."""
    (folder / "robert.toml").unlink()
    shutil.rmtree(folder / "corpus")
    write_corpus(folder / "mine")
    given = ["--corpus", "mine", "--encoder", project.encoder.name, "--chunk-tokens", "16", "--overlap-tokens", "4"]
    ran(robert("embed", *given, "--partition", LEARN))
    ran(robert("train", *given, "--partition", LEARN, "--model", "m"))
    ran(robert("label", "--corpus", "mine", "--partition", LABEL, "--model", "m"))
    assert "5" in ran(robert("query", "SELECT count(*) FROM rejects"))[3]


def test_heads_are_compared_and_judged(robert, folder):
    """Nobody could find out at the command line what a head is worth."""
    shown = ran(robert("evaluate", "--partition", LEARN, "--seeds", "1", "--epochs", "2", "--against", "mean"))
    assert [cells(line)[0] for line in shown if "│" in line][:2] == ["RoBERT", "mean of chunks"]
    assert shown[-1] == "written to evaluation/evaluation.json and evaluation/evaluation.html"
    assert json.loads(Path("evaluation/evaluation.json").read_text())["labels"] == ["business", "sport"]
    known = robert("evaluate", "--model", "model", "--partition", LEARN)
    assert (known.code, known.err.startswith("error: the head in model has learned from all 40")) == (1, True)
    both = robert("evaluate", "--model", "model", "--train-partition", LEARN)
    assert (both.code, "--model and --train-partition are both given" in both.err) == (1, True)


def test_thresholds_are_shown_and_set(robert, folder):
    """Labels could be withheld for review only by training anew."""
    assert ran(robert("set-thresholds"))[-1].endswith(", unchanged")
    shown = ran(robert("set-thresholds", "--review", "sport=0.9", "--decision", "sport=0.6"))
    assert [cells(line) for line in shown if "│" in line] == [
        ["business", "0.400", "0.000"],
        ["sport", "0.600", "0.900"],
    ]
    for wrong in ("sport", "sport=much", "spot=0.5", "sport=1.5"):
        failed = robert("set-thresholds", "--review", wrong)
        assert (failed.code, failed.err.startswith("error: "), len(failed.err.splitlines())) == (1, True, 1)


def test_a_head_is_imported_and_calibrated(robert, folder):
    """Weights from elsewhere could not be used, or their probabilities not be made right."""
    torch.manual_seed(0)
    lstm, out = torch.nn.LSTM(32, 100), torch.nn.Linear(100, 2)
    state = {
        f"{name}.{key}": value
        for name, part in (("lstm", lstm), ("out", out))
        for key, value in part.state_dict().items()
    }
    safetensors.torch.save_file(state, "w.safetensors")
    labels = ["--label", "business", "--label", "sport"]
    shown = ran(robert("import-head", "w.safetensors", *labels, "--model", "mine"))
    assert shown[-2:] == [
        "not calibrated: `robert calibrate` does it, with labelled documents that it has not learned from",
        "saved in mine",
    ]
    shown = ran(robert("calibrate", "--model", "mine", "--partition", LEARN, "--target-precision", "0.9"))
    assert shown[1] == "calibrated by temperature on 40 documents"
    assert shown[-1] == "saved in mine"
    assert ran(robert("score", "--model", "mine", "--partition", LEARN, "--contributions"))[1].startswith(
        "contributions "
    )


def test_query_gives_whole_values_to_pipes_and_files(robert, folder):
    """A report made of a query would hold cut texts and wrapped cells."""
    ran(robert("label", "--partition", LABEL))
    lines = ran(robert("query", "SELECT *, repeat('x', 300) AS long FROM predictions WHERE doc_id = 'd0'"))
    assert sum("x" * 300 in line for line in lines) == 1
    shown = robert(
        "query", "--csv", "SELECT doc_id, label, labels, probabilities, scored_at, NULL AS no FROM predictions"
    )
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert len(rows) == 5
    assert json.loads(rows[0]["labels"]) == [rows[0]["label"]]
    assert json.loads(rows[0]["probabilities"]).keys() == {"sport", "business"}
    assert rows[0]["scored_at"].startswith("20")
    assert "T" in rows[0]["scored_at"]
    assert rows[0]["no"] == ""


def test_query_finds_the_warehouse_of_the_settings(robert, folder):
    """A project with a warehouse of another name would have to name it at every query."""
    with (folder / "robert.toml").open("a") as file:
        file.write("[warehouse]\nuri = 'tables'\n")
    ran(robert("label", "--partition", LABEL))
    assert (folder / "tables").is_dir()
    assert "5" in ran(robert("query", "SELECT count(*) FROM predictions"))[3]
    assert "5" in ran(robert("query", "SELECT count(*) FROM predictions", "--config", "robert.toml"))[3]
