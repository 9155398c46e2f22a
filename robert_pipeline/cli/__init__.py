"""The command line: parse, call `robert_pipeline.runs`, show. `main` is the `robert` command."""

from robert_pipeline.cli.app import main

__all__ = ["main"]
