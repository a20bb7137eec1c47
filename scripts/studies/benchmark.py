"""Times a training step and a whole fit, side by side with the rivals'."""

import importlib.util
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from command_line import check_at_least_1, parse, run
from rivals import RIVALS, bernoulli_pair, gaussian_pair, make_rival

from pyro_vae import VAE, figures
from pyro_vae.data import load
from pyro_vae.evaluation import evaluate
from pyro_vae.runs.history import HISTORY, read_history

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
TARGETS = [  # at batch 128: who, against whom, at least how many times faster
    ("pyro_vae, compiled, highest", SVI, 3.0),
    ("pyro_vae, compiled, highest", NUMPYRO, 1.1),
    ("pyro_vae, compiled, highest", "floor, highest", 1 / 1.3),
    ("pyro_vae, compiled, medium", SVI, 5.0),
    ("pyro_vae, compiled, medium", NUMPYRO, 1.9),
    ("pyro_vae, compiled, medium", "floor, medium", 1 / 1.35),
]

Row = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    rounds: int = 10
    """Interleaved rounds; a rival's time is its median round."""
    steps: int = 50
    """Steps a round at batch 128; fewer at larger batches."""
    batch_sizes: tuple[int, ...] = (32, 128, 512, 2048)
    """Batch sizes to time; the second pair runs at 128 alone."""
    fit_epochs: int = 20
    """Epochs of each whole fit by scripts/fit.py; 0 leaves them out."""
    dataset: str = "mnist"
    """What to fit; see scripts/fit.py."""
    data_dir: Path | None = None
    """Folder of the data sets; see scripts/fit.py."""
    output: Path = Path("results")
    """Folder for benchmark.csv and benchmark.png."""


def main() -> None:
    flags = parse(Flags)
    check_at_least_1(flags, "rounds", "steps")
    known = {size for _, sizes in PAIRS.values() for size in sizes}
    if not flags.batch_sizes or not known.issuperset(flags.batch_sizes):
        raise ValueError(
            f"--batch-sizes is {flags.batch_sizes}; expected some of "
            f"{sorted(known)}"
        )
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
    table = pd.DataFrame(rows).assign(machine=machine(), versions=versions())
    table = judge(table)
    flags.output.mkdir(parents=True, exist_ok=True)
    table.to_csv(flags.output / "benchmark.csv", index=False)
    steps = table[table["batch_size"].notna()]
    figures.benchmark(steps, SVI).savefig(flags.output / "benchmark.png")
    shown = table.drop(columns=["machine", "versions", "targets"])
    print(shown.to_string(index=False, float_format="{:.2f}".format))
    print(machine(), versions(), sep="\n")
    for sentences in table["targets"][table["targets"] != ""]:
        print(sentences)
    print(spread(table))


def time_steps(
    pair: str, vae: VAE, batch_size: int, data: Any, flags: Flags
) -> list[Row]:
    """Times every rival's steps, in interleaved rounds, on the same images."""
    rivals = {}
    for name in RIVALS:
        if name == NUMPYRO and importlib.util.find_spec("numpyro") is None:
            print("NumPyro is not installed (extra 'bench'); leaving it out")
            continue
        rivals[name] = make_rival(name, vae, batch_size)
    steps = max(5, min(flags.steps, flags.steps * 128 // batch_size))
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for index in range(flags.rounds + 1):
        # The first round compiles, and warms up; its time does not count.
        torch.manual_seed(index)
        order = torch.randperm(len(data.train))
        need = steps * batch_size
        chosen = order.repeat(-(-need // len(order)))[:need]
        batches = data.train[chosen].split(batch_size)
        for name, rival in rivals.items():
            started = time.perf_counter()
            rival.steps(batches)
            if index:
                elapsed = time.perf_counter() - started
                times[name].append(1e3 * elapsed / steps)
        print(f"{pair}, batch {batch_size}: round {index}/{flags.rounds}")
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = []
    for name, rival in rivals.items():
        rival.finish()
        elbo = None
        if rival.vae is not None:
            terms = evaluate(rival.vae, data.test)
            elbo = terms[0] - terms[1]
        rows.append(
            {
                "what": pair,
                "batch_size": batch_size,
                "rival": name,
                "ms": medians[name],
                "ms_fastest": min(times[name]),
                "times_faster_than_svi": medians[SVI] / medians[name],
                "times_faster_than_numpyro": medians.get(NUMPYRO, float("nan"))
                / medians[name],
                "steps": steps * (flags.rounds + 1),
                "test_elbo": elbo,
            }
        )
    return rows


def time_fits(flags: Flags) -> Iterator[Row]:
    """Times whole runs of scripts/fit.py, figures and all."""
    if not flags.fit_epochs:
        return
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (engine, precision, warm) in FITS.items():
            cache = Path(folder, precision if warm else f"cold-{precision}")
            if warm:
                Path(folder, f"cold-{precision}").rename(cache)
            output = Path(folder, "run")
            command = [
                *(sys.executable, str(Path(__file__).with_name("fit.py"))),
                *("--dataset", flags.dataset, "--output", str(output)),
                *("--epochs", str(flags.fit_epochs), "--overwrite"),
                *("--engine", engine, "--matmul-precision", precision),
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
            seconds[name] = time.perf_counter() - started
            trace = read_history(output / HISTORY)
            print(f"fit.py, {name}: {seconds[name]:.1f} s")
            ends = [record["seconds"] for record in trace]
            epochs = [b - a for a, b in itertools.pairwise(ends)]
            for what, value, base in (
                (f"fit.py, {flags.fit_epochs} epochs", seconds[name], True),
                (
                    "fit.py, one epoch (median)",
                    statistics.median(epochs),
                    False,
                ),
            ):
                yield {
                    "what": what,
                    "rival": name,
                    "ms": 1e3 * value,
                    "times_faster_than_eager": seconds["eager"] / value
                    if base
                    else None,
                    "steps": trace[-1]["step"],
                    "test_elbo": trace[-1]["test_elbo"],
                }


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Adds a column that says which targets a row meets or misses."""
    chosen = (table["batch_size"] == 128) & (table["what"] == next(iter(PAIRS)))
    ms = dict(zip(table["rival"][chosen], table["ms"][chosen], strict=True))
    sentences: dict[str, list[str]] = {}
    for rival, other, target in TARGETS:
        if rival in ms and other in ms:
            ratio = ms[other] / ms[rival]
            word = "met" if ratio >= target else "MISSED"
            sentences.setdefault(rival, []).append(
                f"{word}: {ratio:.2f} times as fast as {other}, "
                f"target {target:.2f}"
            )
    targets = [
        "; ".join(sentences.get(rival, [])) if is_chosen else ""
        for rival, is_chosen in zip(table["rival"], chosen, strict=True)
    ]
    return table.assign(targets=targets)


def spread(table: pd.DataFrame) -> str:
    """Says how far apart the rivals' ELBOs are after the same steps."""
    lines = ["test ELBO after the same steps, lowest and highest rival:"]
    for (what, size), group in table.groupby(["what", "batch_size"]):
        elbos = group["test_elbo"].dropna()
        lines.append(
            f"  {what}, batch {size:.0f}: {elbos.min():.2f} {elbos.max():.2f}"
        )
    return "\n".join(lines)


def machine() -> str:
    """The processor and what torch uses of it."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name")
    return (
        f"{cpu or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )


def versions() -> str:
    found = [f"python {platform.python_version()}"]
    for package in ("torch", "pyro-ppl", "jax", "numpyro", "pyro-vae"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    run(main)
