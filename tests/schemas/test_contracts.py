"""Released contracts never change; what does not fit one is refused by field."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import CONTRACTS, DOCUMENTS, EMBEDDINGS, REJECT_REASONS, REJECTS, ContractError, embeddings_schema
from schemas.contract import DESCRIPTION_KEY, NAME_KEY, VERSION_KEY

GOLDEN = Path(__file__).parents[1] / "golden" / "schemas_v1.json"


def described(contract):
    return {
        "version": contract.version,
        "description": contract.description,
        "fields": [
            {
                "name": field.name,
                "type": str(field.type),
                "nullable": field.nullable,
                "description": field.metadata[DESCRIPTION_KEY].decode(),
            }
            for field in contract.schema
        ],
    }


def test_version_1_is_as_released():
    """A released contract changed: files and tables written under it would be misread."""
    assert {name: described(contract) for name, contract in CONTRACTS.items()} == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_every_field_is_described(contract):
    """An analyst would meet a column that nobody explained."""
    for field in contract.schema:
        assert len(field.metadata[DESCRIPTION_KEY]) > 10, field.name
    assert contract.schema.metadata == {NAME_KEY: contract.name.encode(), VERSION_KEY: b"1"}


def test_every_reject_reason_is_in_the_description():
    """A reason would appear in the table that its documentation does not list."""
    description = REJECTS.schema.field("reason").metadata[DESCRIPTION_KEY].decode()
    assert all(reason in description for reason in REJECT_REASONS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda schema: schema.remove(1), "field 'text' of contract documents v1 is missing"),
        (lambda schema: schema.set(0, pa.field("doc_id", pa.int64())), "field 'doc_id' is int64"),
        (lambda schema: schema.append(pa.field("extra", pa.int8())), "unknown field 'extra'"),
        (lambda schema: pa.schema([schema.field(1), schema.field(0), schema.field(2)]), "out of order"),
    ],
)
def test_a_difference_is_named(change, named):
    """Data of another shape would be taken for the contract's, or refused without saying why."""
    with pytest.raises(ContractError, match="here") as raised:
        DOCUMENTS.check(change(DOCUMENTS.schema), where="here")
    assert named in str(raised.value)


def test_nullability_and_metadata_are_not_compared():
    """Files of writers that mark every column nullable would be refused."""
    DOCUMENTS.check(pa.schema([field.with_nullable(True).remove_metadata() for field in DOCUMENTS.schema]), where="x")


@pytest.mark.parametrize(("dtype", "value"), [("float16", pa.float16()), ("float32", pa.float32())])
def test_embeddings_take_the_encoder_s_width_and_dtype(dtype, value):
    """Shards of one encoder could not be told from another's width or precision."""
    schema = embeddings_schema(384, dtype)
    vector = schema.field("vector").type
    assert (vector.list_size, vector.value_type) == (384, value)
    assert schema.names == EMBEDDINGS.schema.names
    assert schema.metadata == EMBEDDINGS.schema.metadata
