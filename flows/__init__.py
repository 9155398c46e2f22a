"""The Prefect flows: what a schedule runs. They order, retry and report; the work is `robert_pipeline.runs`."""
