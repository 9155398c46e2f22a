"""The data contracts: what is on disk and in the warehouse, field by field, version by version.

A released version never changes. A new one is a new module-level contract plus a pure upgrade function.
Imports pyarrow and nothing else.
"""

from schemas.contract import Contract, ContractError
from schemas.contributions import CONTRIBUTIONS
from schemas.documents import DOCUMENTS
from schemas.embeddings import EMBEDDINGS, VECTOR_DTYPES, embeddings_schema
from schemas.predictions import PREDICTIONS
from schemas.rejects import REJECT_REASONS, REJECTS

CONTRACTS = {contract.name: contract for contract in (DOCUMENTS, EMBEDDINGS, PREDICTIONS, CONTRIBUTIONS, REJECTS)}

__all__ = [
    "CONTRACTS",
    "CONTRIBUTIONS",
    "DOCUMENTS",
    "EMBEDDINGS",
    "PREDICTIONS",
    "REJECTS",
    "REJECT_REASONS",
    "VECTOR_DTYPES",
    "Contract",
    "ContractError",
    "embeddings_schema",
]
