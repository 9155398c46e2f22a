"""Libraries that not every installation has: a name enters, the module leaves, or what to install."""

import importlib
from types import ModuleType

from robert_pipeline.errors import WarehouseError


def require(module: str, *, extra: str, what: str) -> ModuleType:
    """Import `module`, which the optional dependencies `extra` bring. Raises WarehouseError naming the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise WarehouseError(
            f"{what} needs the Python package of '{module}', which is not installed",
            fix=f"Install it with: pip install 'robert-pipeline[{extra}]'",
        ) from error
