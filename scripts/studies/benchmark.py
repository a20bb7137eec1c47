"""Times a training step and a whole fit, side by side with the rivals'."""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from benchmark_figure import draw_benchmark
from machine import describe_machine, describe_versions
from rivals import (
    RIVALS,
    NotInstalledError,
    Rival,
    bernoulli_pair,
    gaussian_pair,
    make_rival,
)
from torch import Tensor

from pyro_vae import VAE
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_figure, write_table
from pyro_vae.data import Dataset, load
from pyro_vae.evaluation import mean_elbo_terms
from pyro_vae.runs.history import HISTORY, Record, read_history

FIT = Path(__file__).parents[1] / "fit.py"
SVI = "Pyro SVI, Trace_ELBO"
NUMPYRO = "NumPyro, jitted loop"
PAIRS = {
    "Gaussian, 784-512-2": (gaussian_pair, (32, 128, 512, 2048)),
    "Bernoulli, 784-200-200-50": (bernoulli_pair, (128,)),
}
FITS = {  # name: engine, precision, whether the compile cache is warm
    "eager": ("eager", "highest", False),
    "compiled, highest, cold": ("compiled", "highest", False),
    "compiled, highest, warm": ("compiled", "highest", True),
    "compiled, medium, cold": ("compiled", "medium", False),
    "compiled, medium, warm": ("compiled", "medium", True),
}
MOST = {"highest": 1.15, "medium": 1.25}  # times the floor, in its precision

Row = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """All flags of the benchmark.

    Attributes:
        rounds: Interleaved rounds; a rival's time is its median round.
        steps: Steps in a round at batch 128; fewer at larger batches.
        batch_sizes: Batch sizes to time; the second pair runs at 128 alone.
        fit_epochs: Epochs of each whole fit by scripts/fit.py; 0 leaves them
            out.
        dataset: The data set, of 784 pixels, as in fit.
        data_dir: Folder of the data sets; by default $PYRO_VAE_DATA, else a
            cache folder in your home.
        output: Folder for benchmark.csv and benchmark.png.
    """

    rounds: int = 10
    steps: int = 50
    batch_sizes: tuple[int, ...] = (32, 128, 512, 2048)
    fit_epochs: int = 20
    dataset: str = "mnist"
    data_dir: Path | None = None
    output: Path = Path("results")


def main(command: CommandLine[Flags]) -> None:
    """Times the steps and the fits; writes a table and its figure."""
    flags = command.parse()
    check_flags(flags)
    data = load(flags.dataset, flags.data_dir)
    if data.data_dim != 784:
        raise ValueError(
            f"--dataset is {flags.dataset}, of {data.data_dim} pixels; "
            "expected one of 784, such as mnist"
        )
    rows: list[Row] = []
    for pair, (make, batch_sizes) in PAIRS.items():
        for batch_size in batch_sizes:
            if batch_size in flags.batch_sizes:
                torch.manual_seed(0)
                rows += time_steps(pair, make(), batch_size, data, flags)
    rows += time_fits(flags)
    table = judge(pd.DataFrame(rows)).assign(
        machine=describe_machine(), versions=describe_versions()
    )
    flags.output.mkdir(parents=True, exist_ok=True)
    write_table(table, flags.output / "benchmark.csv")
    steps = table[table["batch_size"].notna()]
    write_figure(draw_benchmark(steps, SVI), flags.output / "benchmark.png")
    sum_up(table)


def check_flags(flags: Flags) -> None:
    """Refuses counts and batch sizes that cannot be timed.

    Raises:
        ValueError: If there is one.
    """
    check_at_least_1(flags, "rounds", "steps")
    if flags.fit_epochs < 0:
        raise ValueError(
            f"--fit-epochs is {flags.fit_epochs}; expected at least 0"
        )
    known = {size for _, sizes in PAIRS.values() for size in sizes}
    if not flags.batch_sizes or not known.issuperset(flags.batch_sizes):
        raise ValueError(
            f"--batch-sizes is {flags.batch_sizes}; expected some of "
            f"{sorted(known)}"
        )


def sum_up(table: pd.DataFrame) -> None:
    """Prints the table, where it was made, and what it says."""
    shown = table.drop(columns=["machine", "versions", "targets"])
    print(shown.to_string(index=False, float_format="{:.2f}".format))
    print(describe_machine(), describe_versions(), sep="\n")
    for row in table[table["targets"] != ""].itertuples():
        print(f"{row.what}, {row.batch_size:.0f}, {row.rival}: {row.targets}")
    print(describe_spread(table))


