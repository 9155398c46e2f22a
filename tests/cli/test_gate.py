"""The gate from the command line."""

import shutil
from pathlib import Path

import pytest

from robert_pipeline.runs.thresholds import set_thresholds
from robert_pipeline.storage.heads import load_head
from tests.projects import LABEL, LEARN


@pytest.fixture
def folder(project, tmp_path):
    """The current folder holds a copy of the project, another head, and a robert.toml that names its places."""
    for name in ("corpus", "store", "model"):
        shutil.copytree(Path(project.corpus).parent / name, tmp_path / name)
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    positive = load_head(str(tmp_path / "other")).labels[1]
    set_thresholds(str(tmp_path / "other"), decision={positive: 0.505})
    (tmp_path / "robert.toml").write_text(
        f"[encoder]\nname = '{project.encoder.name}'\nprecision = 'float32'\n"
        "[chunking]\nchunk_tokens = 16\noverlap_tokens = 4\n"
        "[warehouse]\nsink = 'parquet'\n[gate]\nmin_documents = 10\n"
    )
    return tmp_path


def ran(shown):
    """What a command that went well shows."""
    assert (shown.code, shown.err) == (0, "")
    return shown.out


def test_a_head_goes_through_the_gate_and_back(robert, folder):
    """What the gate does could be done from Python only."""
    first, second = (load_head(str(folder / name)).fingerprint for name in ("model", "other"))
    assert "no head was promoted" in ran(robert("promotions"))
    shown = ran(robert("promote", "--reason", "the first"))
    assert f"entry 1: head {first} labels from now on" in shown
    assert "compared with nothing" in shown
    shown = ran(robert("diff", "--candidate", "other", "--partition", LEARN))
    assert "of 40 documents" in shown
    assert "Every limit is kept" in shown
    assert (folder / "diff" / "diff.html").exists()
    assert f"entry 2: head {second}" in ran(robert("promote", "--candidate", "other", "--partition", LEARN))
    assert second in ran(robert("score", "--partition", LEARN))
    assert first in ran(robert("score", "--partition", LEARN, "--model", "model"))
    assert f"entry 3: head {first} labels again; {second} did" in ran(robert("rollback", "--by", "ada"))
    listed = ran(robert("promotions"))
    assert "the first" in listed
    assert "ada" in listed
    assert f"current: head {first}" in listed


def test_a_closed_gate_is_one_line_that_names_the_limits(robert, folder, project):
    """A nightly job would go on with a head that nobody let pass."""
    ran(robert("promote"))
    refused = robert("promote", "--candidate", "other", "--partition", LEARN, "--min-documents", "50")
    assert refused.code == 1
    assert refused.err.startswith("error: head ")
    assert "40 documents compared, at least 50 wanted" in " ".join(refused.err.split())
    shown = ran(robert("diff", "--candidate", "other", "--partition", LEARN, "--min-documents", "50"))
    assert "may not be promoted" in shown


def test_flips_are_shown_with_their_passages(robert, folder, project):
    """A person would have to open a file to see a single flip."""
    from robert_pipeline.storage.heads import save_head
    from tests.heads import trained

    known = load_head(project.model)
    save_head(str(folder / "wild"), trained(known.labels, origin=known.origin, dimension=known.dimension, seed=3))
    shown = ran(robert("diff", "--candidate", "wild", "--partition", LEARN))
    assert "the most confident flips" in shown
    assert "sport-" in shown or "business-" in shown


def test_predict_labels_with_the_promoted_head(robert, folder, project):
    """Whoever tries a file would see the labels of a head that is not the current one."""
    import pyarrow.parquet as pq

    ran(robert("promote", "--candidate", "other", "--partition", LEARN))
    promoted = load_head(str(folder / "other")).fingerprint
    shutil.copy(folder / "corpus" / LABEL / "a.parquet", folder / "in.parquet")
    for options, head in (((), promoted), (("--model", "model"), load_head(str(folder / "model")).fingerprint)):
        ran(robert("predict", "in.parquet", "--out", "out.parquet", *options))
        assert set(pq.read_table("out.parquet")["head_fingerprint"].to_pylist()) == {head}
