"""CCA over 1,000,000 rows of 512 + 512 features in constant memory, equal to CCA of rows in memory.

Rows are drawn chunk by chunk from a seed: 64 hidden variables seen by both modalities through noise, with means far
from zero. At 100,000 rows the correlations and projections of the streaming moments are compared with those of the
two-pass covariance of all rows in memory; peak memory is taken in one child process per size, the rows' own included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from harness import peak_memory, set_threads, write_result
from torch import Tensor

from weft.ops.correlation import Canonical, Moments, cca

WIDTHS, HIDDEN, DIM, CHUNK = (512, 512), 64, 64, 5000
COMPARED = 100_000
SIZES = (10_000, COMPARED, 1_000_000)


def chunks(rows: int) -> Iterator[Tensor]:
    """``(CHUNK, 1024)`` float32, always the same."""
    maps = torch.randn(HIDDEN, sum(WIDTHS), generator=torch.Generator().manual_seed(0)) / HIDDEN**0.5
    for chunk in range(rows // CHUNK):
        generator = torch.Generator().manual_seed(chunk + 1)
        hidden = torch.randn(CHUNK, HIDDEN, generator=generator)
        yield 10 + hidden @ maps + torch.randn(CHUNK, sum(WIDTHS), generator=generator)


def streaming(rows: int) -> Canonical:
    """One pass over chunks."""
    moments = Moments.of(torch.zeros(0, sum(WIDTHS)))
    for chunk in chunks(rows):
        moments = moments.merge(Moments.of(chunk))
    return cca(moments.covariance, WIDTHS, DIM)


def in_memory(rows: int) -> Canonical:
    """All rows at once: mean first, then the covariance, in float64."""
    x = torch.cat(list(chunks(rows))).double()
    x -= x.mean(dim=0)
    return cca(x.T @ x / (rows - 1), WIDTHS, DIM)


def prepare(method: str, rows: int) -> Callable[[], Canonical]:
    """The call to measure, in a child process."""
    return lambda: {"streaming": streaming, "in memory": in_memory}[method](rows)


def main() -> None:
    set_threads(1)
    one, other = streaming(COMPARED), in_memory(COMPARED)
    pairs = [(one.correlations, other.correlations), *zip(one.projections, other.projections, strict=True)]
    gaps = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    print(f"largest relative difference at {COMPARED} rows: {max(gaps):.1e}")
    if max(gaps) > 1e-9:
        raise SystemExit("streaming and in-memory CCA differ")
    figures = [
        {"method": method, "rows": rows, **peak_memory(prepare, method, rows, threads=1)}
        for method, rows in [("in memory", COMPARED), *(("streaming", rows) for rows in SIZES)]
    ]
    for row in figures:
        print(f"{row['method']}, {row['rows']:,} rows: {row['peak_bytes'] / 2**20:.0f} MiB, {row['cpu_s']:.1f} CPU s")
    agreement = dict(zip(("correlations", "first", "second"), gaps, strict=True))
    write_result("streaming_cca", {"relative_difference": agreement, "chunk": CHUNK, "figures": figures})


if __name__ == "__main__":
    main()
