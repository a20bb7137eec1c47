"""Priors and guides side by side: the same fits, over several seeds."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from combinations import one_thread
from tqdm import tqdm

from pyro_vae import Config, build, fit
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_table
from pyro_vae.config.variants import PRIORS
from pyro_vae.data import Dataset, load
from pyro_vae.evaluation import integrate

TOLERANCE = 1e-2  # of log p(x), in nats: far below what seeds differ by
CHOICES = ("dataset", "prior", "guide", "seed", "epochs")
SIZES = ("train_images", "test_images")
VALUES = ["test_elbo", "log_marginal_likelihood"]
TABLE = "family.csv"

Row = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        dataset: The data set, as in fit.
        epochs: Passes over the training images in each fit.
        limit: Use the first LIMIT training and test images only.
        priors: The priors to fit, each with the normal guide.
        guides: The guides to fit, each with the normal prior.
        seeds: The seeds; each pair is fitted once with each of them.
        processes: Fits at a time, each on one thread.
        engine: Pyro's own step, or the same step compiled, as in fit.
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        output: Folder for family.csv, a row for each fit, and summary.csv, a
            row for each pair. Fits that have a row there are not done again.
    """

    dataset: str = "mnist"
    epochs: int = 10
    limit: int | None = None
    priors: tuple[str, ...] = (
        "normal",
        "laplace",
        "student-t",
        "summed-mixture",
        "vamp",
        "flow",
    )
    guides: tuple[str, ...] = ("full", "flow")
    seeds: tuple[int, ...] = (0, 1, 2)
    processes: int = 2
    engine: Literal["auto", "compiled", "eager"] = "auto"
    data_dir: Path | None = None
    output: Path = Path("results/family")


def main(command: CommandLine[Flags]) -> None:
    """Does the fits that are left to do; writes their table and its summary."""
    flags = command.parse()
    check_at_least_1(flags, "processes")
    if len(set(flags.seeds)) < max(2, len(flags.seeds)):
        raise ValueError(
            f"--seeds is {' '.join(map(str, flags.seeds))}; expected at least "
            "two different ones, for a standard error"
        )
    configs = list(make_configs(flags))
    # One download, before the processes.
    sizes = count_images(load(flags.dataset, flags.data_dir).first(flags.limit))
    flags.output.mkdir(parents=True, exist_ok=True)
    path = flags.output / TABLE
    done = read_done(path)
    wanted = {make_key(config, sizes): config for config in configs}
    left = [config for key, config in wanted.items() if key not in done]
    for row in fit_all(left, flags):
        done[read_key(row)] = row
        write(done.values(), path)
    table = write([done[key] for key in wanted], path)
    summary = summarize(table)
    write_table(summary, flags.output / "summary.csv")
    print(summary.round(2).to_string(index=False))


def make_configs(flags: Flags) -> Iterator[Config]:
    """Yields a configuration for each pair and seed.

    Raises:
        ValueError: If a pair does not go together.
    """
    pairs = [(prior, "normal") for prior in flags.priors]
    pairs += [("normal", guide) for guide in flags.guides]
    for prior, guide in pairs:
        if prior not in PRIORS or guide not in PRIORS[prior].goes_with["guide"]:
            raise ValueError(
                f"the prior {prior} with the guide {guide} is not in the "
                "table; expected continuous priors in --priors and guides of "
                "a continuous latent in --guides (see fit.py --help)"
            )
    for prior, guide in dict.fromkeys(pairs):
        for seed in flags.seeds:
            yield Config(
                dataset=flags.dataset,
                prior=prior,
                guide=guide,
                seed=seed,
                epochs=flags.epochs,
                limit=flags.limit,
                device="cpu",
                engine=flags.engine,
            )


def fit_all(configs: list[Config], flags: Flags) -> Iterator[Row]:
    """Fits in several processes, and yields the rows as they come.

    Raises:
        Exception: The first error of a fit, when all others are done.
    """
    failures = []
    with ProcessPoolExecutor(
        flags.processes, get_context("spawn"), initializer=one_thread
    ) as pool:
        rows = [pool.submit(fit_one, c, flags.data_dir) for c in configs]
        for found in tqdm(as_completed(rows), total=len(rows), disable=None):
            if error := found.exception():
                failures.append(error)
            else:
                yield found.result()
    if failures:
        raise failures[0]


def fit_one(config: Config, data_dir: Path | None) -> Row:
    """Fits once, and returns the test ELBO and log p(x), in nats per image."""
    data = load(config.dataset, data_dir).first(config.limit)
    torch.manual_seed(config.seed)
    vae = build(config, data.data_dim, data.image_shape)
    *_, last = fit(vae, data, config)
    result = integrate(vae, data.test, TOLERANCE)
    key = make_key(config, count_images(data))
    return {
        **dict(zip((*CHOICES, *SIZES), key, strict=True)),
        "test_elbo": last["test_elbo"],
        "log_marginal_likelihood": result.value.mean().item(),
        "largest_error": result.error.max().item(),
    }


def count_images(data: Dataset) -> tuple[int, int]:
    """Returns the numbers of training and of test images."""
    return len(data.train), len(data.test)


def make_key(config: Config, sizes: tuple[int, int]) -> tuple[Any, ...]:
    """Returns what tells the row of a fit from all others."""
    return (*(getattr(config, name) for name in CHOICES), *sizes)


def read_key(row: Row) -> tuple[Any, ...]:
    """Returns the key of a row that is there already."""
    return tuple(row[name] for name in (*CHOICES, *SIZES))


def read_done(path: Path) -> dict[tuple[Any, ...], Row]:
    """Reads the rows of a study that was stopped, by their keys.

    Raises:
        ValueError: If the file is another table.
    """
    if not path.exists():
        return {}
    rows: list[Row] = pd.read_csv(path).to_dict("records")
    try:
        return {read_key(row): row for row in rows}
    except KeyError as error:
        raise ValueError(
            f"{path} has no column {error}; expected a table that family.py "
            "wrote: name another --output"
        ) from None


def write(rows: Iterable[Row], path: Path) -> pd.DataFrame:
    """Writes rows as CSV, atomically, and returns their table."""
    table = pd.DataFrame(list(rows))
    write_table(table, path)
    return table


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Returns mean and standard error over the seeds of each pair."""
    groups = table.groupby(["prior", "guide"], sort=False)[VALUES]
    summary = groups.agg(["mean", "sem"])
    summary.columns = [
        name if kind == "mean" else f"{name}_standard_error"
        for name, kind in summary.columns
    ]
    summary.insert(0, "seeds", groups.size())
    return summary.reset_index()


if __name__ == "__main__":
    run(main, Flags, __doc__)
