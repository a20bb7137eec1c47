"""Counts from a known model: is it found again by a fit?

The truth is a VAE of negative binomial counts whose log-means are linear in
two latents. For each seed, rows are drawn from it and a VAE of the same form is
fitted to them. Its dispersions are compared with the true ones, and its log
p(x) of held-out rows, by quadrature, with that of the truth.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from pyro_vae import (
    MLP,
    VAE,
    FitConfig,
    FullNormalGuide,
    NegativeBinomialLikelihood,
    NormalPrior,
    fit,
)
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.data import Dataset
from pyro_vae.evaluation import log_marginal_likelihood

CSV = "simulated_counts.csv"
FEATURES = 12
MEAN = 50.0  # the usual count
THETA = torch.logspace(-0.3, 0.7, FEATURES)  # from 0.5 to 5
TRUTH_SEED = 271  # of the true decoder, the same for all rows


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        rows: Rows that each VAE is fitted to.
        held_out: Further rows, whose log p(x) is compared.
        epochs: Passes over the rows.
        seeds: Seeds: of the rows, the weights and the noise.
        output: Folder for simulated_counts.csv.
    """

    rows: int = 20_000
    held_out: int = 300
    epochs: int = 25
    seeds: tuple[int, ...] = tuple(range(6))
    output: Path = Path("results/simulated-counts")


class OfLogs(MLP):
    """A multilayer perceptron of log(1 + x), for counts of any size."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `(..., in_features)` to `(..., out_features)`."""
        return super().forward(inputs.log1p())


def main(command: CommandLine[Flags]) -> None:
    """Fits for each seed, and writes and prints the table."""
    flags = command.parse()
    check_at_least_1(flags, "rows", "held_out", "epochs")
    flags.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in flags.seeds:
        rows += study(flags, seed)
        pd.DataFrame(rows).to_csv(flags.output / CSV, index=False)
    print(sum_up(pd.DataFrame(rows)).to_string(float_format="{:.4f}".format))


def make_vae(theta: float | Tensor) -> VAE:
    """Returns a VAE of counts whose log-means are linear in two latents."""
    guide = FullNormalGuide(OfLogs(FEATURES, 5, (64,)), latent_dim=2)
    likelihood = NegativeBinomialLikelihood(
        nn.Linear(2, FEATURES), "learned", FEATURES * MEAN, theta
    )
    return VAE(NormalPrior(2), likelihood, guide)


def make_truth() -> VAE:
    """Returns the VAE that the rows are drawn from."""
    torch.manual_seed(TRUTH_SEED)
    vae = make_vae(THETA)
    decoder = vae.likelihood.decoder
    nn.init.normal_(decoder.weight, std=0.5)
    nn.init.normal_(decoder.bias, std=0.3)
    return vae


@torch.no_grad()
def draw(vae: VAE, count: int) -> Tensor:
    """Returns rows of counts, drawn from a VAE."""
    return vae.likelihood(vae.prior().sample(torch.Size([count]))).sample()


def study(flags: Flags, seed: int) -> list[dict[str, Any]]:
    """Draws and fits; returns a row for each dispersion, and for log p(x)."""
    truth = make_truth()
    torch.manual_seed(seed)
    x, test = draw(truth, flags.rows), draw(truth, flags.held_out)
    vae = make_vae(1.0)
    config = FitConfig(
        epochs=flags.epochs,
        batch_size=250,
        learning_rate=1e-2,
        schedule="cosine",
        num_particles=8,
        objective="dreg",
        seed=seed,
        engine="eager",
        device="cpu",
    )
    list(fit(vae, Dataset("simulated", x, test), config))
    found = vae.likelihood.inverse_dispersion.tolist()
    rows: list[dict[str, Any]] = [
        {"seed": seed, "what": f"theta {d + 1}", "truth": true, "fit": fitted}
        for d, (true, fitted) in enumerate(
            zip(THETA.tolist(), found, strict=True)
        )
    ]
    log_p = [
        log_marginal_likelihood(one, test, method="quadrature").value
        for one in (truth, vae)
    ]
    means = {
        name: value.mean().item()
        for name, value in zip(("truth", "fit"), log_p, strict=True)
    }
    spread = (log_p[1] - log_p[0]).std().item()
    error = spread / flags.held_out**0.5
    return [*rows, {"seed": seed, "what": "log p(x)", **means, "error": error}]


def sum_up(table: pd.DataFrame) -> pd.DataFrame:
    """Returns what is off in the mean over seeds, and its standard error.

    Of a dispersion it is the difference of logs, of log p(x) that of nats.
    """
    is_log_p = table["what"] == "log p(x)"
    ratio = (table["fit"] / table["truth"]).where(~is_log_p, 1.0)
    off = (table["fit"] - table["truth"]).where(
        is_log_p, ratio.map(lambda r: torch.tensor(r).log().item())
    )
    groups = off.groupby(table["what"], sort=False)
    summary = pd.DataFrame({"truth": table.groupby("what")["truth"].mean()})
    summary = summary.loc[table["what"].unique()]
    summary["off"] = groups.mean()
    summary["standard_error"] = groups.std() / groups.count() ** 0.5
    return summary


if __name__ == "__main__":
    run(main, Flags, __doc__)
