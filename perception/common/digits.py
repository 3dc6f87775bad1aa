"""1,797 real handwritten digits, which come with scikit-learn: small real images on every machine.

E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits, UCI, 1998: 8 x 8 pixels of 17 greys, written by 43
people.
"""
from collections.abc import Iterator

import cv2
import numpy as np

from perception.utils.optional import import_optional


def digits(count: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The first digits, each as its class 0..9 and a PNG file of `size` x `size` grey pixels.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    data = import_optional('sklearn.datasets', 'the handwritten digits', 'pip install scikit-learn').load_digits()
    for image, label in zip(data.images[:count], data.target[:count].tolist()):
        grey = np.clip(image * 15.9375, 0, 255).astype(np.uint8)  # 0..16 to 0..255
        grey = cv2.resize(grey, (size, size), interpolation=cv2.INTER_CUBIC)
        yield label, cv2.imencode('.png', grey)[1].tobytes()
