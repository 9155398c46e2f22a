"""Apache Beam, imported in silence.

Beam warns of every cloud whose client is not installed, and its warning gives the program's root logger a handler that
was never asked for. The only module that imports Beam.
"""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing is logged and no handler added; other loggers' levels stay as they are."""
    root = logging.getLogger()
    guard = logging.NullHandler()  # logging.warning() adds a handler where there is none
    disabled = logging.root.manager.disable
    root.addHandler(guard)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.removeHandler(guard)


with _silence():
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.runners.runner import PipelineRunner

__all__ = ["FnApiRunner", "PipelineOptions", "PipelineRunner", "beam"]
