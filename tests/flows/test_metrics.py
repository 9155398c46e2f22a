"""What flows tell an operator's metrics: the same as commands do, once a run."""

from tests.otlp import receiving
from tests.projects import LABEL, LEARN, copy_of


def test_a_flow_with_all_its_tasks_is_one_run(project, tmp_path, prefect, monkeypatch):
    """A night on a server would be told of in pieces, or not at all."""
    from flows.label import label_partitions

    settings = copy_of(project, tmp_path)
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        label_partitions(settings, [LABEL], learn_from=[LEARN], retrain=True)
    sent = receiver.only()
    (run,) = sent.attributes("robert.run.duration")
    assert (run["verb"], run["partition"], run["outcome"]) == ("label", LABEL, "ok")
    stages = {had["stage"] for had in sent.attributes("robert.stage.duration")}
    assert stages == {"plan", "embed", "train", "score", "publish"}
    assert sent.value("robert.documents", stage="publish", result="labelled") == 5
