"""Which engine runs the stages: a frozen value, checked when made. Knows none of them."""

import re
from dataclasses import dataclass

from robert_pipeline.errors import ConfigError
from robert_pipeline.secrets import refuse_secret

_ENGINE = re.compile(r"local|dask|flink|spark|dataflow|(dask|flink|spark|portable)://[^/:\s]+:\d+")
_RESOURCES = re.compile(r"\w+=\d+(\.\d+)?(,\w+=\d+(\.\d+)?)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """Where the stages run. Decides no result.

    `name` is 'local' (this process), 'dask' (workers of this machine, one a GPU or one a core), 'dask://host:port' (a
    scheduler that exists), or another of Beam's: 'flink://host:port', 'spark://host:port', 'portable://host:port' (a
    Beam job endpoint), 'flink', 'spark', 'dataflow'. `options` go to Beam as they are, such as '--parallelism=8'.
    `workers` is how many 'dask' starts; `resources` what a Dask worker must offer to be given work, such as 'GPU=1'.
    `patience_seconds` is how long a run waits for a scheduler, for a worker's answer, and without any worker, before
    it ends.
    """

    name: str = "local"
    options: tuple[str, ...] = ()
    workers: int | None = None
    resources: str = ""
    patience_seconds: int = 60

    def __post_init__(self) -> None:
        if not _ENGINE.fullmatch(self.name):
            raise ConfigError(
                f"engine.name is '{self.name}'",
                fix="Give local, dask, dask://host:port, flink://host:port, spark://host:port, portable://host:port, "
                "flink, spark or dataflow",
            )
        for option in self.options:
            if not option.startswith("--"):
                raise ConfigError(f"engine.options has '{option}'", fix="Write it as Beam does: --name=value")
            refuse_secret("engine.options", option)
        if self.workers is not None and (self.workers < 1 or self.name != "dask"):
            raise ConfigError(
                f"engine.workers is {self.workers} for engine '{self.name}'",
                fix="Give at least 1, and only to 'dask', which starts its own",
            )
        if self.resources and not (_RESOURCES.fullmatch(self.resources) and self.name.startswith("dask://")):
            raise ConfigError(
                f"engine.resources is '{self.resources}' for engine '{self.name}'",
                fix="Write NAME=AMOUNT, such as GPU=1, and only for dask://host:port",
            )
        if self.patience_seconds < 1:
            raise ConfigError(f"engine.patience_seconds is {self.patience_seconds}", fix="Give at least 1")

    @property
    def address(self) -> str:
        """host:port of an engine that exists, else nothing."""
        return self.name.partition("://")[2]
