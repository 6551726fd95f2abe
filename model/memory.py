"""What is kept of freed memory, which decides how fast a network with large activations runs, and of what was
compiled for sizes that are gone."""

from __future__ import annotations

import ctypes
import os
import platform

LARGEST_KEPT = 32 * 1024 * 1024
"""Bytes of the largest block that is taken from the heap; glibc allows no more on 64 bits."""

KEPT = 256 * 1024 * 1024
"""Bytes of freed memory at the heap's end beyond which it is given back."""

KEPT_CONVOLUTIONS = 128
"""For how many convolutions PyTorch keeps what it prepared, one of each layer and size."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3), from glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Lets glibc hand freed blocks of up to `LARGEST_KEPT` out again, for the whole process.

    By itself it gives every large block back to the kernel, so that each layer's output is faulted in page by
    page and zeroed: at 1024x1024 that takes longer than much of the arithmetic. Larger blocks (decoded
    photographs) still go back at once. All threads share one heap, since the others' are cut into 64 MiB. To
    be called before there are other threads: those that allocated before keep theirs.

    Returns:
        False where the C library is another one and nothing was changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, KEPT))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def keep_fewer_convolutions() -> None:
    """Lets PyTorch keep `KEPT_CONVOLUTIONS` prepared ones instead of 1024, unless LRU_CACHE_CAPACITY is set.

    Each holds memory, in bfloat16 above all, and oneDNN keeps the code besides. To be called before the first
    convolution.
    """
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KEPT_CONVOLUTIONS))
