"""Settings of the C library's memory allocator."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_BYTES = 256 << 20
LARGEST_KEPT_BYTES = 32 << 20  # glibc takes no more


def keep_freed_memory() -> None:
    """Keep up to 256 MB of freed memory in this process, where the C library can.

    Activations of a batch are freed and asked for again at every operation. As glibc comes, each time they go back to
    the system and come again as empty pages: a twentieth of the time that embedding takes.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
