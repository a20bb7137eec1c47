"""Compares the histories of runs: a table, compare.csv and compare.png."""

import json
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro

from pyro_vae import figures
from pyro_vae.cli.evaluation_file import warn_of_older
from pyro_vae.cli.flags import CommandLine
from pyro_vae.cli.output import write_figure, write_table
from pyro_vae.config.tables import resolve
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.runs.run import read_about, read_config, warn_of_caveats

COLUMNS = ("test_elbo", "test_expected_log_likelihood", "test_kl", "seconds")


@dataclass(frozen=True)
class Flags:
    """The flags of the command.

    Attributes:
        runs: Folders of runs, as fit wrote them.
        output: Folder for compare.csv and compare.png.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Path = Path("results")


@dataclass(frozen=True)
class Compared:
    """What is compared of a run.

    Attributes:
        folder: The run's folder.
        choices: All its choices but the seed.
        data: The description of its data.
        history: Its records, an array for each of their keys.
    """

    folder: Path
    choices: dict[str, Any]
    data: dict[str, Any]
    history: dict[str, np.ndarray]


def main(command: CommandLine[Flags]) -> None:
    """Prints the table, and writes it and the figure."""
    flags = command.parse()
    if not flags.runs:
        raise ValueError("no run was named; expected the folders of some")
    runs = [read_run(folder) for folder in flags.runs]
    groups = group(runs)
    for difference in incomparable(groups):
        warnings.warn(difference, stacklevel=2)
    seconds = min(run.history["seconds"][-1] for run in runs)
    for difference in unequal(runs, seconds):
        warnings.warn(difference, stacklevel=2)
    table = pd.DataFrame(
        [row(label, of, seconds) for label, of in groups.items()]
    )
    print(table.to_string(index=False, float_format="{:.2f}".format))
    flags.output.mkdir(parents=True, exist_ok=True)
    write_table(table, flags.output / "compare.csv")
    figure = figures.compare_histories(
        {label: [run.history for run in of] for label, of in groups.items()}
    )
    write_figure(figure, flags.output / "compare.png")


def read_run(folder: Path) -> Compared:
    """Reads what is compared of the run in a folder."""
    about = read_about(folder)
    warn_of_caveats(folder, about)
    choices = asdict(read_config(folder))
    del choices["seed"]
    records = read_history(folder / HISTORY)
    warn_of_older(folder, int(records[-1]["epoch"]))
    history = {key: np.array([r[key] for r in records]) for key in records[0]}
    return Compared(folder, choices, about["data"], history)


def group(runs: list[Compared]) -> dict[str, list[Compared]]:
    """Groups runs that differ in the seed alone, by what tells them apart."""
    groups: dict[str, list[Compared]] = {}
    for one in runs:
        key = json.dumps([one.choices, one.data], sort_keys=True)
        groups.setdefault(key, []).append(one)
    heads = [of[0] for of in groups.values()]
    differing = [
        choice
        for choice in heads[0].choices
        if len({json.dumps(head.choices.get(choice)) for head in heads}) > 1
    ]
    # How long they were fitted tells little where something else differs.
    others = [name for name in differing if name != "epochs"]
    for names in (others or differing, differing):
        labels = [describe(head, names) for head in heads]
        if len(set(labels)) == len(labels):
            break
    else:
        labels = [str(head.folder) for head in heads]
    return dict(zip(labels, groups.values(), strict=True))


def describe(one: Compared, names: list[str]) -> str:
    """Returns some of a run's choices in words, or its name if there is none.

    What `auto` means is written in its place.
    """
    values = {name: one.choices.get(name) for name in names}
    for name in {"guide", "gradient"} & values.keys():
        chosen = str(values[name])
        values[name] = resolve(one.choices["prior"], name, chosen)
    words = ", ".join(f"{name} {value}" for name, value in values.items())
    return words or one.folder.name


def incomparable(groups: dict[str, list[Compared]]) -> list[str]:
    """Returns why the groups' ELBOs do not bound the same thing, if so."""
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


def unequal(runs: list[Compared], seconds: float) -> list[str]:
    """Returns which runs had no record yet at the equal time."""
    return [
        f"{run.folder} had its first record after "
        f"{run.history['seconds'][0]:.1f} s, when another run had ended "
        f"({seconds:.1f} s): test_elbo_at_equal_seconds is empty for it"
        for run in runs
        if run.history["seconds"][0] > seconds
    ]


def differ_by_draws(one: Compared, other: Compared) -> bool:
    """Returns whether the data differ only in the binary images drawn of them.

    The test images of a dynamic and a static run are the same draws.
    """
    drawn = ({**run.data, "train_mean": None} for run in (one, other))
    binarize = {one.choices["binarize"], other.choices["binarize"]}
    return "none" not in binarize and len({str(data) for data in drawn}) == 1


def likelihood(one: Compared) -> str:
    """Returns the likelihood's family, with its scale if that is fixed."""
    if one.choices["likelihood"] != "gaussian":
        return one.choices["likelihood"]
    noise, scale = one.choices["noise"], one.choices["noise_scale"]
    of_scale = noise == "fixed" and scale is not None
    return f"{noise} noise" + f" of scale {scale}" * of_scale


def row(label: str, runs: list[Compared], seconds: float) -> dict[str, Any]:
    """Makes the row of a group of runs.

    It holds the means of their last records, the spread of their last test
    ELBOs, and the mean test ELBO at an equal time: that of the last epoch that
    each run had done by then, or NaN if one had done none.

    Args:
        label: What tells the group from the others.
        runs: The runs of the group.
        seconds: The equal time, counted from the start of each run.
    """
    # A run that was stopped must not be averaged with a later epoch.
    last = min(len(run.history["epoch"]) for run in runs) - 1
    final = {key: [run.history[key][last] for run in runs] for key in COLUMNS}
    return {
        "run": label,
        "seeds": len(runs),
        "epochs": int(runs[0].history["epoch"][last]),
        **{key: np.mean(values) for key, values in final.items()},
        "test_elbo_std": np.std(final["test_elbo"]),
        "equal_seconds": seconds,
        "test_elbo_at_equal_seconds": np.mean(
            [elbo_at(seconds, run) for run in runs]
        ),
    }


def elbo_at(seconds: float, run: Compared) -> float:
    """Returns a run's last test ELBO by a time; NaN before its first record."""
    done = run.history["seconds"] <= seconds
    return run.history["test_elbo"][done][-1] if done.any() else math.nan
