"""How fast this machine could embed at best: the time that a model's matrix products alone would take.

Linear maps and a device enter, tokens a second leave. A measurement, not a bound from a data sheet: the same products
at the same shapes, by torch's fastest way, with nothing in between. Axes: N tokens of a batch.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

LinearShapes = tuple[tuple[int, int, int], ...]
"""(inputs, outputs, how often a token meets such a map)."""

MEASURED_SECONDS = 0.16
SAMPLES = 4
"""The best of several: what disturbs a machine only ever slows it down."""


def linear_shapes(model: nn.Module) -> LinearShapes:
    """The linear maps that every token goes through. A pooler, which sees one token a sequence, is not among them."""
    found = Counter(
        (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and not name.startswith("pooler")
    )
    return tuple((inputs, outputs, count) for (inputs, outputs), count in sorted(found.items()))


def linear_flops(shapes: LinearShapes) -> int:
    """Floating-point operations a token, two for each weight."""
    return sum(2 * inputs * outputs * count for inputs, outputs, count in shapes)


def ceiling_tokens_per_second(
    shapes: LinearShapes,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    threads: int,
    seconds: float = MEASURED_SECONDS,
) -> float:
    """Tokens a second through all linear maps in `dtype`, batches of `batch_tokens`, one thread a batch on a CPU.

    Takes about `seconds`, and again half of that to begin with. 0 where there is no linear map.
    """
    flops = linear_flops(shapes)
    if not flops:
        return 0.0
    needed = 0.0
    for inputs, outputs, count in shapes:
        flops_here = 2 * inputs * outputs * count
        multiply = _multiplier(inputs, outputs, device, dtype, batch_tokens)
        share = seconds * flops_here / flops
        rate = _cuda_rate(multiply, share) if device.type == "cuda" else _cpu_rate(multiply, share, threads)
        needed += count / (rate * batch_tokens)
    return 1 / needed


def _multiplier(
    inputs: int, outputs: int, device: torch.device, dtype: torch.dtype, batch_tokens: int
) -> Callable[[], Tensor]:
    def values(*size: int) -> Tensor:  # not all the same: a GPU multiplies zeros faster
        return torch.linspace(-1, 1, math.prod(size), device=device).reshape(size).to(dtype)

    x_N, weight, bias = values(batch_tokens, inputs), values(outputs, inputs), values(outputs)
    if device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, batch_tokens)
        return lambda: torch.ops.mkldnn._linear_pointwise(x_N, packed, bias, "none", [], "")
    return lambda: nn.functional.linear(x_N, weight, bias)


def _cpu_rate(multiply: Callable[[], Tensor], seconds: float, threads: int) -> float:
    """Products a second of all threads together, each computing its own."""

    def sample(_thread: int) -> float:
        with torch.inference_mode():
            multiply()
            started, done = time.perf_counter(), 0
            while (passed := time.perf_counter() - started) < seconds / SAMPLES or not done:
                multiply()
                done += 1
        return done / passed

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return max(sum(pool.map(sample, range(threads))) for _ in range(SAMPLES))
    finally:
        torch.set_num_threads(before)  # torch also takes the last number set for threads that start later


def _cuda_rate(multiply: Callable[[], Tensor], seconds: float) -> float:
    def sample(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            multiply()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / count

    with torch.inference_mode():
        sample(3)
        count = max(3, int(seconds / SAMPLES / sample(3)))
        return 1 / min(sample(count) for _ in range(SAMPLES))
