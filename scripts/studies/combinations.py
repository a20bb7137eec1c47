"""Fits every prior x guide x likelihood x objective shortly; writes a table."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from pyro_vae import Config, build, fit
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import (
    CommandLine,
    arguments_to_flags,
    check_at_least_1,
    list_flags,
)
from pyro_vae.cli.output import write_table
from pyro_vae.config import COUNTS
from pyro_vae.config.variant import Table
from pyro_vae.config.variants import LIKELIHOODS, OBJECTIVES, PRIORS
from pyro_vae.data import Dataset, load
from pyro_vae.svi import NonFiniteLossError

MARGIN = 1.0  # nats that a fit must gain on its untrained ELBO
UNITS = 32  # in the hidden layer
LEARNING_RATE = 2e-3  # see the page's words on it, and on the next
PARTICLES = 2  # of the objectives that take several
CSV = "combinations.csv"

Choice = dict[str, str]

HEADER = """\
# Combinations

Every prior, guide, likelihood and objective together: one fit of {epochs}
epochs on scikit-learn's 8 x 8 digits each, {units} hidden units, Adam at
{rate:g}, written by `python scripts/studies/combinations.py`. A number is the
gain of the test ELBO over that of the untrained model, in nats per image (the
margin to pass is {margin:g}); a letter is a refusal, whose sentence stands
below. Likelihoods of counts take the digits as they are stored, from 0 to 16,
and discretized-logistic the nearest of 256 levels.

The importance-weighted and Renyi bounds have {particles} samples of z. That and
the step size were chosen by their result: with 4 samples, or at 5e-3, a few
fits of such a bound with a continuous Bernoulli and a vamp or flow prior lost
in ELBO: such a bound needs only one good draw among its samples, while the
ELBO is the mean over all of them.
"""


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        epochs: Passes over the digits in each fit.
        limit: Use the first LIMIT digits only.
        priors: The priors to combine.
        likelihoods: The likelihoods to combine them with.
        processes: Fits at a time.
        output: Folder for combinations.csv.
        page: The table as a page; docs/combinations.md is the project's.
    """

    epochs: int = 4
    limit: int | None = None
    priors: tuple[str, ...] = tuple(PRIORS)
    likelihoods: tuple[str, ...] = tuple(LIKELIHOODS)
    processes: int = 2
    output: Path = Path("results/combinations")
    page: Path = Path("results/combinations/combinations.md")


def main(command: CommandLine[Flags]) -> int:
    """Fits all; returns 1 if a fit gained less than the margin, else 0."""
    flags = command.parse()
    check_at_least_1(flags, "epochs", "limit", "processes")
    check_names("priors", flags.priors, PRIORS)
    check_names("likelihoods", flags.likelihoods, LIKELIHOODS)
    choices = list_choices(flags.priors, flags.likelihoods)
    work = [(choice, flags.epochs, flags.limit) for choice in choices]
    with get_context("spawn").Pool(flags.processes, one_thread) as pool:
        rows = list(tqdm(pool.imap(gain, work), total=len(work), disable=None))
    table = pd.DataFrame(rows)
    flags.output.mkdir(parents=True, exist_ok=True)
    write_table(table, flags.output / CSV)
    flags.page.parent.mkdir(parents=True, exist_ok=True)
    flags.page.write_text(write_page(table, flags.epochs))
    return sum_up(table)


def check_names(flag: str, names: tuple[str, ...], table: Table) -> None:
    """Refuses a flag that names none, or what is not in a table."""
    if not names:
        raise ValueError(
            f"--{flag} names none; expected some of {', '.join(table)}"
        )
    if unknown := set(names) - set(table):
        raise ValueError(
            f"--{flag} has {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(table)}"
        )


def list_choices(
    priors: tuple[str, ...], likelihoods: tuple[str, ...]
) -> list[Choice]:
    """Returns every combination of some priors with the guides they take."""
    return [
        {
            "prior": prior,
            "guide": guide,
            "likelihood": likelihood,
            "objective": objective,
        }
        for prior in priors
        for guide in PRIORS[prior].goes_with["guide"]
        for likelihood, objective in itertools.product(likelihoods, OBJECTIVES)
    ]


def sum_up(table: pd.DataFrame) -> int:
    """Prints how the fits went; returns 1 if one failed, else 0."""
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
    """Limits torch to one thread, in a process that shares the machine."""
    torch.set_num_threads(1)


def gain(work: tuple[Choice, int, int | None]) -> dict[str, Any]:
    """Fits shortly, and returns the gain, or why it was refused before."""
    choice, epochs, limit = work
    row = {**choice, "untrained": math.nan, "test_elbo": math.nan}
    row |= {"gain": math.nan, "refusal": None}
    data = load_digits(choice["likelihood"], limit)
    try:
        config = make_config(choice, epochs)
        torch.manual_seed(config.seed)
        vae = build(config, data.data_dim, data.image_shape)
        records = fit(vae, data, config)
    except ValueError as refusal:
        sentence = arguments_to_flags(str(refusal), list_flags(Config))
        return {**row, "refusal": sentence}
    try:
        first, *_, last = (record["test_elbo"] for record in records)
    except NonFiniteLossError:
        return row
    return {**row, "untrained": first, "test_elbo": last, "gain": last - first}


def load_digits(likelihood: str, limit: int | None) -> Dataset:
    """Returns the digits as a likelihood takes them.

    They are stored as 0 to 16: counts are these numbers, 8-bit pixels the
    nearest of 256 levels.
    """
    data = load("digits").first(limit)
    if likelihood in COUNTS:
        return replace(data, train=data.train * 16, test=data.test * 16)
    if likelihood == "discretized-logistic":
        train, test = ((x * 255).round() / 255 for x in (data.train, data.test))
        return replace(data, train=train, test=test)
    return data


def make_config(choice: Choice, epochs: int) -> Config:
    """Returns the configuration of one of the short fits."""
    binary = choice["likelihood"] == "bernoulli"
    several = choice["objective"] in ("iwae", "renyi", "dreg")
    return Config(
        prior=choice["prior"],
        guide=choice["guide"],
        likelihood=choice["likelihood"],
        objective=choice["objective"],
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


def write_page(table: pd.DataFrame, epochs: int) -> str:
    """Returns the table as Markdown, with the refusals' sentences below."""
    marks = {
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
    for likelihood, rows in table.groupby("likelihood", sort=False):
        lines = "\n".join(write_lines(rows, marks))
        text += f"\n## {likelihood}\n\n{lines}\n"
    text += "\n## Refused\n\n"
    for sentence, mark in marks.items():
        text += f"- **{mark}**: {sentence}\n"
    return text


def write_lines(table: pd.DataFrame, marks: dict[str, str]) -> Iterator[str]:
    """Yields the lines of one likelihood's table."""
    yield "| prior | guide | " + " | ".join(OBJECTIVES) + " |"
    yield "|---" * (2 + len(OBJECTIVES)) + "|"
    for (prior, guide), rows in table.groupby(["prior", "guide"], sort=False):
        cells = [
            marks.get(refusal, f"{gained:.1f}")
            for refusal, gained in zip(
                rows["refusal"], rows["gain"], strict=True
            )
        ]
        yield f"| {prior} | {guide} | {' | '.join(cells)} |"


def letter(index: int) -> str:
    """Returns a, b, ..., z, aa, ab, ..."""
    head, tail = divmod(index, 26)
    return (chr(96 + head) if head else "") + chr(97 + tail)


if __name__ == "__main__":
    run(main, Flags, __doc__)
