"""What the simulated photographs are painted with: soft shapes and textures, each a map over an image of S x S pixels.

Coordinates are -1..1 in both directions, x to the right and y down.
"""
import cv2
import numpy as np


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of each pixel, (S, S) each."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    return x, y


def clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise, (S, S) of about -1..1, with about so many hills in a row."""
    coarse = rng.normal(0, 0.5, (cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def soft(distance: np.ndarray, width: float) -> np.ndarray:
    """1 inside (distance below 0), 0 outside, with an edge of a width."""
    return 1 / (1 + np.exp(np.clip(distance / width, -40, 40)))


def blob(rng: np.random.Generator, size: int, center: tuple[float, float], radius: float, rough: float,
         edge: float) -> np.ndarray:
    """An island with an irregular border, (S, S) of 0..1.

    Args:
        rng: random numbers.
        size: S.
        center: x and y.
        radius: mean distance from its centre to its border.
        rough: how much that varies, as a share.
        edge: width of the border.
    """
    x, y = grid(size)
    dx, dy = x - center[0], y - center[1]
    angle, waves = np.arctan2(dy, dx), np.zeros_like(x)
    for k in range(2, 8):
        waves += rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return soft(np.hypot(dx, dy) - radius * (1 + rough * waves), edge)


def dots(rng: np.random.Generator, size: int, count: int, radius: tuple[float, float], within: np.ndarray,
         edge: float = 0.012) -> np.ndarray:
    """Small discs at random places, (S, S) of 0..1.

    Args:
        rng: random numbers.
        size: S.
        count: of them.
        radius: smallest and largest.
        within: (S, S), where above 0.5 they lie.
        edge: width of their borders.
    """
    rows, columns = np.nonzero(within > 0.5)
    if not count or not len(rows):
        return np.zeros((size, size))
    chosen = rng.integers(0, len(rows), count)
    x, y = grid(size)
    distance = np.hypot(x[None] - x[0, columns[chosen], None, None], y[None] - y[rows[chosen], 0, None, None])
    return soft(distance - rng.uniform(*radius, (count, 1, 1)), edge).max(0)


def lines(size: int, paths: list[np.ndarray], widths: list[float]) -> np.ndarray:
    """Curves, (S, S) of 0..1.

    Args:
        size: S.
        paths: (P, 2) x and y each.
        widths: of each, at its thickest.
    """
    image = np.zeros((size, size), np.uint8)
    for path, width in zip(paths, widths):
        points = np.round((path + 1) / 2 * (size - 1) * 16).astype(np.int32)
        cv2.polylines(image, [points], False, 255, max(1, round(width * size)), cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(image, (3, 3), 0) / 255.0


def mix(image: np.ndarray, color: tuple[float, float, float] | np.ndarray, share: np.ndarray) -> np.ndarray:
    """The image (S, S, 3) with a colour put over it where `share` (S, S) is above 0."""
    return image + (np.asarray(color, np.float64) - image) * share[..., None]


def finish(rng: np.random.Generator, image: np.ndarray, noise: float = 3.0) -> np.ndarray:
    """(S, S, 3) uint8 of an image in 0..255, with the noise of a camera."""
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