def time_steps(
    pair: str, vae: VAE, batch_size: int, data: Dataset, flags: Flags
) -> Iterator[Row]:
    """Times every rival's steps on the same images, and yields their rows."""
    rivals = make_rivals(vae, batch_size)
    steps = max(5, min(flags.steps, flags.steps * 128 // batch_size))
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for index in range(flags.rounds + 1):
        batches = draw_batches(data.train, batch_size, steps, seed=index)
        for name, rival in rivals.items():
            started = time.perf_counter()
            rival.steps(batches)
            # The first round compiles, and warms up; its time does not count.
            if index:
                elapsed = time.perf_counter() - started
                times[name].append(1e3 * elapsed / steps)
        print(f"{pair}, batch {batch_size}: round {index}/{flags.rounds}")
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, rival in rivals.items():
        numpyro = medians.get(NUMPYRO, float("nan"))
        yield {
            "what": pair,
            "batch_size": batch_size,
            "rival": name,
            "ms": medians[name],
            "ms_fastest": min(times[name]),
            "times_faster_than_svi": medians[SVI] / medians[name],
            "times_faster_than_numpyro": numpyro / medians[name],
            "steps": steps * (flags.rounds + 1),
            "test_elbo": compute_test_elbo(rival, data.test),
        }


def make_rivals(vae: VAE, batch_size: int) -> dict[str, Rival]:
    """Makes all rivals, and says which one is left out."""
    rivals = {}
    for name in RIVALS:
        try:
            rivals[name] = make_rival(name, vae, batch_size)
        except NotInstalledError as error:
            print(f"leaving it out: {error}")
    return rivals


def draw_batches(
    images: Tensor, batch_size: int, steps: int, seed: int
) -> tuple[Tensor, ...]:
    """Returns minibatches, `(B, D)`, one for each step, by a seed.

    The global generator is left seeded, so that the noise follows.
    """
    torch.manual_seed(seed)
    order = torch.randperm(len(images))
    need = steps * batch_size
    chosen = order.repeat(-(-need // len(order)))[:need]
    return images[chosen].split(batch_size)


def compute_test_elbo(rival: Rival, images: Tensor) -> float | None:
    """Returns a rival's ELBO, in nats per image; None if it fits nothing."""
    rival.finish()
    if rival.vae is None:
        return None
    expected_log_likelihood, kl = mean_elbo_terms(rival.vae, images)
    return expected_log_likelihood - kl


def time_fits(flags: Flags) -> Iterator[Row]:
    """Times whole runs of scripts/fit.py, figures and all."""
    if not flags.fit_epochs:
        return
    eager = None
    with tempfile.TemporaryDirectory() as folder:
        for name, (engine, precision, warm) in FITS.items():
            cache = Path(folder, precision if warm else f"cold-{precision}")
            if warm:
                Path(folder, f"cold-{precision}").rename(cache)
            output = Path(folder, "run")
            choices = ["--engine", engine, "--matmul-precision", precision]
            seconds = time_fit(flags, choices, output, cache)
            eager = eager or seconds  # the first
            print(f"fit.py, {name}: {seconds:.1f} s")
            records = read_history(output / HISTORY)
            yield {
                "what": f"fit.py, {flags.fit_epochs} epochs",
                "rival": name,
                "ms": 1e3 * seconds,
                "times_faster_than_eager": eager / seconds,
                "steps": records[-1]["step"],
                "test_elbo": records[-1]["test_elbo"],
            }
            yield {
                "what": "fit.py, one epoch (median)",
                "rival": name,
                "ms": 1e3 * find_median_epoch(records),
                "times_faster_than_eager": None,
                "steps": records[-1]["step"],
                "test_elbo": records[-1]["test_elbo"],
            }


def time_fit(
    flags: Flags, choices: list[str], output: Path, cache: Path
) -> float:
    """Runs scripts/fit.py in a process, and returns its seconds.

    Args:
        flags: The data set and the epochs.
        choices: Further flags of the fit.
        output: The run's folder.
        cache: The compiler's cache folder.
    """
    command = [
        *(sys.executable, str(FIT), "--overwrite", *choices),
        *("--dataset", flags.dataset, "--output", str(output)),
        *("--epochs", str(flags.fit_epochs)),
    ]
    if flags.data_dir is not None:
        command += ["--data-dir", str(flags.data_dir)]
    started = time.perf_counter()
    subprocess.run(
        command,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started


def find_median_epoch(records: list[Record]) -> float:
    """Returns the median of the epochs' seconds."""
    ends = [record["seconds"] for record in records]
    return statistics.median(b - a for a, b in itertools.pairwise(ends))


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Adds each step's ratio to its floor, and what the targets say of it."""
    keys = ["what", "batch_size", "rival"]
    times = table.set_index(keys)["ms"].to_dict()
    ratios, targets = [], []
    for what, size, rival, ms in table[[*keys, "ms"]].itertuples(index=False):
        precision = "medium" if "medium" in rival else "highest"
        floor = times.get((what, size, f"floor, {precision}"), float("nan"))
        ratios.append(ms / floor)
        sentences = []
        if rival == f"pyro_vae, compiled, {precision}":
            word = "met" if ms <= MOST[precision] * floor else "MISSED"
            sentences.append(
                f"{word}: {ms / floor:.2f} times the floor, target at most "
                f"{MOST[precision]:.2f}"
            )
            if numpyro := times.get((what, size, NUMPYRO)):
                word = "met" if ms <= numpyro else "MISSED"
                sentences.append(
                    f"{word}: {numpyro / ms:.2f} times as fast as NumPyro"
                )
        targets.append("; ".join(sentences))
    return table.assign(times_the_floor=ratios, targets=targets)


def describe_spread(table: pd.DataFrame) -> str:
    """Returns how far apart the rivals' ELBOs are, in words."""
    lines = ["test ELBO after the same steps, lowest and highest rival:"]
    for (what, size), group in table.groupby(["what", "batch_size"]):
        elbos = group["test_elbo"].dropna()
        lines.append(
            f"  {what}, batch {size:.0f}: {elbos.min():.2f} {elbos.max():.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, Flags, __doc__)
