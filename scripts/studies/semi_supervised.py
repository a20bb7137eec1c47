"""Test accuracy from a few labels: a VAE of images, a mixture of its latents.

For each seed, a VAE with a normal prior and convolutions is fitted to the
images without labels (M1 of Kingma et al., 2014). A mixture, whose component is
the label where it is known, is then fitted to draws from its q(z | x) (in the
place of their M2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from pyro_vae import (
    MLP,
    VAE,
    Config,
    FitConfig,
    GaussianLikelihood,
    MixtureGuide,
    MixturePrior,
    build,
    fit,
)
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_table
from pyro_vae.data import Dataset, load
from pyro_vae.training.labeled import choose_labels

Row = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        dataset: The data set, as in fit.
        labeled: Labels that are kept, as many of each class.
        image_network: The first VAE's networks, as in fit.
        image_epochs: Passes over the images, by the first VAE.
        image_latents: Its latent dimensions.
        draws: Draws of each image's latents, which the mixture is fitted to.
        epochs: Passes over these draws.
        latent_dim: The mixture's own latent dimensions.
        hidden: Units in the hidden layer of every network.
        label_weight: Weight of the labeled images' log q(y | x), as in fit.
        learning_rate: Step size of Adam, for the mixture.
        batch_size: Images in a minibatch.
        seeds: Seeds: of the weights, the noise, and the choice of the labels.
        limit: Use the first LIMIT training images, and as many test images.
        engine: Pyro's own step, or the same step compiled, as in fit.
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        output: Folder for semi_supervised.csv.
    """

    dataset: str = "mnist"
    labeled: int = 100
    image_network: Literal["mlp", "conv"] = "conv"
    image_epochs: int = 8
    image_latents: int = 50
    draws: int = 5
    epochs: int = 10
    latent_dim: int = 10
    hidden: int = 300
    label_weight: float = 0.3
    learning_rate: float = 3e-3
    batch_size: int = 250
    seeds: tuple[int, ...] = (0, 1, 2)
    limit: int | None = None
    engine: Literal["auto", "compiled", "eager"] = "auto"
    data_dir: Path | None = None
    output: Path = Path("results/semi-supervised")


def main(command: CommandLine[Flags]) -> None:
    """Fits for each seed; writes a table with a row for each epoch."""
    flags = command.parse()
    check_at_least_1(flags, "epochs", "image_epochs", "draws", "limit")
    data = load(flags.dataset, flags.data_dir).first(flags.limit)
    flags.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in flags.seeds:
        for row in study(flags, data, seed):
            rows.append(row)
            print(
                f"seed {seed}: epoch {row['epoch']:.0f}, test accuracy "
                f"{row['test_accuracy']:.4f}, {row['seconds']:.0f} s"
            )
            table = pd.DataFrame(rows)
            write_table(table, flags.output / "semi_supervised.csv")
    last = table.groupby("seed").last()["test_accuracy"]
    print(
        f"test accuracy with {flags.labeled} labels: {last.mean():.4f}, "
        f"standard deviation {last.std(ddof=1):.4f}, {len(last)} seeds"
    )


def study(flags: Flags, data: Dataset, seed: int) -> Iterator[Row]:
    """Fits both VAEs, and yields a row for each epoch of the second."""
    started = 0.0
    torch.manual_seed(seed)
    config = Config(
        likelihood="bernoulli",
        binarize="dynamic",
        latent_dim=flags.image_latents,
        network=flags.image_network,
        epochs=flags.image_epochs,
        batch_size=flags.batch_size,
        schedule="exponential",
        learning_rate=3e-3,
        engine=flags.engine,
        seed=seed,
    )
    vae = build(config, data.data_dim, data.image_shape)
    for record in fit(vae, data, config):
        started = record["seconds"]
    latents = encode(vae, data, flags, seed)
    training = FitConfig(
        labeled=flags.labeled * flags.draws,
        label_weight=flags.label_weight,
        epochs=flags.epochs,
        batch_size=flags.batch_size,
        learning_rate=flags.learning_rate,
        schedule="cosine",
        engine=flags.engine,
        seed=seed,
    )
    for record in fit(make_mixture(flags, data.num_labels), latents, training):
        yield {
            "seed": seed,
            "labeled": flags.labeled,
            "epoch": record["epoch"],
            "test_accuracy": record["test_accuracy"],
            "test_elbo": record["test_elbo"],
            "seconds": started + record["seconds"],
        }


@torch.no_grad()
def encode(vae: VAE, data: Dataset, flags: Flags, seed: int) -> Dataset:
    """Returns draws from q(z | x) to train on, and the test images' means.

    The labels of the training images are -1, but for those that are kept. All
    draws of an image have its label.
    """
    labels = torch.as_tensor(data.train_labels)
    known = choose_labels(labels, flags.labeled, data.num_labels, seed)
    device, draws = next(vae.parameters()).device, torch.Size([flags.draws])
    parts = [vae.infer(x.to(device)) for x in data.train.split(1000)]
    train = torch.cat([q.sample(draws) for q in parts], 1).flatten(0, 1)
    parts = [vae.infer(x.to(device)) for x in data.test.split(1000)]
    test = torch.cat([q.mean for q in parts])
    return Dataset(
        f"latents of {data.name}",
        train.cpu(),
        test.cpu(),
        known.repeat(flags.draws),
        data.test_labels,
        (1, test.shape[1]),
    )


def make_mixture(flags: Flags, num_classes: int) -> VAE:
    """Makes the VAE of the latents, whose component is the label."""
    size, hidden = flags.latent_dim, (flags.hidden,)
    outputs = num_classes * (1 + 2 * size)
    decoder = MLP(size, flags.image_latents, hidden)
    encoder = MLP(flags.image_latents, outputs, hidden)
    return VAE(
        MixturePrior(num_classes, size),
        GaussianLikelihood(decoder, "diagonal", 1.0),
        MixtureGuide(encoder, num_classes),
    )


if __name__ == "__main__":
    run(main, Flags, __doc__)
