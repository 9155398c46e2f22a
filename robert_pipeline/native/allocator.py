"""What this process keeps of memory: the C library's allocator, Arrow's, and oneDNN's cache of compiled products."""

import contextlib
import ctypes
import os

import pyarrow as pa

from robert_pipeline.cores import usable_cores

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
KEPT_BYTES = 256 << 20
LARGEST_KEPT_BYTES = 32 << 20  # glibc takes no more
KEPT_PRIMITIVES = 32


def keep_freed_memory() -> None:
    """Keep up to 256 MB of freed memory in this process, where the C library can.

    Activations of a batch are freed and asked for again at every operation. As glibc comes, each time they go back to
    the system and come again as empty pages: a twentieth of the time that embedding takes.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)


def share_freed_memory() -> None:
    """Let what any thread has freed serve the others, where the C library can; before anything large is read.

    glibc makes up to eight arenas a core, of which each keeps what its threads have freed, and Arrow's own allocator
    keeps it once more. One arena a core, with the Arrow memory that pyarrow asks for, take a tenth less in all, and
    what they take hardly grows with the work. Arenas that there are already stay, and once there are more than eight
    glibc takes no limit. MALLOC_ARENA_MAX and ARROW_DEFAULT_MEMORY_POOL are respected.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        if "MALLOC_ARENA_MAX" not in os.environ:
            mallopt(_ARENA_MAX, len(usable_cores()))
        if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
            pa.set_memory_pool(pa.system_memory_pool())


def give_back_memory() -> None:
    """Give freed memory back to the system, where the C library can; between blocks, so that holes do not add up."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def bound_primitive_cache() -> None:
    """Let oneDNN keep few compiled primitives; to be called before the first product, unless the variable is set.

    As it comes it keeps 1,024, one for every operation and number of tokens that it has met: with batches of ever new
    sizes half a gigabyte after 20,000 documents, and growing. Batches of full chunks, which are most, have one size.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_PRIMITIVES))
