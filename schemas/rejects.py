"""Rejects, version 1: documents that cannot be labelled, each with a reason and a place."""

import pyarrow as pa

from schemas.contract import Contract, field

REJECT_REASONS = {
    "null_doc_id": "the row has no doc_id",
    "duplicate_doc_id": "an earlier row of the partition has the same doc_id",
    "null_text": "the text is null",
    "empty_text": "the text is empty or only whitespace",
    "invalid_utf8": "the doc_id or the text is not valid UTF-8",
    "no_tokens": "the tokenizer finds no token in the text",
    "not_finite": "the encoder's vector holds NaN or infinity",
}

REJECTS = Contract(
    name="rejects",
    version=1,
    description="One row per document that cannot be labelled.",
    fields=(
        field("doc_id", pa.string(), "Identifier of the document; null where the row has none.", nullable=True),
        field("partition", pa.string(), "Corpus partition of the row."),
        field("file", pa.string(), "Corpus file of the row, relative to the corpus root."),
        field("row", pa.int64(), "Row in the file, from 0."),
        field(
            "reason",
            pa.string(),
            "One of: " + "; ".join(f"{k} ({v})" for k, v in REJECT_REASONS.items()) + ".",
        ),
        field("detail", pa.string(), "What exactly was found."),
        field("run_id", pa.string(), "The run that rejected the row."),
        field("rejected_at", pa.timestamp("us", tz="UTC"), "When the row was rejected."),
    ),
)
