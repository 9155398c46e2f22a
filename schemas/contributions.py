"""Contributions, version 1: what every chunk added to its document's label. Written on request."""

import pyarrow as pa

from schemas.contract import Contract, field

CONTRIBUTIONS = Contract(
    name="contributions",
    version=1,
    description=(
        "One row per chunk of every labelled document, documents in corpus order, chunks in text order. What a "
        "contribution is depends on the head; its head.json says so under 'evidence'."
    ),
    fields=(
        field("doc_id", pa.string(), "Identifier of the document, unique within the partition."),
        field("partition", pa.string(), "Corpus partition, for example 'day=2005-03-01'."),
        field("chunk_index", pa.int32(), "Position of the chunk in its document, from 0."),
        field("char_start", pa.int64(), "First character of the chunk in the text (Unicode code points, from 0)."),
        field("char_end", pa.int64(), "One past the last character of the chunk."),
        field("candidate_label", pa.string(), "The label that the chunk speaks for, as in the document's prediction."),
        field(
            "contribution",
            pa.float64(),
            "What the chunk added to the logit of `candidate_label`, negative where it spoke against it; over the "
            "chunks of a document the contributions sum to the logit less the bias.",
        ),
        field("head_fingerprint", pa.string(), "Identity of head weights, labels, calibration and thresholds."),
        field("run_id", pa.string(), "The run that scored the document."),
    ),
)
