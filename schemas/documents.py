"""Documents, version 1: what a corpus partition holds."""

import pyarrow as pa

from schemas.contract import Contract, field

DOCUMENTS = Contract(
    name="documents",
    version=1,
    description="One row per document of a corpus partition, as `robert import` writes it.",
    fields=(
        field("doc_id", pa.string(), "Identifier, unique within the partition."),
        field("text", pa.string(), "The whole text, UTF-8, never cut."),
        field("label", pa.string(), "The true label where it is known.", nullable=True),
    ),
)
