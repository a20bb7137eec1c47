"""Compares runs' ELBO traces: a table, compare.csv and compare.png."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from command_line import parse, run
from runs import read_about, warn_of_caveats

from pyro_vae import Config, figures
from pyro_vae.runs.history import HISTORY, read_history

COLUMNS = ("test_elbo", "test_expected_log_likelihood", "test_kl", "seconds")


@dataclass(frozen=True)
class Flags:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that fit.py wrote."""
    output: Path = Path("results")
    """Folder for compare.csv and compare.png."""


@dataclass(frozen=True)
class Run:
    """A run's choices, seed apart, and its trace."""

    folder: Path
    choices: dict[str, Any]
    data: dict[str, Any]
    trace: dict[str, np.ndarray]


def main() -> None:
    flags = parse(Flags)
    if not flags.runs:
        raise ValueError("no run was named; expected the folders of some")
    runs = [read_run(folder) for folder in flags.runs]
    groups = group(runs)
    for difference in incomparable(groups):
        print(f"warning: {difference}", file=sys.stderr)
    seconds = min(run.trace["seconds"][-1] for run in runs)
    table = pd.DataFrame(
        [row(label, of, seconds) for label, of in groups.items()]
    )
    print(table.to_string(index=False, float_format="{:.2f}".format))
    flags.output.mkdir(parents=True, exist_ok=True)
    table.to_csv(flags.output / "compare.csv", index=False)
    figure = figures.compare_traces(
        {label: [run.trace for run in of] for label, of in groups.items()}
    )
    figure.savefig(flags.output / "compare.png")


def read_run(folder: Path) -> Run:
    """Reads what the comparison needs of a run's folder."""
    about = read_about(folder)
    warn_of_caveats(folder, about)
    # Older runs had the defaults of the choices that came later.
    choices = {**asdict(Config()), **about["config"]}
    del choices["seed"]
    records = read_history(folder / HISTORY)
    trace = {key: np.array([r[key] for r in records]) for key in records[0]}
    return Run(folder, choices, about["data"], trace)


def group(runs: list[Run]) -> dict[str, list[Run]]:
    """Puts runs that differ by seed alone together, under a telling label."""
    groups: dict[str, list[Run]] = {}
    for one in runs:
        key = json.dumps([one.choices, one.data], sort_keys=True)
        groups.setdefault(key, []).append(one)
    heads = [of[0] for of in groups.values()]
    differing = [
        choice
        for choice in heads[0].choices
        if len({json.dumps(head.choices.get(choice)) for head in heads}) > 1
    ]
    labels = [
        ", ".join(
            f"{choice} {head.choices.get(choice)}" for choice in differing
        )
        or head.folder.name
        for head in heads
    ]
    if len(set(labels)) < len(labels):
        labels = [str(head.folder) for head in heads]
    return dict(zip(labels, groups.values(), strict=True))


def incomparable(groups: dict[str, list[Run]]) -> list[str]:
    """Sentences on why the groups' ELBOs do not bound the same thing."""
    sentences = []
    (first, reference), *others = [
        (label, of[0]) for label, of in groups.items()
    ]
    for label, one in others:
        if one.data != reference.data and not differ_by_draws(one, reference):
            sentences.append(
                f"'{first}' and '{label}' are of different data "
                f"({reference.data} and {one.data}): their ELBOs bound "
                "different quantities"
            )
        elif likelihood(one) != likelihood(reference):
            sentences.append(
                f"'{first}' and '{label}' have different likelihoods "
                f"({likelihood(reference)} and {likelihood(one)}): a higher "
                "ELBO need not mean better latents or images"
            )
    return sentences


def differ_by_draws(one: Run, other: Run) -> bool:
    """Whether the data are the same but for the binary images drawn of them.

    The test images of a dynamic and a static run are the same draws.
    """
    drawn = ({**run.data, "train_mean": None} for run in (one, other))
    binarize = {one.choices["binarize"], other.choices["binarize"]}
    return "none" not in binarize and len({str(data) for data in drawn}) == 1


def likelihood(one: Run) -> str:
    """The likelihood's family, with its scale if that is not learned."""
    if one.choices["likelihood"] != "gaussian":
        return one.choices["likelihood"]
    noise, scale = one.choices["noise"], one.choices["noise_scale"]
    of_scale = noise == "fixed" and scale is not None
    return f"{noise} noise" + f" of scale {scale}" * of_scale


def row(label: str, runs: list[Run], seconds: float) -> dict[str, Any]:
    """A group's last values: the mean over its runs, and the ELBO's spread.

    Also the mean test ELBO at an equal wall time: after the last epoch that
    each run had done by then.
    """
    # A run that was stopped must not be averaged with a later epoch.
    last = min(len(run.trace["epoch"]) for run in runs) - 1
    final = {key: [run.trace[key][last] for run in runs] for key in COLUMNS}
    return {
        "run": label,
        "seeds": len(runs),
        "epochs": int(runs[0].trace["epoch"][last]),
        **{key: np.mean(values) for key, values in final.items()},
        "test_elbo_std": np.std(final["test_elbo"]),
        "equal_seconds": seconds,
        "test_elbo_at_equal_seconds": np.mean(
            [
                run.trace["test_elbo"][run.trace["seconds"] <= seconds][-1]
                for run in runs
            ]
        ),
    }


if __name__ == "__main__":
    run(main)
