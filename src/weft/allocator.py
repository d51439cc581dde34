"""Memory that a step frees stays with the process, for the next step.

glibc hands every large block straight back to the kernel, which has to clear it page by page when the next step asks
for it again. Where that is dear (virtual machines), it costs more than the arithmetic: encoding photos took 3.7 times
the CPU time, see ``benchmarks/allocator.py``. PyTorch's tuning guide advises another allocator for the same reason.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of ``mallopt(3)``."""


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
