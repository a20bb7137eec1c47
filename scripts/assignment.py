"""Runs the notebook of the assignment, and converts it to PDF."""

import copy
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import _start  # first
from tqdm import tqdm

from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.files import write_atomically

_start.give_back()
SOURCE = Path(__file__).parents[1] / "notebooks" / "assignment.py"
PROGRAMS = {
    "pandoc": "pandoc",
    "xelatex": "texlive-xetex texlive-fonts-recommended "
    "texlive-plain-generic lmodern",
}
SUFFIXES = {"pdf": ".pdf", "webpdf": ".pdf", "html": ".html"}
# LaTeX for what the stock template does not have: headings without numbers,
# and type that is small enough for 80 columns of code.
TEMPLATE = r"""
((*- extends 'index.tex.j2' -*))
((*- block commands -*))
((( super() )))
\setcounter{secnumdepth}{0}
\geometry{tmargin=2.2cm,bmargin=2.2cm,lmargin=2.4cm,rmargin=2.4cm}
\fvset{fontsize=\small}
\tcbset{lines before break=8}
\setlength{\droptitle}{-4em}
\preauthor{}\postauthor{}\predate{}\date{}\postdate{}
((*- endblock commands -*))
"""


@dataclass(frozen=True)
class Flags:
    """The flags of the command.

    Attributes:
        dataset: The data set: mnist, or digits, which needs no download.
        epochs: Passes over the training images; by default as in the notebook.
        limit: Use the first LIMIT training and test images only.
        to: What the notebook is converted to: pdf by pandoc and XeLaTeX, webpdf
            by a browser, html by neither; or none.
        output: Folder for assignment.ipynb and what it is converted to.
    """

    dataset: Literal["mnist", "digits"] = "mnist"
    epochs: int | None = None
    limit: int | None = None
    to: Literal["pdf", "webpdf", "html", "none"] = "pdf"
    output: Path = Path("notebooks")


def main(command: CommandLine[Flags]) -> None:
    """Writes the executed notebook, and converts it."""
    flags = command.parse()
    check_at_least_1(flags, "epochs", "limit")
    read, execute, convert = import_libraries()
    check_programs(flags.to)
    notebook = read(SOURCE)
    set_parameters(notebook, flags)
    flags.output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    execute(notebook)
    print(f"executed in {time.monotonic() - start:.0f} s")
    write(flags.output / "assignment.ipynb", to_json(notebook))
    if flags.to != "none":
        body = convert(notebook, flags.to)
        write(flags.output / f"assignment{SUFFIXES[flags.to]}", body)


def import_libraries() -> tuple[Callable, Callable, Callable]:
    """Returns what reads, executes and converts a notebook.

    Raises:
        ValueError: If a library of the extra `notebook` is missing.
    """
    try:
        import ipykernel  # noqa: F401
        import jupytext
        import nbclient  # noqa: F401
        import nbconvert  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed; expected the libraries of the "
            "extra 'notebook': run python -m pip install -e '.[notebook]'"
        ) from None
    return jupytext.read, execute, convert


def check_programs(to: str) -> None:
    """Refuses a conversion whose programs are missing, before the long run.

    Raises:
        ValueError: If there is no pandoc or no XeLaTeX for a PDF, or no
            Playwright for one by a browser.
    """
    if to == "webpdf" and find_spec("playwright") is None:
        raise ValueError(
            "playwright is not installed, which to=webpdf needs: run python -m "
            "pip install 'nbconvert[webpdf]' and playwright install chromium, "
            "or use to=html"
        )
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if to == "pdf" and missing:
        packages = " ".join(PROGRAMS.values())
        raise ValueError(
            f"{' and '.join(missing)} not found, which to=pdf needs: install "
            f"Debian's packages {packages}, or use to=html or to=webpdf"
        )


def set_parameters(notebook: Any, flags: Flags) -> None:
    """Writes the flags into the notebook's cell of parameters."""
    (cell,) = (
        cell
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    values = {
        "DATASET": flags.dataset,
        "EPOCHS": flags.epochs,
        "LIMIT": flags.limit,
    }
    for name, value in values.items():
        if value is None:
            continue
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        cell.source, count = re.subn(
            rf"^{name} = [^\s]+", f"{name} = {shown}", cell.source, flags=re.M
        )
        if count != 1:
            raise ValueError(f"{SOURCE.name} does not set {name} once")


def execute(notebook: Any) -> None:
    """Executes a notebook in place, and shows how far it is.

    Raises:
        ValueError: If a cell fails.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tqdm(total=len(code), unit="cell") as bar:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=None,
            resources={"metadata": {"path": str(SOURCE.parent)}},
            record_timing=False,
            extra_arguments=["--log-level=40"],  # errors
            on_cell_executed=lambda **_: bar.update(),
        )
        # In another thread, where it takes no signals: they end this command.
        pool = ThreadPoolExecutor(1)
        try:
            pool.submit(client.execute).result()
        except CellExecutionError as error:
            raise ValueError(
                f"a cell failed with {error.ename}: {error.evalue}"
            ) from None
        except DeadKernelError:
            raise ValueError(
                "the notebook's Python process ended; expected it to run to "
                "the last cell: it was stopped, or there was too little memory"
            ) from None
    strip(notebook)


def strip(notebook: Any) -> None:
    """Leaves out what differs from run to run and says nothing to a reader.

    The libraries' warnings, which name this machine's paths, are printed here
    instead.
    """
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type != "code":
            continue
        shown: list[Any] = []
        for output in cell.outputs:
            output.pop("transient", None)
            if output.get("name") == "stderr":
                print(output.text.rstrip(), file=sys.stderr)
            elif shown and is_text(output) and is_text(shown[-1]):
                shown[-1].text += output.text  # came apart on its way here
            else:
                shown.append(output)
        cell.outputs = shown
    language = notebook.metadata.get("language_info", {})
    for key in set(language) - {"name", "file_extension", "mimetype"}:
        del language[key]
    notebook.metadata.pop("jupytext", None)


def is_text(output: Any) -> bool:
    """Returns whether an output of a cell is printed text."""
    return output.output_type == "stream"


def to_json(notebook: Any) -> bytes:
    """Returns the notebook as the text of its file."""
    import nbformat

    nbformat.validate(notebook)
    return (nbformat.writes(notebook) + "\n").encode()


def convert(notebook: Any, to: str) -> bytes:
    """Returns the notebook as PDF or HTML.

    Raises:
        ValueError: If the programs that convert it fail.
    """
    import nbconvert

    notebook = copy.deepcopy(notebook)
    exporter: Any
    if to == "pdf":
        exporter = nbconvert.PDFExporter(raw_template=TEMPLATE)
        move_title(notebook)
    elif to == "webpdf":
        exporter = nbconvert.WebPDFExporter()
    else:
        exporter = nbconvert.HTMLExporter()
    try:
        body, _ = exporter.from_notebook_node(notebook)
    except RuntimeError as error:
        raise ValueError(
            f"the conversion to={to} failed: {str(error)[-500:]}"
        ) from None
    return body if isinstance(body, bytes) else body.encode()


def move_title(notebook: Any) -> None:
    """Moves the first heading to where LaTeX looks for the title."""
    heading, _, rest = notebook.cells[0].source.partition("\n")
    notebook.metadata["title"] = heading.removeprefix("# ")
    notebook.metadata["authors"] = []
    notebook.cells[0].source = rest.lstrip()


def write(path: Path, content: bytes) -> None:
    """Writes a file whole, or not at all."""
    write_atomically(path, content)
    print(f"wrote {path}, {len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main, Flags, __doc__)
