"""Memory that a step frees stays with the process, for the next step.

glibc hands every large block straight back to the kernel, which has to clear it page by page when the next step asks
for it again. Where that is dear (virtual machines), it costs more than the arithmetic: encoding photos took 3.7 times
the CPU time, see ``benchmarks/allocator.py``. PyTorch's tuning guide advises another allocator for the same reason.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of ``mallopt(3)``."""
USUAL = {TRIM_THRESHOLD: 128 * 1024, MMAP_MAX: 65536}
"""What they are unless told otherwise."""
MUCH = 1 << 29
"""Free bytes that a process does not sit on after a piece of work."""


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def keep_freed_memory() -> bool:
    """Tell glibc to take no block from the kernel directly and to return none before the process ends.

    Costs some peak memory: a seventh in training LightCRL, a quarter in encoding photos. The ``weft`` command calls it
    as it starts; a program that uses weft as a library decides for itself.

    Returns:
        Whether the C library can do that; on others nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1))


def return_freed_memory() -> bool:
    """Undo :func:`keep_freed_memory`, for work that wants less memory rather than time: blocks that come and go in
    several sizes leave holes into which the next does not fit.

    Returns:
        Whether the C library can do that; on others nothing happens.
    """
    try:
        library = ctypes.CDLL(None)
        return all(library.mallopt(name, value) for name, value in USUAL.items()) and bool(library.malloc_trim(0))
    except (OSError, TypeError, AttributeError):
        return False


def return_much_freed_memory() -> bool:
    """Give freed memory back to the kernel where it is more than ``MUCH``: a matrix of the last piece of work may leave
    a hole that the next one does not fit into.

    Returns:
        Whether something was given back; with a C library that cannot do that nothing happens.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Mallinfo
        return bool(library.mallinfo2().fordblks > MUCH and library.malloc_trim(0))
    except (OSError, TypeError, AttributeError):
        return False
