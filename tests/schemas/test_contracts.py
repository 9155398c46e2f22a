"""Released contracts never change; what does not fit one is refused by field."""

import datetime
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import (
    CONTRACTS,
    DOCUMENTS,
    EMBEDDINGS,
    PREDICTIONS,
    PREDICTIONS_V1,
    REJECT_REASONS,
    REJECTS,
    ContractError,
    embeddings_schema,
)
from schemas.contract import DESCRIPTION_KEY, NAME_KEY, VERSION_KEY

GOLDEN = Path(__file__).parents[1] / "golden"
EVERY_VERSION = [version for contract in CONTRACTS.values() for version in contract.versions]


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


@pytest.mark.parametrize("number", range(1, max(contract.version for contract in CONTRACTS.values()) + 1))
def test_versions_are_as_released(number):
    """A released contract changed: files and tables written under it would be misread."""
    released = {v.name: described(v) for v in EVERY_VERSION if v.version == number}
    assert released == json.loads((GOLDEN / f"schemas_v{number}.json").read_text())


@pytest.mark.parametrize("contract", EVERY_VERSION, ids=lambda c: f"{c.name} v{c.version}")
def test_every_field_is_described(contract):
    """An analyst would meet a column that nobody explained."""
    for field in contract.schema:
        assert len(field.metadata[DESCRIPTION_KEY]) > 10, field.name
    assert contract.schema.metadata == {NAME_KEY: contract.name.encode(), VERSION_KEY: str(contract.version).encode()}


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_a_later_version_only_adds_optional_fields(contract):
    """A reader of an earlier version would no longer find its columns, or an earlier table would lack values."""
    assert [version.version for version in contract.versions] == list(range(1, contract.version + 1))
    for earlier, later in pairwise(contract.versions):
        assert later.fields[: len(earlier.fields)] == earlier.fields
        assert all(field.nullable for field in later.fields[len(earlier.fields) :])
        assert later.previous is earlier
    assert contract.added == set(contract.schema.names) - set(contract.versions[0].schema.names)


texts = st.text(max_size=6)
v1_rows = st.lists(
    st.fixed_dictionaries(
        {
            field.name: {
                pa.string(): texts,
                pa.bool_(): st.booleans(),
                pa.int32(): st.integers(-5, 5),
                pa.int64(): st.integers(-5, 5),
                pa.float64(): st.floats(0, 1),
                pa.timestamp("us", tz="UTC"): st.datetimes(timezones=st.just(datetime.UTC)),
            }.get(
                field.type,
                st.lists(texts, max_size=2)
                if pa.types.is_list(field.type)
                else st.lists(st.tuples(texts, st.floats(0, 1)), max_size=2),
            )
            for field in PREDICTIONS_V1.schema
        }
    ),
    max_size=3,
)


@given(v1_rows)
def test_upgraded_rows_are_the_same_rows(rows):
    """A value of an old partition would change, or get lost, when it is read under the new version."""
    old = pa.Table.from_pylist(rows, schema=PREDICTIONS_V1.schema)
    new = PREDICTIONS.upgraded(old, where="x")
    assert new.schema.equals(PREDICTIONS.schema, check_metadata=True)
    assert PREDICTIONS_V1.view(new).equals(old)
    assert PREDICTIONS_V1.view(new).schema.equals(PREDICTIONS_V1.schema, check_metadata=True)
    assert all(new[name].null_count == len(rows) for name in PREDICTIONS.added)
    assert PREDICTIONS.upgraded(new, where="x").equals(new)


def test_the_version_of_data_is_found_out():
    """A file that names its version would be held to another, or one of a later release be misread in silence."""
    unnamed = pa.schema([field.remove_metadata() for field in PREDICTIONS_V1.schema])
    assert PREDICTIONS.version_of(unnamed, where="x") is PREDICTIONS_V1
    assert PREDICTIONS.version_of(PREDICTIONS.schema, where="x") is PREDICTIONS
    later = PREDICTIONS.schema.with_metadata({NAME_KEY: b"predictions", VERSION_KEY: b"3"})
    with pytest.raises(ContractError, match="here: contract predictions v3 is unknown here, the latest known is v2"):
        PREDICTIONS.version_of(later, where="here")
    with pytest.raises(ContractError, match="field 'decision_thresholds' of contract predictions v2 is missing"):
        PREDICTIONS.version_of(PREDICTIONS_V1.schema.with_metadata(PREDICTIONS.schema.metadata), where="x")
    with pytest.raises(ContractError, match="field 'label' of contract predictions v2 is missing"):
        PREDICTIONS.version_of(unnamed.remove(unnamed.get_field_index("label")), where="x")


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
