"""Writes a page to explore the latent space of one or more runs in."""

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.config import Config
from pyro_vae.explorer import Exhibit, render
from pyro_vae.files import write_atomically
from pyro_vae.runs.folder import EXPLORER
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.run import Run, load_run


@dataclass(frozen=True)
class Flags:
    """The flags of the command.

    Attributes:
        folders: Folders of runs, as fit wrote them; the page switches between
            them.
        prepared: Test images whose exact posterior, log p(x) and gaps are
            computed for the page.
        megabytes: Size of the page, in millions of bytes: as many test images
            go in as there is room for.
        open: Open the page in the browser.
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        output: File of the page; by default explorer.html in the first run's
            folder.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    prepared: int = 36
    megabytes: float = 6.0
    open: bool = False
    data_dir: Path | None = None
    output: Path | None = None


def main(command: CommandLine[Flags]) -> None:
    """Writes the page, and says where it is."""
    flags = command.parse()
    check_flags(flags)
    runs = [load_run(folder, flags.data_dir) for folder in flags.folders]
    exhibits = make_exhibits(flags.folders, runs)
    total = flags.prepared * sum(
        not run.vae.prior().has_enumerate_support for run in runs
    )
    bar = tqdm(total=total, desc="exact answers", unit=" images", disable=None)
    page = render(exhibits, flags.prepared, flags.megabytes, bar.update)
    bar.close()
    path = flags.output or flags.folders[0] / EXPLORER
    content = page.encode()
    write_atomically(path, content)
    print(f"wrote {path}, {len(content) / 1e6:.1f} MB: open it in a browser")
    if flags.open:
        webbrowser.open(path.resolve().as_uri())


def check_flags(flags: Flags) -> None:
    """Refuses numbers that make no page, before anything is computed.

    Raises:
        ValueError: If there is no run, or a number is too small, or the page's
            folder does not exist.
    """
    if not flags.folders:
        raise ValueError(
            "no run was given; expected the folders of one or more: "
            "explore RUN [RUN2 ...]"
        )
    check_at_least_1(flags, "prepared", most=1000)
    if not 0 < flags.megabytes <= 100:
        raise ValueError(
            f"--megabytes is {flags.megabytes}; expected more than 0, and at "
            "most 100, which a browser still opens"
        )
    if flags.output is not None and not flags.output.parent.is_dir():
        raise ValueError(
            f"--output is {flags.output}; expected a file in a folder that "
            "exists"
        )


def make_exhibits(
    folders: Sequence[Path], runs: Sequence[Run]
) -> list[Exhibit]:
    """Returns the runs under names that tell them apart."""
    priors = [f"{run.config.prior} prior" for run in runs]
    names = [folder.resolve().name for folder in folders]
    chosen = priors if len(set(priors)) == len(runs) else names
    return [
        Exhibit(name, run.vae, run.data, describe(folder, run.config))
        for name, run, folder in zip(chosen, runs, folders, strict=True)
    ]


def describe(folder: Path, config: Config) -> str:
    """Returns a line on a run: its parts, and how good it is."""
    words = f"{config.dataset}, {config.prior} prior, {config.likelihood}"
    words += f" likelihood, {config.network} networks"
    if not (folder / HISTORY).exists():
        return words
    last = read_history(folder / HISTORY)[-1]
    elbo, epochs = last["test_elbo"], last["epoch"]
    return f"{words}; test ELBO {elbo:.1f} nats after {epochs:.0f} epochs"
