"""How many people stand around each one, on which much depends in a crowd."""
import numpy as np

RADIUS = 2.0  # m, of which STCrowd tells the mean number of neighbours, 2.4


def count_neighbours(boxes: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """How many other boxes have their centre within a distance of each one's, in the ground plane.

    Args:
        boxes: (K, 2 or more), x and y [m] first.
        radius: m.

    Returns:
        (K,) float32.
    """
    x, y = boxes[:, 0].astype(np.float64), boxes[:, 1].astype(np.float64)
    near = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 <= radius ** 2
    return np.maximum(near.sum(axis=1) - 1, 0).astype(np.float32)
