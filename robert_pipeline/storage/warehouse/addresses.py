"""Addresses of warehouses: what a user may write, and what it means. Creates nothing, connects to nothing.

Secrets enter here, from the environment, and nowhere else; `Address.hide` takes them out of what is shown.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from robert_pipeline.config import SinkKind
from robert_pipeline.errors import ConfigError, WarehouseError

_REFERENCE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """An address as it is used, and as it may be shown."""

    shown: str
    used: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def hide(self, text: str) -> str:
        """The text with every secret of this address made unreadable."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def read_address(name: str, shown: str) -> Address:
    """Put environment variables in the place of `${NAME}`. Raises ConfigError, naming the variable that is not set.

    A value that is only a part of the address is percent-encoded, as a password in a URI has to be.
    """
    secrets: list[str] = []
    whole = _REFERENCE.fullmatch(shown.strip()) is not None

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{name} names the environment variable {match[1]}, which is not set", fix="Set it")
        given = os.environ[match[1]]
        encoded = given if whole else quote(given, safe="")
        secrets.extend((given, encoded))
        return encoded

    used = _REFERENCE.sub(value, shown)
    password = _password(used)
    # The longest first: one may be part of another.
    known = {secret for secret in (*secrets, password, unquote(password), os.environ.get("PGPASSWORD", "")) if secret}
    return Address(shown=shown, used=used, secrets=tuple(sorted(known, key=len, reverse=True)))


def _password(address: str) -> str:
    try:
        return urlsplit(address).password or ""
    except ValueError:
        return ""


def local_path(uri: str) -> Path | None:
    """The absolute path that a plain path or a file:// URI means; None for the URI of anything else (s3://, gs://)."""
    if not uri.strip():
        raise WarehouseError("warehouse.uri is empty", fix="Give a folder, for example ./warehouse")
    if _REFERENCE.search(uri):
        raise WarehouseError(
            f"warehouse.uri {uri} names an environment variable, which stands for a secret of a database or a catalog",
            fix="Write the folder itself",
        )
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


def local_folder(uri: str, sink: SinkKind, why: str) -> Path:
    """The folder (or file) of a sink that needs one on a disk. Raises WarehouseError for any other address."""
    folder = local_path(uri)
    if folder is None:
        raise WarehouseError(f"warehouse.uri {uri} is not a local path", fix=f"Give one: {why} (sink '{sink}')")
    return folder
