"""Fits every prior x guide x likelihood x objective shortly; writes a table."""

import itertools
import math
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import torch
from command_line import check_at_least_1, parse, run
from tqdm import tqdm

from pyro_vae import Config, build, fit
from pyro_vae.config import FITTING_GUIDES
from pyro_vae.config.build import LIKELIHOODS, PRIORS
from pyro_vae.data import load
from pyro_vae.objectives import choose_objective
from pyro_vae.svi import NonFiniteLossError

OBJECTIVES = get_args(get_type_hints(Config)["objective"])
MARGIN = 1.0  # nats that a fit must gain on its untrained ELBO
UNITS = 32  # in the hidden layer
LEARNING_RATE = 2e-3  # see the page's words on it, and on the next
PARTICLES = 2  # of the objectives that take several
CSV = "combinations.csv"

HEADER = """\
# Combinations

Every prior, guide, likelihood and objective together: one fit of {epochs}
epochs on scikit-learn's 8 x 8 digits each, {units} hidden units, Adam at
{rate:g}, written by `python scripts/combinations.py`. A number is the gain of
the test ELBO over that of the untrained model, in nats per image (the margin to
pass is {margin:g}); a letter is a refusal, whose sentence stands below.

The importance-weighted and Renyi bounds have {particles} samples of z. That and
the step size were chosen by their result: with 4 samples, or at 5e-3, a few
fits of such a bound with a continuous Bernoulli and a vamp or flow prior lost
in ELBO. It asks for one good draw of all, whatever the others are worth, and
the ELBO is their mean.
"""


@dataclass(frozen=True)
class Flags:
    epochs: int = 4
    """Passes over the digits in each fit."""
    limit: int | None = None
    """Use the first LIMIT digits only."""
    priors: tuple[str, ...] = tuple(PRIORS)
    """The priors to combine."""
    processes: int = 2
    """Fits at a time."""
    output: Path = Path("results/combinations")
    """Folder for combinations.csv."""
    page: Path = Path("results/combinations/combinations.md")
    """The table as a page; docs/combinations.md is the project's."""


def main() -> int:
    flags = parse(Flags)
    check_at_least_1(flags, "epochs", "limit", "processes")
    if not flags.priors:
        raise ValueError(
            f"--priors names none; expected some of {', '.join(PRIORS)}"
        )
    if unknown := set(flags.priors) - set(PRIORS):
        raise ValueError(
            f"--priors has {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(PRIORS)}"
        )
    choices = [
        {
            "prior": prior,
            "guide": guide,
            "likelihood": likelihood,
            "objective": objective,
        }
        for prior in flags.priors
        for guide in FITTING_GUIDES[prior]
        for likelihood, objective in itertools.product(LIKELIHOODS, OBJECTIVES)
    ]
    work = [(choice, flags.epochs, flags.limit) for choice in choices]
    with get_context("spawn").Pool(flags.processes, one_thread) as pool:
        rows = list(tqdm(pool.imap(gain, work), total=len(work), disable=None))
    flags.output.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(flags.output / CSV, index=False)
    flags.page.parent.mkdir(parents=True, exist_ok=True)
    flags.page.write_text(page(table, flags.epochs))
    refused = table["refusal"].notna()
    failed = table[~refused & ~(table["gain"] >= MARGIN)]
    print(
        f"{len(table)} combinations: {refused.sum()} refused, {len(failed)} "
        f"gained less than {MARGIN:g} nats"
    )
    if len(failed):
        print(failed.to_string(index=False))
    return int(len(failed) > 0)


def one_thread() -> None:
    torch.set_num_threads(1)


def gain(work: tuple[dict[str, str], int, int | None]) -> dict[str, Any]:
    """A short fit's gain, or why it was refused before it began."""
    choice, epochs, limit = work
    row = {**choice, "untrained": math.nan, "test_elbo": math.nan}
    row |= {"gain": math.nan, "refusal": None}
    data = load("digits").first(limit)
    try:
        config = make_config(choice, epochs)
        torch.manual_seed(config.seed)
        vae = build(config, data.data_dim, data.image_shape)
        choose_objective(config, vae)
    except ValueError as refusal:
        return {**row, "refusal": str(refusal)}
    try:
        first, *_, last = (r["test_elbo"] for r in fit(vae, data, config))
    except NonFiniteLossError:
        return row
    return {**row, "untrained": first, "test_elbo": last, "gain": last - first}


def make_config(choice: dict[str, str], epochs: int) -> Config:
    binary = choice["likelihood"] == "bernoulli"
    several = choice["objective"] in ("iwae", "renyi", "dreg")
    return Config(
        **choice,
        dataset="digits",
        binarize="dynamic" if binary else "none",
        num_particles=PARTICLES if several else 1,
        hidden=(UNITS,),
        epochs=epochs,
        batch_size=64,
        learning_rate=LEARNING_RATE,
        engine="eager",
        device="cpu",
    )


def page(table: pd.DataFrame, epochs: int) -> str:
    """The table as Markdown, with the refusals' sentences below."""
    sentences = {
        sentence: letter(index)
        for index, sentence in enumerate(table["refusal"].dropna().unique())
    }
    text = HEADER.format(
        epochs=epochs,
        units=UNITS,
        rate=LEARNING_RATE,
        margin=MARGIN,
        particles=PARTICLES,
    )
    for likelihood, of_it in table.groupby("likelihood", sort=False):
        text += f"\n## {likelihood}\n\n"
        text += "| prior | guide | " + " | ".join(OBJECTIVES) + " |\n"
        text += "|---" * (2 + len(OBJECTIVES)) + "|\n"
        for (prior, guide), rows in of_it.groupby(
            ["prior", "guide"], sort=False
        ):
            cells = [cell(row, sentences) for _, row in rows.iterrows()]
            text += f"| {prior} | {guide} | {' | '.join(cells)} |\n"
    text += "\n## Refused\n\n"
    for sentence, mark in sentences.items():
        text += f"- **{mark}**: {sentence}\n"
    return text


def cell(row: pd.Series, sentences: dict[str, str]) -> str:
    if isinstance(row["refusal"], str):
        return sentences[row["refusal"]]
    return f"{row['gain']:.1f}"


def letter(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    head, tail = divmod(index, 26)
    return (chr(96 + head) if head else "") + chr(97 + tail)


if __name__ == "__main__":
    run(main)
