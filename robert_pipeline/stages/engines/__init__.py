"""The engines that a pipeline may run on, chosen by configuration. Nothing outside this folder knows which it is."""

from robert_pipeline.stages.engines.host import Host, LocalHost, open_host

__all__ = ["Host", "LocalHost", "open_host"]
