"""One run of the pipeline, in a process that may be killed: it says which phase it is in, and how long each took."""

import time

from robert_pipeline.runs.embed import embed_plan
from robert_pipeline.runs.identity import new_run_id
from robert_pipeline.runs.plan import plan
from robert_pipeline.runs.publish import publish
from robert_pipeline.runs.score import score
from robert_pipeline.stages import pipeline  # noqa: F401 - loaded once, by the process that the others are forked from
from robert_pipeline.storage.warehouse import iceberg  # noqa: F401 - as above

PHASES = ("plan", "embed", "score", "publish")
DONE = "done"


def label_everything(settings, messages):
    """What `robert label` does, with a message before each phase: (phase, moment)."""

    def say(phase):
        messages.send((phase, time.monotonic()))

    say("plan")
    planned = plan(settings, run_id=new_run_id())
    say("embed")
    embed_plan(planned)
    say("score")
    score(planned.embedded(), model=settings.model)
    say("publish")
    publish(settings, planned.embedded())
    say(DONE)
