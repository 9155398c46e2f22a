"""How busy a GPU was, and that nothing is claimed where nobody knows."""

import time

import pytest
import torch

from robert_pipeline.core.gpu_busy import SAMPLE_SECONDS, GpuBusy
from robert_pipeline.types import EncoderUse

CPU = torch.device("cpu")


def test_the_share_is_the_mean_of_what_the_driver_says():
    """A GPU that waits for half of the time would look busy, or idle."""
    said = iter([100.0, 0.0] * 50)
    with GpuBusy(CPU, read=lambda _device: next(said), watched="cpu") as busy:
        time.sleep(2.5 * SAMPLE_SECONDS)
    assert busy.use.gpu_seconds >= 2.5 * SAMPLE_SECONDS
    assert 0.3 < (busy.use + EncoderUse()).gpu_busy_share < 0.7


def test_nothing_is_known_of_a_processor_or_without_a_driver():
    """0% would be reported for what was never measured."""
    with GpuBusy(CPU) as unwatched:
        time.sleep(1.2 * SAMPLE_SECONDS)
    with GpuBusy(CPU, read=lambda _device: 1 / 0, watched="cpu") as broken:
        time.sleep(1.2 * SAMPLE_SECONDS)
    assert unwatched.use == broken.use == EncoderUse()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_at_work_is_busy():
    """The driver would be asked in a way that it does not understand."""
    pytest.importorskip("pynvml")
    device = torch.device("cuda")
    a = torch.randn(4096, 4096, device=device)
    with GpuBusy(device) as busy:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            a @ a
            torch.cuda.synchronize()
    assert busy.use.gpu_busy_share > 0.5
