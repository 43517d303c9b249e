"""What torchvision's transforms do to an image, for handlers where torchvision is not installed.

The same names, sizes and arithmetic as `torchvision.transforms` for Pillow images, so that a model
sees the same pixels with and without it: `Resize` is Pillow's antialiased bilinear filter on the
shorter side, `CenterCrop` rounds as torchvision does and fills with zeros, `ToTensor` gives
float32 [channels, height, width] from 0 to 1.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from flambeau.handlers.optional_packages import require

__all__ = ["CenterCrop", "Compose", "Normalize", "Resize", "ToTensor", "library", "to_rgb"]


def library() -> Any:
    """`torchvision.transforms` if it is installed, else this module."""
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("torchvision.transforms")
    return importlib.import_module(__name__)


def to_rgb(image: Any) -> Any:
    """A Pillow image with three channels: grey, palette and transparent ones are converted."""
    return image if image.mode == "RGB" else image.convert("RGB")


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        """The image after all of them."""
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """Makes the shorter side `size` pixels, or both sides where `size` is (height, width)."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = size

    def __call__(self, image: Any) -> Any:
        """The image in its new size; unchanged if it has it."""
        width, height = image.size
        if not isinstance(self.size, int):
            height, width = self.size
        elif width <= height:
            width, height = self.size, int(self.size * height / width)
        else:
            width, height = int(self.size * width / height), self.size
        if image.size == (width, height):
            return image
        pillow = require("PIL.Image", "Resizing images", "pip install pillow")
        return image.resize((width, height), pillow.Resampling.BILINEAR)


class CenterCrop:
    """Cuts the middle out: `size` pixels square, or (height, width)."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def __call__(self, image: Any) -> Any:
        """The middle; a smaller image gets a black border first."""
        height, width = self.size
        missing = (max(width - image.size[0], 0), max(height - image.size[1], 0))
        if any(missing):
            left, top = missing[0] // 2, missing[1] // 2
            full = (image.size[0] + missing[0], image.size[1] + missing[1])
            image = image.crop((-left, -top, full[0] - left, full[1] - top))
        left = round((image.size[0] - width) / 2)
        top = round((image.size[1] - height) / 2)
        return image.crop((left, top, left + width, top + height))


class ToTensor:
    """A Pillow image as float32 [channels, height, width] from 0 to 1.

    Modes of 32-bit numbers (I, F) and 16-bit ones keep their values, as in torchvision.
    """

    def __call__(self, image: Any) -> torch.Tensor:
        """The tensor."""
        kinds = {"I": np.int32, "F": np.float32, "I;16": np.int16}
        pixels = np.array(image, kinds.get(image.mode, np.uint8), copy=True)
        if image.mode == "1":
            pixels = 255 * pixels
        tensor = torch.from_numpy(pixels)
        tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()
        return tensor.to(torch.float32).div(255) if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Subtracts each channel's `mean` and divides by its `std`."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor [..., channels, height, width], normalised."""
        if not self.inplace:
            tensor = tensor.clone()
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=tensor.dtype).view(-1, 1, 1)
        return tensor.sub_(mean).div_(std)
