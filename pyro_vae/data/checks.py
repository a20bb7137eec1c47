"""What a data set's images must be, in sentences."""

from torch import Tensor

from pyro_vae.data.errors import DataError
from pyro_vae.data.rows import Rows


def check_size(
    kind: str, images: Tensor | Rows, size: int, shape: tuple[int, ...]
) -> None:
    """Raises a DataError unless images have the size of their shape."""
    if images.shape[1] != size:
        raise DataError(
            f"{kind} has {images.shape[1]} values an image; expected {size}, "
            f"the product of image_shape {tuple(shape)}"
        )


def check_finite(kind: str, images: Tensor, missing: bool) -> None:
    """Raises a DataError unless images are finite floats, or may be NaN."""
    if not images.is_floating_point():
        raise DataError(
            f"{kind} is of type {images.dtype}; expected floats: bytes become "
            "floats in [0, 1] by dividing them by 255"
        )
    # What is not finite shows in the sum, which takes a twentieth of the time.
    # It may overflow where nothing else does.
    if images.detach().sum().isfinite() or images.isfinite().all():
        return
    is_good = images.isfinite()
    if missing:
        is_good |= images.isnan()
    count = len(images) - int(is_good.all(1).sum())
    if count:
        raise DataError(
            f"{kind} has NaN or infinities in {count} of {len(images)} images; "
            "expected finite values: leave those images out, or give "
            "missing=True, with which NaN means not observed"
        )


def in_words(value: object) -> str:
    """Returns a tensor's shape, or what else there is in its place."""
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    return name if shape is None else f"{name} of shape {tuple(shape)}"
