"""Folders of image files: all in one, or one folder for each class."""

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.errors import DataError
from pyro_vae.data.idx import find_idx, read_idx
from pyro_vae.data.reading import Options
from pyro_vae.data.sources import Source

MOST_LISTED = 3


def read_folder(path: Path, options: Options) -> tuple[dict[str, Any], str]:
    """Reads a folder of images, or of the four files of an IDX data set.

    Args:
        path: The folder. Folders in it are classes, whose images are labeled
            with their names, as torchvision's ImageFolder has it. Images that
            lie in it itself have no labels.
        options: `image_size` and `grey` say what images are made of the files.

    Returns:
        The images and their labels by part, and what the user should know.

    Raises:
        DataError: If there are no images, or they differ in size and no size
            was given.
    """
    if (first := find_idx(path)) is not None:
        return read_idx(first), ""
    files, labels = _list_files(path)
    size, mode = _find_size(path, files, options)
    source = _ImageFiles(files, size, mode)
    said = f"{len(files)} files of {path.name}"
    if options.image_size is not None:
        said += f", cropped and resized to {size[0]} x {size[1]}"
    parts: dict[str, Any] = {"train": source.open()}
    if labels:
        parts["train_labels"] = np.array(labels)
        said += f", labeled by {len(set(labels))} folders"
    return parts, said


def _list_files(path: Path) -> tuple[list[Path], list[str]]:
    """Returns the image files of a folder, and their labels if it has any."""
    from torchvision.datasets.folder import is_image_file

    def images_in(folder: Path) -> list[Path]:
        return sorted(p for p in folder.rglob("*") if is_image_file(p.name))

    classes = sorted(p for p in path.iterdir() if p.is_dir())
    labeled = [(p, each.name) for each in classes for p in images_in(each)]
    flat = sorted(
        p for p in path.iterdir() if p.is_file() and is_image_file(p.name)
    )
    if labeled and flat:
        raise DataError(
            f"{path} holds {len(flat)} images beside folders with "
            f"{len(labeled)}; expected either images, or a folder for each "
            "class"
        )
    if not labeled and not flat:
        raise DataError(
            f"{path} holds no images; expected files such as .png and .jpg, in "
            "it or in a folder for each class"
        )
    if labeled:
        return [p for p, _ in labeled], [name for _, name in labeled]
    return flat, []


def _find_size(
    path: Path, files: list[Path], options: Options
) -> tuple[tuple[int, int], str]:
    """Returns the (height, width) and the mode, L or RGB, of the images."""
    from PIL import Image

    sizes: dict[tuple[int, int], Path] = {}
    modes: set[str] = set()
    for file in files:
        try:
            with Image.open(file) as image:
                sizes.setdefault((image.height, image.width), file)
                modes.add(image.mode)
        except OSError as error:
            raise DataError(f"{file} is no image: {error}") from None
    has_color = not modes <= {"1", "L", "LA", "I;16", "I", "F"}
    mode = "RGB" if has_color and not options.grey else "L"
    if deep := modes & {"I;16", "I", "F"}:
        raise DataError(
            f"{path} holds images of mode {', '.join(sorted(deep))}, of more "
            "than 8 bits; expected 8 bits: convert them, or store an .npy file"
        )
    if options.image_size is not None:
        sides = options.image_size
        return (sides[0], sides[-1]), mode
    if len(sizes) > 1:
        listed = ", ".join(
            f"{height} x {width} ({file.name})"
            for (height, width), file in list(sizes.items())[:MOST_LISTED]
        )
        raise DataError(
            f"the images in {path} have {len(sizes)} sizes, such as {listed}; "
            "expected one: give image_size, to which they are resized"
        )
    return next(iter(sizes)), mode


class _ImageFiles:
    """Image files as rows of bytes, decoded as they are asked for."""

    def __init__(self, files: list[Path], size: tuple[int, int], mode: str):
        self.files, self.size, self.mode = files, size, mode

    def open(self) -> Source:
        """Returns them as a source."""
        channels = (3,) if self.mode == "RGB" else ()
        shape = (len(self.files), *self.size, *channels)
        return Source(shape, np.dtype(np.uint8), self._read, False)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self._decode(self.files[row]) for row in rows])

    def _decode(self, file: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        height, width = self.size
        try:
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened).convert(self.mode)
        except OSError as error:
            raise DataError(f"{file} is damaged: {error}") from None
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height))
        return np.asarray(image)
