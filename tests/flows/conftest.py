"""A Prefect server of the tests' own, which ends with them."""

import pytest


@pytest.fixture(scope="session")
def prefect(tmp_path_factory):
    """A real server with a database of its own; it takes seconds to start."""
    import os

    os.environ.update(
        PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
        PREFECT_LOGGING_LEVEL="WARNING",
        PREFECT_SERVER_LOGGING_LEVEL="ERROR",
    )
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
