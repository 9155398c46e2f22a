"""The data contracts: what is on disk and in the warehouse, field by field, version by version.

A released version never changes. A new one is a new module-level contract that names the one before and a pure upgrade
function. Imports pyarrow and nothing else. `schemas.render` turns contracts into JSON, Markdown and SQL.
"""

from schemas.contract import Contract, ContractError
from schemas.contributions import CONTRIBUTIONS
from schemas.documents import DOCUMENTS
from schemas.embeddings import EMBEDDINGS, VECTOR_DTYPES, embeddings_schema
from schemas.predictions import PREDICTIONS, PREDICTIONS_V1
from schemas.promotions import PROMOTIONS
from schemas.rejects import REJECT_REASONS, REJECTS

CONTRACTS = {
    contract.name: contract for contract in (DOCUMENTS, EMBEDDINGS, PREDICTIONS, CONTRIBUTIONS, REJECTS, PROMOTIONS)
}
"""The latest version of each; `Contract.versions` has the earlier ones."""

__all__ = [
    "CONTRACTS",
    "CONTRIBUTIONS",
    "DOCUMENTS",
    "EMBEDDINGS",
    "PREDICTIONS",
    "PREDICTIONS_V1",
    "PROMOTIONS",
    "REJECTS",
    "REJECT_REASONS",
    "VECTOR_DTYPES",
    "Contract",
    "ContractError",
    "embeddings_schema",
]
