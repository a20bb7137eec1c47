"""The price of amortisation: the same model, fitted with three inferences."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from command_line import parse, run

from pyro_vae import Config, build, figures, fit
from pyro_vae.data import Dataset, load
from pyro_vae.evaluation import default_method, log_marginal_likelihood


@dataclass(frozen=True)
class Flags:
    dataset: str = "mnist"
    """Data set, as in fit.py."""
    epochs: int = 6
    """Passes over the training images."""
    e_steps: tuple[int, ...] = (1, 5, 25)
    """E-steps of local and semi-amortized inference."""
    limit: int | None = None
    """Use the first LIMIT training images only."""
    test_images: int = 1000
    """Test images that are evaluated."""
    seed: int = 0
    """Of every run."""
    engine: Literal["auto", "compiled", "eager"] = "compiled"
    """As in fit.py."""
    data_dir: Path | None = None
    """Folder of the data sets; by default $PYRO_VAE_DATA, else a cache folder
    in your home."""
    output: Path = Path("results/amortization")
    """Folder for amortization.csv and amortization.png."""


def main() -> None:
    flags = parse(Flags)
    if flags.epochs < 1 or flags.test_images < 1:
        raise ValueError(
            f"--epochs is {flags.epochs} and --test-images "
            f"{flags.test_images}; expected at least 1 of each"
        )
    data = load(flags.dataset, flags.data_dir)
    data = Dataset(
        data.name,
        data.train[: flags.limit],
        data.test[: flags.test_images],
        None,
        None,
        data.image_shape,
    )
    flags.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, config in configs(flags):
        for row in study(name, config, data):
            rows.append(row)
            print(
                f"{name}: epoch {row['epoch']}, {row['train_seconds']:.1f} s, "
                f"test ELBO {row['test_elbo']:.2f}, log p(x) "
                f"{row['log_marginal_likelihood']:.2f}"
            )
        table = pd.DataFrame(rows)
        table.to_csv(flags.output / "amortization.csv", index=False)
    figures.amortization(table).savefig(flags.output / "amortization.png")


def configs(flags: Flags) -> Iterator[tuple[str, Config]]:
    """A configuration for each way of inference."""
    shared = {
        "dataset": flags.dataset,
        "epochs": flags.epochs,
        "seed": flags.seed,
        "engine": flags.engine,
    }
    yield "amortized", Config(**shared)
    for inference in ("semi-amortized", "local"):
        for steps in flags.e_steps:
            config = Config(inference=inference, e_steps=steps, **shared)
            yield f"{inference}, {steps}", config


def study(name: str, config: Config, data: Dataset) -> Iterator[dict[str, Any]]:
    """A row an epoch; log p(x) after the last one."""
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
    run(main)
