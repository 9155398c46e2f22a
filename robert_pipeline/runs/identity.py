"""What a run is called."""

import uuid
from datetime import UTC, datetime


def new_run_id() -> str:
    """A name for one run, sortable by time. It marks rows; nothing is ever found or decided by it."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
