"""Addresses of local warehouses: what a user may write, and the absolute folder it means. Creates nothing."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from robert_pipeline.errors import WarehouseError


def local_path(uri: str) -> Path | None:
    """The absolute path that a plain path or a file:// URI means; None for the URI of anything else (s3://, gs://)."""
    if not uri.strip():
        raise WarehouseError("warehouse.uri is empty", fix="Give a folder, for example ./warehouse")
    if uri.lower().startswith("file:"):
        parts = urlsplit(uri.replace("?", "%3F").replace("#", "%23"))
        if parts.netloc not in ("", "localhost"):
            raise WarehouseError(
                f"warehouse.uri {uri} names another host",
                fix="Write file:///absolute/path, with three slashes",
            )
        return Path(unquote(parts.path)).absolute()
    if "://" in uri:
        return None
    return Path(uri).expanduser().absolute()
