"""Priors and guides side by side: the same fits, over several seeds."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from combinations import one_thread
from command_line import check_at_least_1, parse, run
from tqdm import tqdm

from pyro_vae import Config, build, fit
from pyro_vae.config import FITTING_GUIDES
from pyro_vae.data import Dataset, load
from pyro_vae.evaluation import integrate
from pyro_vae.runs.files import write_atomically

TOLERANCE = 1e-2  # of log p(x), in nats: far below what seeds differ by
CHOICES = ("dataset", "prior", "guide", "seed", "epochs")
SIZES = ("train_images", "test_images")
VALUES = ["test_elbo", "log_marginal_likelihood"]


@dataclass(frozen=True)
class Flags:
    dataset: str = "mnist"
    """Data set, as in fit.py."""
    epochs: int = 10
    """Passes over the training images in each fit."""
    limit: int | None = None
    """Use the first LIMIT training and test images only."""
    priors: tuple[str, ...] = (
        "normal",
        "laplace",
        "student-t",
        "summed-mixture",
        "vamp",
        "flow",
    )
    """The priors to fit, each with the normal guide."""
    guides: tuple[str, ...] = ("full", "flow")
    """The guides to fit, each with the normal prior."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of each pair, a fit per seed."""
    processes: int = 2
    """Fits at a time, each on one thread."""
    engine: Literal["auto", "compiled", "eager"] = "auto"
    """As in fit.py."""
    data_dir: Path | None = None
    """Folder of the data sets; by default $PYRO_VAE_DATA, else a cache folder
    in your home."""
    output: Path = Path("results/family")
    """Folder for family.csv, a row a fit, and summary.csv, a row a pair. Fits
    that have a row there are not done again."""


def main() -> None:
    flags = parse(Flags)
    check_at_least_1(flags, "processes")
    if len(set(flags.seeds)) < max(2, len(flags.seeds)):
        raise ValueError(
            f"--seeds is {' '.join(map(str, flags.seeds))}; expected at least "
            "two different ones, for a standard error"
        )
    pairs = [(prior, "normal") for prior in flags.priors]
    pairs += [("normal", guide) for guide in flags.guides]
    for prior, guide in pairs:
        if guide not in FITTING_GUIDES.get(prior, ()):
            raise ValueError(
                f"the prior {prior} with the guide {guide} is not in the "
                "table; expected continuous priors in --priors and guides of "
                "a continuous latent in --guides (see fit.py --help)"
            )
    # One download, before the processes.
    sizes = count_images(load(flags.dataset, flags.data_dir).first(flags.limit))
    configs = [
        Config(
            dataset=flags.dataset,
            prior=prior,
            guide=guide,
            seed=seed,
            epochs=flags.epochs,
            limit=flags.limit,
            device="cpu",
            engine=flags.engine,
        )
        for prior, guide in dict.fromkeys(pairs)
        for seed in flags.seeds
    ]
    flags.output.mkdir(parents=True, exist_ok=True)
    path = flags.output / "family.csv"
    done = read_done(path)
    wanted = [key(config, sizes) for config in configs]
    work = [
        (config, flags.data_dir)
        for config, its_key in zip(configs, wanted, strict=True)
        if its_key not in done
    ]
    failures = []
    with ProcessPoolExecutor(
        flags.processes, get_context("spawn"), initializer=one_thread
    ) as pool:
        rows = [pool.submit(final_values, *one) for one in work]
        for found in tqdm(as_completed(rows), total=len(rows), disable=None):
            if error := found.exception():
                failures.append(error)
                continue
            row = found.result()
            done[row_key(row)] = row
            write(done.values(), path)
    if failures:  # when all others are done, and written
        raise failures[0]
    table = write([done[its_key] for its_key in wanted], path)
    summary = summarise(table)
    summary.to_csv(flags.output / "summary.csv", index=False)
    print(summary.round(2).to_string(index=False))


def count_images(data: Dataset) -> tuple[int, int]:
    return len(data.train), len(data.test)


def key(config: Config, sizes: tuple[int, int]) -> tuple:
    """What tells a fit's row from all others."""
    return (*(getattr(config, name) for name in CHOICES), *sizes)


def row_key(row: dict[str, Any]) -> tuple:
    return tuple(row[name] for name in (*CHOICES, *SIZES))


def read_done(path: Path) -> dict[tuple, dict[str, Any]]:
    """The rows of a study that was stopped, which goes on after them."""
    if not path.exists():
        return {}
    rows = pd.read_csv(path).to_dict("records")
    try:
        return {row_key(row): row for row in rows}
    except KeyError as error:
        raise ValueError(
            f"{path} has no column {error}; expected a table that family.py "
            "wrote: name another --output"
        ) from None


def write(rows: Iterable[dict[str, Any]], path: Path) -> pd.DataFrame:
    table = pd.DataFrame(list(rows))
    write_atomically(path, table.to_csv(index=False).encode())
    return table


def final_values(config: Config, data_dir: Path | None) -> dict[str, Any]:
    """A fit's test ELBO and log p(x), in nats per image."""
    data = load(config.dataset, data_dir).first(config.limit)
    torch.manual_seed(config.seed)
    vae = build(config, data.data_dim, data.image_shape)
    *_, last = fit(vae, data, config)
    result = integrate(vae, data.test, TOLERANCE)
    names = (*CHOICES, *SIZES)
    return {
        **dict(zip(names, key(config, count_images(data)), strict=True)),
        "test_elbo": last["test_elbo"],
        "log_marginal_likelihood": result.log_marginal_likelihood.mean().item(),
        "largest_error": result.error.max().item(),
    }


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard error over the seeds of each pair."""
    groups = table.groupby(["prior", "guide"], sort=False)[VALUES]
    summary = groups.agg(["mean", "sem"])
    summary.columns = [
        name if kind == "mean" else f"{name}_standard_error"
        for name, kind in summary.columns
    ]
    summary.insert(0, "seeds", groups.size())
    return summary.reset_index()


if __name__ == "__main__":
    run(main)
