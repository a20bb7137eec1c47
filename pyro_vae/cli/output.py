"""Files that a command writes whole, none of them through a link."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from pyro_vae.files import write_atomically


def check_inner_folder(folder: Path) -> None:
    """Refuses to write into a folder that lies elsewhere, or is none.

    Args:
        folder: A folder within that of a run; it may not exist yet.

    Raises:
        ValueError: If it is a link or a file.
    """
    if folder.is_symlink():
        raise ValueError(
            f"{folder} is a link to {folder.readlink()}; expected a folder, "
            "for no link is followed within a run: remove it"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"{folder} is a file; expected a folder, or none: remove it"
        )


def write_figures(figures: dict[str, Figure], folder: Path) -> None:
    """Writes figures as PNG files into a folder within that of a run.

    Args:
        figures: The figures, by their names.
        folder: The folder; it is made if it does not exist.

    Raises:
        ValueError: If the folder is a link or a file.
    """
    check_inner_folder(folder)
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        write_figure(figure, folder / f"{name}.png")


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file of at most 256 colors, which is small."""
    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(content, format="png", optimize=True)
    write_atomically(path, content.getvalue())


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as a CSV file, without its index."""
    text = table.to_csv(index=False)
    write_atomically(path, text.encode("utf-8", "backslashreplace"))
