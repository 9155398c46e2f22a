"""Values that pass between modules: where documents are, what was cut, what was found. Frozen; they open nothing."""

from dataclasses import dataclass
from functools import cached_property  # noqa: F401

from robert_pipeline.config import fingerprint
