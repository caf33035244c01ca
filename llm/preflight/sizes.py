"""Human-readable sizes and times."""

from __future__ import annotations

import itertools


def in_bytes(n_bytes: float) -> str:
    """Three digits and a unit: `29.0 MB`; a thousand of each is the next."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB" if n_bytes < 999.5 else f"{n_bytes:,.0f} TB"


def in_fraction(part: int, total: int) -> str:
    """A count and what fraction of another it is: `12,288 (0.17 %)`."""
    return f"{part:,} ({100 * part / total:.2g} %)"


def in_time(seconds: float) -> str:
    """The two largest units: `1 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (small, smaller) in itertools.pairwise(units):
        if seconds >= size:
            whole, rest = divmod(round(seconds / smaller), size // smaller)
            return f"{whole} {name}{f' {rest} {small}' if rest else ''}"
    return f"{seconds:.0f} s"
