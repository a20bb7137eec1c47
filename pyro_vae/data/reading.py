"""How stored numbers are read as x: their layout, their scale, their range.

Nothing is guessed in silence: a `Reading` says what was made of the numbers,
and what could be read in two ways is refused, with the option that decides it.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.errors import DataError
from pyro_vae.data.ranges import Range, find_range, to_native
from pyro_vae.data.sources import Source

Values = Literal["unit", "counts", "real"]
Layout = Literal["auto", "channels-first", "channels-last"]
LIMITS = {
    "unit": (0.0, 1.0),
    "counts": (0.0, math.inf),
    "real": (-math.inf, math.inf),
}
CHANNELS = (1, 3)
USUAL_SCALES = (255, 4095, 65535)  # of 8, 12 and 16 bits
ROUNDING = 1e-5  # beyond 0 and 1, as resizing leaves it


@dataclass(frozen=True)
class Options:
    """How to read data that can be read in several ways.

    Attributes:
        scale: What the stored numbers are divided by. By default 255 for
            bytes, and 1 for numbers in [0, 1]; other numbers need it.
        layout: Whether the channels of images come before their height and
            width, or after them; auto: as the sizes tell.
        values: What x may be: numbers in [0, 1], counts 0, 1, 2, ..., or any
            finite floats.
        missing: Whether NaN stands for what was not observed.
        image_size: The sides that images of a folder are brought to.
        grey: Whether images of a folder are made gray.
        label_column: The column of a table that holds the labels.
        test_fraction: The part of the images that is set apart as a test set,
            where there is none; by default a fifth.
    """

    scale: float | Literal["columns"] | None = None
    layout: Layout = "auto"
    values: Values = "unit"
    missing: bool = False
    image_size: tuple[int, ...] | None = None
    grey: bool = False
    label_column: str | None = None
    test_fraction: float | None = None


@dataclass(frozen=True)
class Reading:
    """How rows of a source become images x.

    Attributes:
        where: What sentences call the source.
        image_shape: `(height, width)` or `(channels, height, width)`.
        channels_last: Whether the stored images are (height, width, channels).
        divisor: What the numbers are divided by.
        low: The smallest value that x may have.
        high: The largest.
        missing: Whether NaN stands for what was not observed.
        said: The sentence that tells all this to the user.
    """

    where: str
    image_shape: tuple[int, ...]
    channels_last: bool = False
    divisor: float = 1.0
    low: float = 0.0
    high: float = 1.0
    missing: bool = False
    said: str = ""

    def convert(self, stored: np.ndarray) -> Tensor:
        """Returns stored rows `(B, ...)` as images `(B, D)`.

        Raises:
            DataError: If a value is out of range, or NaN where none may be.
        """
        x = torch.as_tensor(to_native(stored))
        if self.channels_last:
            x = x.movedim(-1, 1)
        x = x.flatten(1).to(torch.get_default_dtype())
        if self.divisor != 1:
            x = x / self.divisor
        hidden = x.isnan()
        if hidden.any() and not self.missing:
            raise DataError(
                f"{self.where} hold NaN in rows that were not looked at first; "
                "expected none: leave those rows out, or give missing=True"
            )
        known = torch.where(hidden, 0, x)  # which is in every range
        low, high = (v.item() for v in known.aminmax()) if len(x) else (0, 0)
        # Of NaN each comparison is false.
        is_inside = low >= self.low - ROUNDING and high <= self.high + ROUNDING
        if not is_inside or math.isinf(low) or math.isinf(high):
            raise DataError(
                f"{self.where} have values from {low:g} to {high:g} in rows "
                "that were not looked at first; expected finite ones from "
                f"{self.low:g} to {self.high:g}: leave those rows out, or give "
                "another scale"
            )
        if low < self.low or high > self.high:
            x = x.clamp(self.low, self.high)
        return x

    def as_rows(self) -> "Reading":
        """Returns it with images that are one row of values each."""
        size = math.prod(self.image_shape)
        said = self.said.partition(", ")[2]
        shape = (1, size)
        said = f"{describe_shape(shape)}, {said}"
        return replace(self, image_shape=shape, said=said)


def make_reading(where: str, source: Source, options: Options) -> Reading:
    """Decides how a source is read, from its shape, type and range.

    Args:
        where: What sentences call it.
        source: The source.
        options: What the user has decided.

    Raises:
        DataError: If it holds no images, or can be read in several ways.
    """
    if source.dtype.kind not in "biuf":
        raise DataError(
            f"{where} are of type {source.dtype}; expected floats, integers or "
            "booleans"
        )
    shape, channels_last = find_layout(where, source.shape, options.layout)
    found = find_range(source)
    if found.num_missing and not options.missing:
        raise DataError(
            f"{where} hold {found.num_missing} NaN; expected none: leave "
            "those rows out, or give missing=True, with which NaN means that a "
            "value was not observed"
        )
    divisor, said = find_scale(where, source.dtype, found, options)
    if found.num_missing:
        count = found.num_missing if found.is_whole else "some"
        said += f", {count} of them NaN, not observed"
    return Reading(
        where,
        shape,
        channels_last,
        divisor,
        *LIMITS[options.values],
        options.missing,
        f"{describe_shape(shape)}, {said}",
    )


def find_layout(
    where: str, shape: tuple[int, ...], layout: Layout
) -> tuple[tuple[int, ...], bool]:
    """Returns the shape of an image, and whether its channels come last.

    A vector becomes a square of the same size, or a row where the size is no
    square number. One channel becomes none.

    Raises:
        DataError: If rows are no images, or their channels may be either first
            or last.
    """
    if math.prod(shape[1:]) < 1 or not 2 <= len(shape) <= 4:
        raise DataError(
            f"{where} have shape {shape}; expected (N, height, width), "
            "or images with 1 or 3 channels, or (N, D)"
        )
    sides = shape[1:]
    if len(sides) == 1:
        return shape_of_row(sides[0]), False
    if len(sides) == 2:
        return sides, False
    can_be_first, can_be_last = sides[0] in CHANNELS, sides[2] in CHANNELS
    if layout == "channels-first":
        can_be_last = False
    if layout == "channels-last":
        can_be_first = False
    if can_be_first and can_be_last:
        raise DataError(
            f"{where} have shape {shape}, whose channels may be first or "
            "last; expected the option layout: channels-first or channels-last"
        )
    if not (can_be_first or can_be_last):
        fix = "flatten each image"
        if 4 in (sides[0], sides[2]):
            fix = "leave the alpha channel out"
        raise DataError(
            f"{where} have shape {shape}; expected (N, height, width), or "
            f"images with 1 or 3 channels, or (N, D): {fix}"
        )
    channels, height, width = sides if can_be_first else (sides[2], *sides[:2])
    if channels == 1:
        return (height, width), False
    return (channels, height, width), can_be_last


def find_scale(
    where: str, dtype: np.dtype, found: Range, options: Options
) -> tuple[float, str]:
    """Returns what the numbers are divided by, and the words that say so.

    Raises:
        DataError: If it cannot be told, or x is then out of range.
    """
    low, high, given = found.low, found.high, options.scale
    range_of = f"{where} are {dtype} and range from {low:g} to {high:g}"
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{range_of}; expected finite values")
    if given == "columns":
        raise DataError(
            f"scale is columns, but {where} are no table; expected a number"
        )
    if given is not None:
        divisor, said = float(given), f"{dtype} values divided by {given:g}"
    elif options.values == "counts":
        divisor, said = 1.0, f"{dtype} counts from {low:g} to {high:g}"
    elif dtype.kind == "f":
        divisor, said = 1.0, f"{dtype} values as they are"
    elif dtype.kind == "b" or (low >= 0 and high <= 1 and found.is_whole):
        divisor, said = 1.0, f"{dtype} values of 0 and 1 as they are"
    elif dtype == np.uint8 and high > 1:
        divisor, said = 255.0, "uint8 values divided by 255"
    else:
        usual = next((s for s in USUAL_SCALES if high <= s), high)
        raise DataError(
            f"{range_of}; expected floats in [0, 1], uint8 or booleans, or the "
            f"option scale: with {usual:g}, x ranges from {low / usual:g} to "
            f"{high / usual:g}; counts go with likelihood=poisson or "
            "likelihood=negative-binomial"
        )
    return divisor, said + _check_range(range_of, found, divisor, options)


def _check_range(
    range_of: str, found: Range, divisor: float, options: Options
) -> str:
    """Returns what is said of values that rounding took out of their range.

    Raises:
        DataError: If they are out of their range by more.
    """
    low, high = found.low / divisor, found.high / divisor
    least, most = LIMITS[options.values]
    if low < least - ROUNDING or high > most + ROUNDING:
        if options.values == "counts":
            raise DataError(f"{range_of}; expected counts of 0 or more")
        then = "" if divisor == 1 else f", and x from {low:g} to {high:g}"
        raise DataError(
            f"{range_of}{then}; expected floats in [0, 1]: rescale them, or "
            "give the option scale, which they are divided by"
        )
    if low < least or high > most:
        return f", cut to [0, 1] from [{low:.8g}, {high:.8g}]"
    return ""


def shape_of_row(size: int) -> tuple[int, int]:
    """Returns the shape to draw a row of values in: a square if it is one."""
    side = math.isqrt(size)
    return (side, side) if side * side == size else (1, size)


def describe_shape(image_shape: tuple[int, ...]) -> str:
    """Returns the shape of an image in words."""
    height, width = image_shape[-2:]
    if height == 1:
        return f"rows of {width} values"
    kind = "gray" if len(image_shape) == 2 else f"{image_shape[0]}-channel"
    return f"{kind} images of {height} x {width}"
