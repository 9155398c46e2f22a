"""Compiled code for tests, where this machine can have it."""

import pytest

from robert_pipeline.native.build import NativeUnavailable


def compiled(make):
    """What `make` gives; skips where there can be none."""
    try:
        return make()
    except NativeUnavailable as reason:
        pytest.skip(f"what is tested cannot be had here: {reason}")
