"""The catalog that names Iceberg tables, by configuration: a SQLite file in the folder, PostgreSQL, or REST.

A Warehouse enters, a catalog leaves. A further property, a credential of a REST catalog say, comes from the
environment, as PyIceberg reads it: PYICEBERG_CATALOG__ROBERT__TOKEN, PYICEBERG_CATALOG__ROBERT__S3__ENDPOINT.
"""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pyiceberg.catalog import Catalog, load_catalog

from robert_pipeline.config import Warehouse
from robert_pipeline.errors import WarehouseError
from robert_pipeline.storage.warehouse.addresses import Address, local_path, read_address
from robert_pipeline.storage.warehouse.extras import require

CATALOG_NAME = "robert"
CATALOG_FILE = "catalog.db"
SQLITE_WAIT_SECONDS = 1
POSTGRES_WAIT_SECONDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogPlace:
    """Where the catalog is. `root` is the address below which tables lie; None where the catalog decides that."""

    address: Address
    properties: dict[str, str] = field(repr=False)
    root: str | None
    sqlite_file: Path | None = None

    @property
    def shown(self) -> str:
        """The catalog, for a person."""
        return str(self.sqlite_file) if self.sqlite_file is not None else self.address.shown

    def may_exist(self) -> bool:
        """False where there cannot be a table yet, so that looking makes nothing."""
        return self.sqlite_file is None or self.sqlite_file.is_file()

    def open(self, *, create: bool) -> Catalog:
        """Connect. With `create`, make what a new catalog needs; without, a catalog without its tables has none."""
        if self.sqlite_file is not None and create:
            self.sqlite_file.parent.mkdir(parents=True, exist_ok=True)
        properties = {"init_catalog_tables": str(create).lower(), **self.properties}
        return load_catalog(CATALOG_NAME, **properties)


def catalog_place(config: Warehouse) -> CatalogPlace:
    """What `warehouse.catalog` means. Raises WarehouseError for an address that is no catalog's."""
    address = read_address("warehouse.catalog", config.catalog)
    if address.used.startswith(("https://", "http://")):
        properties = {"type": "rest", "uri": address.used, "warehouse": config.uri}
        return CatalogPlace(address=address, properties=properties, root=None)
    folder = local_path(config.uri)
    root = str(folder) if folder is not None else config.uri.rstrip("/")
    if address.used.startswith(("postgresql://", "postgres://")):
        require("psycopg2", extra="postgres", what="an Iceberg catalog in PostgreSQL")
        _, _, rest = address.used.partition("://")
        joint = "&" if "?" in rest else "?"
        properties = {
            "type": "sql",
            "uri": f"postgresql+psycopg2://{rest}{joint}connect_timeout={POSTGRES_WAIT_SECONDS}",
            "warehouse": root,
            "pool_pre_ping": "true",
        }
        return CatalogPlace(address=address, properties=properties, root=root)
    if address.used:
        raise WarehouseError(
            f"warehouse.catalog {address.shown} is not a catalog",
            fix="Leave it out for a SQLite file, or give postgresql://user@host/database or https://…",
        )
    if folder is None:
        raise WarehouseError(
            f"warehouse.uri {config.uri} is not a local folder",
            fix="Give a folder: the embedded Iceberg catalog is a SQLite file in it; or name a warehouse.catalog",
        )
    # As a file: URI, so that a folder's ?, # and % are not taken for syntax.
    database = f"file:{quote(str(folder / CATALOG_FILE))}"
    properties = {
        "type": "sql",
        "uri": f"sqlite:///{database}?uri=true&timeout={SQLITE_WAIT_SECONDS}",
        "warehouse": root,
    }
    return CatalogPlace(address=address, properties=properties, root=root, sqlite_file=folder / CATALOG_FILE)
