"""A project that several test modules damage, clean and replay, each in a copy of its own."""

import pytest

from robert_pipeline.runs.embed import embed
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.score import score
from tests.projects import copy_of


@pytest.fixture(scope="session")
def scored_project(project, tmp_path_factory):
    """Both days embedded and scored, contributions among them. Not to be changed."""
    settings = copy_of(project, tmp_path_factory.mktemp("scored"))
    embed(settings, run_id="first")
    score(plan(settings, run_id="first"), model=settings.model, contributions=True)
    return settings


@pytest.fixture
def scored(scored_project, tmp_path):
    """A copy of the scored project."""
    return copy_of(scored_project, tmp_path)
