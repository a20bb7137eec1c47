"""Times the step of a fit, and the sum over its processes in it.

    python scripts/studies/processes.py
    torchrun --nproc-per-node 2 scripts/studies/processes.py

The VAE is the default one, on random images of 28 x 28 pixels. Writes rows for
its number of processes into processes.csv, beside those for other numbers: the
median times of a step and of the all-reduce of its one buffer alone, in
milliseconds, and that buffer's size.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from machine import describe_machine, describe_versions

from pyro_vae import Config, build
from pyro_vae.cli.command import run
from pyro_vae.cli.flags import CommandLine, check_at_least_1
from pyro_vae.cli.output import write_table
from pyro_vae.cli.processes import joined
from pyro_vae.data import Dataset
from pyro_vae.svi import Shards
from pyro_vae.training.loop import take_step
from pyro_vae.training.trainer import Trainer

CSV = "processes.csv"
KEYS = ["engine", "batch_size", "processes"]


@dataclass(frozen=True)
class Flags:
    """All flags of the study.

    Attributes:
        output: Folder for processes.csv.
        batch_sizes: B, the images of a minibatch, of all processes together.
        engines: What steps are taken with.
        steps: Steps that are timed, after a sixth as many that are not.
    """

    output: Path = Path("results/processes")
    batch_sizes: tuple[int, ...] = (128, 1024)
    engines: tuple[str, ...] = ("eager", "compiled")
    steps: int = 60


def main(command: CommandLine[Flags]) -> None:
    """Times the steps, and writes the table."""
    flags = command.parse()
    check_at_least_1(flags, "steps")
    path = flags.output / CSV
    with joined() as shards:
        rows = [
            time_steps(shards, engine, size, flags.steps)
            for engine in flags.engines
            for size in flags.batch_sizes
        ]
        if shards.rank > 0:
            return
        old = pd.read_csv(path) if path.exists() else pd.DataFrame()
        table = pd.concat([old, pd.DataFrame(rows)])
        table = table.drop_duplicates(KEYS, keep="last").sort_values(KEYS)
        flags.output.mkdir(parents=True, exist_ok=True)
        write_table(table, path)
        print("\n".join(write_lines(table)))


def time_steps(
    shards: Shards, engine: str, size: int, steps: int
) -> dict[str, Any]:
    """Returns the row of an engine and a size of minibatches."""
    torch.manual_seed(0)
    images = torch.rand(10 * size, 784)
    data = Dataset("random", images, images[:10])
    config = Config(batch_size=size, epochs=1, engine=engine, device="cpu")
    vae = build(config, 784)
    trainer = Trainer(vae, data, config, shards)
    trainer.compile()
    index = torch.arange(size)

    def step() -> None:
        take_step(trainer, images[index[shards.begin(size)]], index, {})

    whole = find_median(step, steps)
    buffer = torch.zeros(sum(p.numel() for p in vae.parameters()))
    alone = None
    if not shards.is_alone:
        alone = find_median(lambda: shards.sum([buffer]), steps)
    return {
        "engine": engine,
        "batch_size": size,
        "processes": shards.world_size,
        "step_ms": whole,
        "all_reduce_ms": alone,
        "megabytes": buffer.numel() * buffer.element_size() / 1e6,
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def find_median(step: Callable[[], object], steps: int) -> float:
    """Returns the median time of a step, in milliseconds."""
    times = []
    warm_up = 1 + steps // 6
    for _ in range(warm_up + steps):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return 1e3 * float(torch.tensor(times[warm_up:]).median())


def write_lines(table: pd.DataFrame) -> list[str]:
    """Returns the table in Markdown."""
    lines = ["| engine | B | processes | step | all-reduce |"]
    lines.append("|---|---|---|---|---|")
    for row in table.itertuples():
        alone = "" if pd.isna(row.all_reduce_ms) else f"{row.all_reduce_ms:.1f}"
        lines.append(
            f"| {row.engine} | {row.batch_size} | {row.processes} | "
            f"{row.step_ms:.1f} | {alone} |"
        )
    return lines


if __name__ == "__main__":
    run(main, Flags, __doc__)
