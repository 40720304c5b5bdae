"""Reads the data sets that the models are trained on, from a folder that the user names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Images:
    """A labelled data set of grey images, flattened.

    Attributes:
        train_inputs: float32 (60000, 784), pixels / 255.
        train_labels: int64 (60000,).
        test_inputs: float32 (10000, 784), pixels / 255.
        test_labels: int64 (10000,).
    """

    train_inputs: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_inputs: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


def flatten(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Turns uint8 images (N, height, width) into float32 rows (N, height * width) in [0, 1]: pixels / 255."""
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)


def load_images(folder: Path, name: str) -> Images:
    """Reads `folder/name.npz`, which holds x_train, y_train, x_test and y_test.

    Raises:
        SystemExit: The file is missing, or lacks one of the four arrays.
    """
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: give the folder that holds {name}.npz with --data")
    with np.load(path, allow_pickle=False) as arrays:
        missing = [key for key in KEYS if key not in arrays]
        if missing:
            raise SystemExit(f"{path} lacks {', '.join(missing)}: it must hold {', '.join(KEYS)}")
        x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    return Images(flatten(x_train), y_train.astype(np.int64), flatten(x_test), y_test.astype(np.int64))
