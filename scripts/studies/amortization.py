"""The price of amortization: the same model, fitted with three inferences."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from amortization_figure import draw_amortization

from pyro_vae import Config, build, fit
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_figure, write_table
from pyro_vae.data import Dataset, load
from pyro_vae.evaluation import default_method, log_marginal_likelihood

Row = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        dataset: The data set, as in fit.
        epochs: Passes over the training images.
        e_steps: E-steps of local and semi-amortized inference.
        limit: Use the first LIMIT training images only.
        test_images: Test images that are evaluated.
        seed: Seed of every run.
        engine: Pyro's own step, or the same step compiled, as in fit.
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        output: Folder for amortization.csv and amortization.png.
    """

    dataset: str = "mnist"
    epochs: int = 6
    e_steps: tuple[int, ...] = (1, 5, 25)
    limit: int | None = None
    test_images: int = 1000
    seed: int = 0
    engine: Literal["auto", "compiled", "eager"] = "compiled"
    data_dir: Path | None = None
    output: Path = Path("results/amortization")


def main(command: CommandLine[Flags]) -> None:
    """Fits with each way of inference; writes a table and its figure."""
    flags = command.parse()
    check_at_least_1(flags, "epochs", "limit", "test_images")
    configs = dict(make_configs(flags))
    data = load_data(flags)
    flags.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name, config in configs.items():
        for row in study(name, config, data):
            rows.append(row)
            print(
                f"{name}: epoch {row['epoch']}, {row['train_seconds']:.1f} s, "
                f"test ELBO {row['test_elbo']:.2f}, log p(x) "
                f"{row['log_marginal_likelihood']:.2f}"
            )
        table = pd.DataFrame(rows)
        write_table(table, flags.output / "amortization.csv")
    write_figure(draw_amortization(table), flags.output / "amortization.png")


def make_configs(flags: Flags) -> Iterator[tuple[str, Config]]:
    """Yields the name and the configuration of each way of inference."""
    shared = Config(
        dataset=flags.dataset,
        epochs=flags.epochs,
        seed=flags.seed,
        engine=flags.engine,
    )
    yield "amortized", shared
    for inference in ("semi-amortized", "local"):
        for steps in flags.e_steps:
            config = replace(shared, inference=inference, e_steps=steps)
            yield f"{inference}, {steps}", config


def load_data(flags: Flags) -> Dataset:
    """Loads the images, as many of each set as the flags say."""
    data = load(flags.dataset, flags.data_dir)
    return replace(
        data,
        train=data.train[: flags.limit],
        test=data.test[: flags.test_images],
        train_labels=None,
        test_labels=None,
    )


def study(name: str, config: Config, data: Dataset) -> Iterator[Row]:
    """Fits, and yields a row for each epoch.

    log p(x), in nats per image, is in the last row alone.
    """
    torch.manual_seed(config.seed)
    vae = build(config, data.data_dim, data.image_shape)
    seconds = 0.0
    for record in fit(vae, data, config):
        epoch = record["epoch"]
        if epoch == 0:
            continue
        seconds += len(data.train) / record["images_per_second"]
        exact = float("nan")
        if epoch == config.epochs:
            method = default_method(vae)
            result = log_marginal_likelihood(vae, data.test, method=method)
            exact = result.value.mean().item()
        yield {
            "inference": name,
            "epoch": epoch,
            "train_seconds": seconds,
            "train_elbo": record["train_elbo"],
            "test_elbo": record["test_elbo"],
            "log_marginal_likelihood": exact,
            "gap": exact - record["test_elbo"],
        }


if __name__ == "__main__":
    run(main, Flags, __doc__)
