"""What an address or an option must not hold: settings are logged, shown and handed on. Imports nothing but errors."""

import re

from robert_pipeline.errors import ConfigError

_USER_AND_PASSWORD = re.compile(r"://[^/?#]*?:(?P<secret>.*)@")
_PORT = re.compile(r"\d*(?:[/?#].*)?")
_NAMED_SECRET = re.compile(
    r"[\w.-]*(?:passw|pwd|secret|token|credential|signature|access.?key|api.?key)[\w.-]*\s*=\s*(?P<secret>[^&;\s]*)",
    re.I,
)
_REFERENCE = re.compile(r"\$\{\w+\}")


def refuse_secret(name: str, address: str) -> None:
    """Raise ConfigError where an address holds a password or a token: settings are logged, shown and handed on."""
    found = [match["secret"] for match in _NAMED_SECRET.finditer(address)]
    if (match := _USER_AND_PASSWORD.search(address)) and not _PORT.fullmatch(match["secret"]):
        found.append(match["secret"])
    if any(secret and not _REFERENCE.fullmatch(secret) for secret in found):
        raise ConfigError(
            f"{name} holds a password or another secret",
            fix="Take it out: write ${NAME} in its place and set that environment variable (for PostgreSQL, "
            "PGPASSWORD or a pgpass file needs no place at all)",
        )
