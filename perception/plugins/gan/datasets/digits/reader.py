"""Reads digits, to tell whether images of a student show what those of its teacher show."""
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception.common.digits import digits
from perception.utils.optional import import_optional


class DigitReader:
    """A support vector machine that has learned the 1,797 real digits.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """

    def __init__(self) -> None:
        svm = import_optional('sklearn.svm', 'reading digits', 'pip install scikit-learn')
        labels, files = zip(*digits(1797, 32))
        grey = np.stack([cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE) for file in files])
        images = torch.from_numpy(grey)[:, None] / 127.5 - 1
        self.machine = svm.SVC(gamma=0.001).fit(self.rows(images), labels)

    @staticmethod
    def rows(images: Tensor) -> np.ndarray:
        """(B, 64) numbers 0..16 of images (B, C, H, W) of -1..1, as scikit-learn's are."""
        return (F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1).numpy() + 1) * 8

    def __call__(self, images: Tensor) -> Tensor:
        """Digits (B,) of images (B, 3, H, W) of -1..1."""
        return torch.from_numpy(self.machine.predict(self.rows(images)))
