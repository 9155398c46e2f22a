"""Predictions, versions 1 and 2: the published table."""

import pyarrow as pa

from schemas.contract import Contract, field

PREDICTIONS_V1 = Contract(
    name="predictions",
    version=1,
    description="One row per labelled document, with what made the label.",
    fields=(
        field("doc_id", pa.string(), "Identifier of the document, unique within the partition."),
        field("partition", pa.string(), "Corpus partition, for example 'day=2005-03-01'."),
        field("text_hash", pa.string(), "SHA-256 of the document's UTF-8 text, 64 hexadecimal digits."),
        field(
            "label",
            pa.string(),
            "The label; null where it is withheld because its probability is below the label's threshold. "
            "With a multi-label head, the most probable of `labels`.",
            nullable=True,
        ),
        field(
            "labels",
            pa.list_(pa.field("element", pa.string(), nullable=False)),
            "Every label given: one for single-label heads, none where withheld, any number for multi-label heads.",
        ),
        field(
            "candidate_label",
            pa.string(),
            "The label the document would have, also where it was withheld: the most probable one, unless the head "
            "decides at other thresholds than a half.",
        ),
        field("needs_review", pa.bool_(), "True where the label was withheld and a person should decide."),
        field("probability", pa.float64(), "Calibrated probability of `candidate_label`, 0 to 1."),
        field(
            "probabilities",
            pa.map_(pa.string(), pa.float64()),
            "Calibrated probability of every label of the head.",
        ),
        field(
            "tokens_seen",
            pa.int64(),
            "Tokens of the text that are in some chunk, special tokens not counted.",
        ),
        field(
            "tokens_total",
            pa.int64(),
            "Tokens of the whole text; equal to tokens_seen unless a limit was set.",
        ),
        field("chunk_count", pa.int32(), "Chunks the document was cut into."),
        field(
            "passage_start",
            pa.int64(),
            "First character of the deciding passage (Unicode code points, from 0).",
        ),
        field("passage_end", pa.int64(), "One past the last character of the deciding passage."),
        field("passage_chunk_index", pa.int32(), "The chunk that is the deciding passage."),
        field(
            "passage_contribution",
            pa.float64(),
            "What the deciding passage added to the logit of `candidate_label`; over all chunks the contributions "
            "sum to the logit less the bias.",
        ),
        field(
            "encoder_fingerprint",
            pa.string(),
            "Identity of encoder weights, tokenizer, pooling and precision.",
        ),
        field("chunking_fingerprint", pa.string(), "Identity of chunk length, overlap and limit."),
        field("head_fingerprint", pa.string(), "Identity of head weights, labels, calibration and thresholds."),
        field("code_version", pa.string(), "Version of robert_pipeline that scored the document."),
        field("run_id", pa.string(), "The run that scored the document."),
        field("scored_at", pa.timestamp("us", tz="UTC"), "When the document was scored."),
    ),
)


_BY_LABEL = pa.map_(pa.string(), pa.float64())

_THRESHOLDS = (
    field(
        "decision_thresholds",
        _BY_LABEL,
        "What the probability of each label was held against: binary and multi-label heads give a label from there on, "
        "a multi-class head gives the label whose probability is the most times this value. Null in rows that were "
        "scored under version 1 of this contract.",
        nullable=True,
    ),
    field(
        "review_thresholds",
        _BY_LABEL,
        "Probability below which each label was withheld for a person to decide. Null in rows that were scored under "
        "version 1 of this contract.",
        nullable=True,
    ),
)


def _with_thresholds(rows: pa.Table) -> pa.Table:
    for added in _THRESHOLDS:
        rows = rows.append_column(added, pa.nulls(rows.num_rows, added.type))
    return rows


PREDICTIONS = Contract(
    name="predictions",
    version=2,
    description=PREDICTIONS_V1.description,
    fields=(*PREDICTIONS_V1.fields, *_THRESHOLDS),
    previous=PREDICTIONS_V1,
    upgrade=_with_thresholds,
)
