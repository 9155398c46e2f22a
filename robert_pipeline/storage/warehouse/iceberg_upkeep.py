"""Maintenance of an Iceberg table: small files written anew, old snapshots forgotten, files that nothing names removed.

PyIceberg forgets snapshots and removes no file, so what may go is worked out here: a file goes when no snapshot of the
table, as it is after the expiry, names it, and when it was named by a snapshot that expired or is a stray of some age.
A writer that commits meanwhile builds on the current snapshot, which never expires, so it names no file that goes.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table, TableProperties
from pyiceberg.table.snapshots import Snapshot

from robert_pipeline.storage.warehouse.data_files import (
    DataFile,
    Found,
    found_files,
    parquet_dataset,
    scan,
    small_files,
)
from robert_pipeline.storage.warehouse.iceberg import PARTITION_SUMMARY, resolve, tasks
from robert_pipeline.storage.warehouse.iceberg_files import remove_files, write_files
from robert_pipeline.storage.warehouse.iceberg_tables import IcebergTables
from robert_pipeline.storage.warehouse.sink import Upkeep, UpkeepReport
from schemas import Contract

OURS = (".parquet", ".avro", ".metadata.json")
"""Endings of the files that a writer of this table leaves; no other file is ever removed."""

MERGE_PROPERTY = TableProperties.MANIFEST_MIN_MERGE_COUNT
MANIFESTS_TO_MERGE = TableProperties.MANIFEST_MIN_MERGE_COUNT_DEFAULT


def maintain(tables: IcebergTables, contract: Contract, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
    """See Sink.maintain."""
    started = datetime.now(UTC)
    report = _compact(tables, contract, upkeep, dry_run=dry_run)
    if not dry_run:
        tables.persist(lambda: _merge_manifests(tables.load(contract)))
    before = tables.load(contract)
    cutoff = started - timedelta(days=upkeep.keep_days)
    expiring = _expirable(before, cutoff)
    named_then = _named_by(before, expiring)
    if expiring and not dry_run:
        tables.persist(lambda: _expire(tables.load(contract), [snapshot.snapshot_id for snapshot in expiring]))
    after = before if dry_run else tables.load(contract)
    kept = [snapshot for snapshot in after.snapshots() if not dry_run or snapshot not in expiring]
    named_now = _named_by(after, kept) | _metadata_of(after)
    old = started - timedelta(hours=upkeep.stray_hours)
    doomed = [
        file
        for file in _files_of(after)
        if file.path not in named_now and (file.path in named_then or file.modified < old)
    ]
    if not dry_run:
        remove_files(after.io, [_address(after, file.path) for file in doomed])
    return replace(
        report,
        expired_versions=len(expiring),
        deleted_files=len(doomed),
        deleted_bytes=sum(file.size_bytes for file in doomed),
    )


def _compact(tables: IcebergTables, contract: Contract, upkeep: Upkeep, *, dry_run: bool) -> UpkeepReport:
    by_partition: dict[str, list[DataFile]] = {}
    for task in tasks(tables.load(contract), None):
        file = DataFile(path=task.file.file_path, rows=task.file.record_count, size_bytes=task.file.file_size_in_bytes)
        by_partition.setdefault(str(task.file.partition[0]), []).append(file)
    partitions = files = 0
    for partition, held in by_partition.items():
        if small_files(held, upkeep.small_file_bytes) and (dry_run or _rewrite(tables, contract, partition)):
            partitions += 1
            files += len(held)
    return UpkeepReport(table=contract.name, compacted_partitions=partitions, compacted_files=files)


def _rewrite(tables: IcebergTables, contract: Contract, partition: str) -> bool:
    """Write the partition's rows into new files; False where somebody replaced it meanwhile, whose rows then stay."""
    table = tables.load(contract)
    read = tasks(table, partition)
    if any(task.delete_files for task in read):
        return False
    filesystem, paths = resolve(table, [task.file.file_path for task in read])
    rows = scan(parquet_dataset(filesystem, contract.schema, paths), contract.schema)
    files = write_files(table, contract, partition, rows)
    ours: set[int] = set()

    def attempt() -> bool:
        target = tables.load(contract)
        if any(target.metadata.snapshot_by_id(snapshot_id) for snapshot_id in ours):
            return True
        current = tasks(target, partition)
        if {task.file.file_path for task in current} != {task.file.file_path for task in read}:
            remove_files(target.io, [file.file_path for file in files])
            return False
        with target.transaction() as transaction:
            update = transaction.update_snapshot(snapshot_properties={PARTITION_SUMMARY: partition})
            with update.overwrite() as snapshot:
                ours.add(snapshot.snapshot_id)
                for task in current:
                    snapshot.delete_data_file(task.file)
                for file in files:
                    snapshot.append_data_file(file)
        return True

    return tables.persist(attempt)


def _merge_manifests(table: Table) -> None:
    """Gather the manifests of many commits, one small file each, into few: a reader opens all of them."""
    snapshot = table.current_snapshot()
    enough = int(table.properties.get(MERGE_PROPERTY, MANIFESTS_TO_MERGE))
    if snapshot is not None and len(snapshot.manifests(table.io)) >= enough:
        with table.transaction() as transaction:
            transaction.set_properties({TableProperties.MANIFEST_MERGE_ENABLED: "true"})
            with transaction.update_snapshot().merge_append():
                pass


def _expirable(table: Table, cutoff: datetime) -> list[Snapshot]:
    """Snapshots that stopped being the current one before `cutoff`, and that no branch or tag names.

    Not those that are merely older: what was current at the cutoff is what a reader of that moment still wants.
    """
    protected = {reference.snapshot_id for reference in table.metadata.refs.values()}
    ordered = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
    return [
        snapshot
        for snapshot, successor in pairwise(ordered)
        if successor.timestamp_ms < cutoff.timestamp() * 1000 and snapshot.snapshot_id not in protected
    ]


def _expire(table: Table, ids: list[int]) -> None:
    present = [i for i in ids if table.metadata.snapshot_by_id(i) is not None]
    if present:
        table.maintenance.expire_snapshots().by_ids(present).commit()


def _named_by(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
    """Every file that reading one of these snapshots needs, as the table's file system names it."""
    lists: set[str] = set()
    manifests: dict[str, ManifestFile] = {}
    for snapshot in snapshots:
        lists.add(snapshot.manifest_list)
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    data = {
        entry.data_file.file_path
        for manifest in manifests.values()
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    }
    return set(resolve(table, [*lists, *manifests, *data])[1])


def _metadata_of(table: Table) -> set[str]:
    """The table's own description, its earlier ones that the catalog may still hand out, and its statistics."""
    paths = [
        table.metadata_location,
        *(entry.metadata_file for entry in table.metadata.metadata_log),
        *(entry.statistics_path for entry in table.metadata.statistics),
        *(entry.statistics_path for entry in table.metadata.partition_statistics),
    ]
    return set(resolve(table, paths)[1])


def _files_of(table: Table) -> list[Found]:
    filesystem, (root,) = resolve(table, [table.location()])
    return found_files(filesystem, root, OURS)


def _address(table: Table, path: str) -> str:
    """A file as the table's FileIO wants it: with the scheme of the table's location, where that has one."""
    scheme, mark, _ = table.location().partition("://")
    return f"{scheme}://{path}" if mark else path
