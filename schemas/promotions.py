"""Promotions, version 1: which head was the current one, since when, and who decided it on what evidence."""

import pyarrow as pa

from schemas.contract import Contract, field

_MEASURES = pa.map_(pa.string(), pa.float64())

PROMOTIONS = Contract(
    name="promotions",
    version=1,
    description="One row per change of the current head. Rows are added and never changed.",
    fields=(
        field("partition", pa.string(), "Number of the entry, six digits, from 000001."),
        field("action", pa.string(), "'promote', or 'rollback' to the head before."),
        field("head_fingerprint", pa.string(), "The head that is the current one from this entry on."),
        field(
            "previous_head_fingerprint",
            pa.string(),
            "The head that was the current one until then; null where there was none.",
            nullable=True,
        ),
        field("encoder_fingerprint", pa.string(), "The encoder whose vectors the head reads."),
        field("chunking_fingerprint", pa.string(), "The chunking whose vectors the head reads."),
        field("model", pa.string(), "Folder the head was promoted from."),
        field("decided_by", pa.string(), "Who decided it: user and machine, or the name that was given."),
        field("decided_at", pa.timestamp("us", tz="UTC"), "When it was decided."),
        field("reason", pa.string(), "Why, in the words of who decided it.", nullable=True),
        field(
            "compared_partitions",
            pa.list_(pa.field("element", pa.string(), nullable=False)),
            "Corpus partitions on which both heads were compared; none for a rollback or a first head.",
        ),
        field("documents", pa.int64(), "Documents on which both heads were compared."),
        field("flips", pa.int64(), "How many of them get other labels from the new head."),
        field("measured", _MEASURES, "What the comparison found, by the name of its limit."),
        field("limits", _MEASURES, "The limits that it had to keep."),
        field("code_version", pa.string(), "Version of robert_pipeline that wrote the entry."),
        field("run_id", pa.string(), "The run that wrote the entry."),
    ),
)
