"""How far an array is from a published one."""

import numpy as np


def relative(ours: object, published: object) -> float:
    """Largest difference over the largest published magnitude; for tensors whose entries share one scale.

    Against zeros alone it is 0 where ours are zeros too and infinite otherwise. Whole numbers are equal exactly where
    it is 0.
    """
    a, b = _pair(ours, published)
    return _over(np.abs(a - b).max(), np.abs(b).max())


def elementwise(ours: object, published: object) -> float:
    """Largest error of an entry relative to that entry; for tables whose entries span orders of magnitude."""
    a, b = _pair(ours, published)
    return max(_over(difference, size) for difference, size in zip(np.abs(a - b).flat, np.abs(b).flat, strict=True))


def _pair(ours: object, published: object) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(ours, np.float64), np.asarray(published, np.float64)
    assert a.shape == b.shape, f"shape {a.shape} against {b.shape}"
    return a, b


def _over(difference: float, size: float) -> float:
    return float(difference / size) if size else (0.0 if difference == 0 else float("inf"))
