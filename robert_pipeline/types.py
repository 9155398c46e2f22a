"""Values that pass between modules: what is to be done, what was read, what was counted. Frozen; they open nothing."""

from dataclasses import dataclass, fields

from robert_pipeline.config import fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroup:
    """Rows and uncompressed text bytes of one row group, from the footer."""

    row_count: int
    text_bytes: int
    large_documents: tuple[tuple[int, int], ...] = ()
    """(row, bytes of its text) of documents that are found to be a unit of their own, in row order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """One corpus file that was found readable. `file` is relative to the corpus root."""

    file: str
    revision: str
    row_groups: tuple[RowGroup, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRange:
    """Consecutive rows of one row group of one corpus file.

    `file` is relative to the corpus root, `revision` changes when the file's content may have, `first_row` counts
    from the row group's start and `first_file_row` from the file's.
    """

    file: str
    revision: str
    row_group: int
    first_row: int
    row_count: int
    first_file_row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkUnit:
    """What one worker embeds into one shard: row ranges of one partition, and the rows in them that repeat a doc_id."""

    partition: str
    ranges: tuple[RowRange, ...]
    duplicate_rows: tuple[tuple[str, int], ...] = ()
    """(file, row in file) of rows whose doc_id an earlier row of the partition has."""
    text_bytes: int
    """Uncompressed bytes of the text column, an estimate from the files' footers."""

    @property
    def unit_id(self) -> str:
        """Identity of the rows, from what they are and not from who reads them: 16 hexadecimal digits."""
        places = [
            f"{r.file}|{r.revision}|{r.row_group}|{r.first_row}|{r.row_count}|{r.first_file_row}" for r in self.ranges
        ]
        repeats = [f"{file}|{row}" for file, row in self.duplicate_rows]
        return fingerprint("unit/1", {"partition": self.partition, "ranges": places, "duplicates": repeats})

    @property
    def document_count(self) -> int:
        """Rows in the unit, the ones that will be rejected among them."""
        return sum(r.row_count for r in self.ranges)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One readable row of a corpus."""

    doc_id: str
    text: str
    text_hash: str
    file: str
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """One row that cannot be labelled. `reason` is a key of `schemas.REJECT_REASONS`."""

    doc_id: str | None
    file: str
    row: int
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedTexts:
    """Texts that several documents of a run have, to be encoded once, before the units that need them.

    `picks` names, unit by unit, the rows (counted from the unit's first) that the texts are read from.
    """

    picks: tuple[tuple[WorkUnit, tuple[int, ...]], ...]

    @property
    def name(self) -> str:
        """Identity of the texts, from where they are read: 16 hexadecimal digits."""
        return fingerprint(
            "shared/1", {"picks": [f"{unit.unit_id}|{' '.join(map(str, rows))}" for unit, rows in self.picks]}
        )

    @property
    def text_count(self) -> int:
        """How many texts."""
        return sum(len(rows) for _, rows in self.picks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What became of the rows of a unit or of a partition. Addable."""

    documents: int = 0
    embedded: int = 0
    """Documents with vectors, the reused ones among them."""
    rejected: int = 0
    chunks: int = 0
    tokens: int = 0
    """Of the embedded documents; each token once, however many chunks overlap it."""
    reused: int = 0
    """Embedded documents whose vectors were copied: the store had them, or another document has the same text."""
    reused_tokens: int = 0

    @property
    def encoded(self) -> int:
        """Documents that went through the encoder."""
        return self.embedded - self.reused

    @property
    def encoded_tokens(self) -> int:
        """Tokens that went through the encoder, each once."""
        return self.tokens - self.reused_tokens

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)})


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderUse:
    """What an encoder computed. Addable, over machines of any speed.

    `encoded_tokens` are those of all chunks, overlap and special tokens counted; `computed_tokens` the same and
    padding; `ceiling_tokens` what the matrix products alone would have done in the same time on the same machine.
    """

    encoded_tokens: int = 0
    computed_tokens: int = 0
    ceiling_tokens: float = 0.0
    gpu_seconds: float = 0.0
    """In which a GPU was watched, by each unit that was under way."""
    gpu_busy_seconds: float = 0.0
    """Those of them in which it had work."""

    def __add__(self, other: "EncoderUse") -> "EncoderUse":
        return EncoderUse(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(EncoderUse)})

    @property
    def padding_share(self) -> float:
        """Of all tokens computed."""
        return 1 - self.encoded_tokens / self.computed_tokens if self.computed_tokens else 0.0

    @property
    def ceiling_share(self) -> float:
        """Of the tokens at the ceiling, everything counted that was done beside the encoder."""
        return self.encoded_tokens / self.ceiling_tokens if self.ceiling_tokens else 0.0

    @property
    def gpu_busy_share(self) -> float:
        """Of the seconds in which a GPU was watched."""
        return self.gpu_busy_seconds / self.gpu_seconds if self.gpu_seconds else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """Who made a row: the run, and the moment in microseconds since 1970 UTC."""

    run_id: str
    at_us: int
