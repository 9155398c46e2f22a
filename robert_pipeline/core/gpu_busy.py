"""How busy a GPU was while something ran: a device enters, seconds leave. Nothing is seen of any other device."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

import torch

from robert_pipeline.types import EncoderUse

SAMPLE_SECONDS = 0.5
"""NVML averages over at most a second."""

Reader = Callable[[torch.device], float]
"""Percent of the last moments in which the device had a kernel at work."""


class GpuBusy:
    """Asks the driver from time to time, in a thread, while its block runs; on other devices than CUDA it does nothing.

    Without NVML's Python bindings (nvidia-ml-py), or where the device does not say (MIG), nothing is known.
    """

    def __init__(self, device: torch.device, *, read: Reader = torch.cuda.utilization, watched: str = "cuda") -> None:
        self._device = device
        self._read = read
        self._is_watched = device.type == watched
        self._ended = threading.Event()
        self._samples: list[float] = []
        self._thread = threading.Thread(target=self._watch, name="gpu-busy", daemon=True)
        self._started = self._seconds = 0.0

    def __enter__(self) -> "GpuBusy":
        self._started = time.monotonic()
        if self._is_watched:
            self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._is_watched:
            self._thread.join()
        self._seconds = time.monotonic() - self._started

    @property
    def use(self) -> EncoderUse:
        """Once the block has ended: its seconds, and how many of them the device was busy; zeros where nobody knows."""
        if not self._samples:
            return EncoderUse()
        share = sum(self._samples) / len(self._samples) / 100
        return EncoderUse(gpu_seconds=self._seconds, gpu_busy_seconds=self._seconds * share)

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            try:
                self._samples.append(float(self._read(self._device)))
            except Exception:  # no bindings, no driver, no permission: nothing is known
                return
