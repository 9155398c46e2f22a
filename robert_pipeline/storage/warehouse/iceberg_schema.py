"""Contracts as Iceberg schemas: a contract or a table's schema enters; schemas, or a refusal, leave."""

from itertools import count

import pyarrow as pa
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    BooleanType,
    DoubleType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    TimestamptzType,
)

from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse.columns import TableColumn, missing_columns, someone_elses
from schemas import Contract
from schemas.contract import DESCRIPTION_KEY

FIELD_ID_KEY = b"PARQUET:field_id"

_PRIMITIVES: tuple[tuple[pa.DataType, IcebergType], ...] = (
    (pa.string(), StringType()),
    (pa.bool_(), BooleanType()),
    (pa.int32(), IntegerType()),
    (pa.int64(), LongType()),
    (pa.float64(), DoubleType()),
    (pa.timestamp("us", tz="UTC"), TimestamptzType()),
)


def iceberg_schema(contract: Contract) -> Schema:
    """The contract as an Iceberg schema; field descriptions become column docs."""
    ids = count(1)
    top = [next(ids) for _ in contract.fields]
    fields = [
        NestedField(
            field_id=field_id,
            name=field.name,
            field_type=_iceberg_type(field.type, ids),
            required=not field.nullable,
            doc=field.metadata[DESCRIPTION_KEY].decode(),
        )
        for field_id, field in zip(top, contract.fields, strict=True)
    ]
    return Schema(*fields)


def _iceberg_type(dtype: pa.DataType, ids: "count[int]") -> IcebergType:
    if pa.types.is_list(dtype):
        element_id = next(ids)
        return ListType(
            element_id=element_id,
            element=_iceberg_type(dtype.value_type, ids),
            element_required=not dtype.value_field.nullable,
        )
    if pa.types.is_map(dtype):
        key_id, value_id = next(ids), next(ids)
        return MapType(
            key_id=key_id,
            key_type=_iceberg_type(dtype.key_type, ids),
            value_id=value_id,
            value_type=_iceberg_type(dtype.item_type, ids),
            value_required=not dtype.item_field.nullable,
        )
    for arrow, iceberg in _PRIMITIVES:
        if arrow.equals(dtype):
            return iceberg
    raise TypeError(f"no Iceberg type for {dtype}")


def partition_spec(schema: Schema) -> PartitionSpec:
    """One Iceberg partition per corpus partition."""
    source = schema.find_field("partition").field_id
    return PartitionSpec(
        PartitionField(source_id=source, field_id=1000, transform=IdentityTransform(), name="partition")
    )


def compare(contract: Contract, schema: Schema, spec: PartitionSpec, *, where: str) -> list[str]:
    """Names of the columns the table still has to be given.

    Raises WarehouseError, naming the column, unless columns, types and partitioning are the contract's.
    """
    fix = someone_elses("warehouse.namespace")
    missing = missing_columns(contract, _columns(iceberg_schema(contract)), _columns(schema), where=where, fix=fix)
    sources = [schema.find_column_name(field.source_id) for field in spec.fields]
    if sources != ["partition"] or not isinstance(spec.fields[0].transform, IdentityTransform):
        raise WarehouseError(f"{where} is not partitioned by identity of column 'partition'", fix=fix)
    return missing


def _columns(schema: Schema) -> dict[str, TableColumn]:
    return {field.name: TableColumn(shape=_shape(field.field_type), required=field.required) for field in schema.fields}


def _shape(dtype: IcebergType) -> str:
    """A type without field ids, which differ between tables."""
    if isinstance(dtype, ListType):
        return f"list<{_shape(dtype.element_type)}{' required' if dtype.element_required else ''}>"
    if isinstance(dtype, MapType):
        value = f"{_shape(dtype.value_type)}{' required' if dtype.value_required else ''}"
        return f"map<{_shape(dtype.key_type)}, {value}>"
    return str(dtype)


def file_schema(contract: Contract, table_schema: Schema) -> pa.Schema:
    """The contract's Arrow schema with the table's field ids, by which Iceberg readers find columns."""
    return pa.schema([_with_id(field, field.name, table_schema) for field in contract.schema])


def _with_id(field: pa.Field, path: str, schema: Schema) -> pa.Field:
    dtype = field.type
    if pa.types.is_list(dtype):
        dtype = pa.list_(_with_id(dtype.value_field.with_name("element"), f"{path}.element", schema))
    elif pa.types.is_map(dtype):
        dtype = pa.map_(
            _with_id(dtype.key_field.with_name("key"), f"{path}.key", schema),
            _with_id(dtype.item_field.with_name("value"), f"{path}.value", schema),
        )
    return pa.field(
        field.name,
        dtype,
        nullable=field.nullable,
        metadata={FIELD_ID_KEY: str(schema.find_field(path).field_id).encode()},
    )
