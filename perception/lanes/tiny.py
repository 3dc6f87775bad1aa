"""A small picture in each format that people bring, for `tools/benchmark.py fuzz`."""
from pathlib import Path

import numpy as np
from PIL import Image


def write_image_files(folder: str | Path) -> Path:
    """Write a picture as JPEG (turned by its EXIF mark, progressive), PNG (grey, palette, 16 bits), and others.

    Args:
        folder: gets a folder for each format.

    Returns:
        the folder.
    """
    folder, rng = Path(folder), np.random.default_rng(0)
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (15, 20, 3), np.uint8), 4, 0), 4, 1)
    image, turned = Image.fromarray(pixels), Image.Exif()
    turned[0x0112] = 6
    kinds = {'jpeg/a.jpg': (image, {}), 'exif/a.jpg': (image, dict(exif=turned)),
             'progressive/a.jpeg': (image, dict(progressive=True)), 'png/a.png': (image, {}),
             'grey/a.png': (image.convert('L'), {}), 'palette/a.png': (image.quantize(16), {}),
             'alpha/a.png': (image.convert('RGBA'), {}),
             'deep/a.png': (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), {}),
             'animated/a.png': (image, dict(save_all=True, append_images=[image.rotate(180)])),
             'webp/a.webp': (image, {}), 'bmp/a.bmp': (image, {}), 'tif/a.tif': (image, {})}
    for name, (picture, options) in kinds.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name, **options)
    return folder
