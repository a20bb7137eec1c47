"""Times the eager step of a fit, and the sum over its processes in it.

    python scripts/studies/processes.py
    torchrun --nproc-per-node 2 scripts/studies/processes.py

The VAE is the default one, on random images of 28 x 28 pixels. Prints one row:
the processes, the minibatch, the median times of a step and of the all-reduce
of its one buffer alone, in milliseconds, and that buffer's size.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from pyro_vae import Config, build
from pyro_vae.cli.processes import joined
from pyro_vae.data import Dataset
from pyro_vae.svi import Shards
from pyro_vae.training.loop import take_step
from pyro_vae.training.trainer import Trainer

NUM_STEPS, WARM_UP = 60, 10


def median_time(step: Callable[[], object]) -> float:
    """Returns the median time of a step, in milliseconds."""
    times = []
    for _ in range(WARM_UP + NUM_STEPS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return 1e3 * float(torch.tensor(times[WARM_UP:]).median())


def main(shards: Shards, batch_size: int) -> None:
    """Times the steps on minibatches of a size, and prints the row."""
    torch.manual_seed(0)
    images = torch.rand(10 * batch_size, 784)
    data = Dataset("random", images, images[:10])
    config = Config(batch_size=batch_size, epochs=1, engine="eager")
    vae = build(config, 784)
    trainer = Trainer(vae, data, config, shards)
    index = torch.arange(batch_size)

    def step() -> None:
        mine = index[shards.begin(batch_size)]
        take_step(trainer, images[mine], index, {})

    whole = median_time(step)
    buffer = torch.zeros(sum(p.numel() for p in vae.parameters()))
    alone = 0.0
    if not shards.is_alone:
        alone = median_time(lambda: shards.sum([buffer]))
    megabytes = buffer.numel() * buffer.element_size() / 1e6
    print(
        f"| {shards.world_size} | {batch_size} | {whole:.1f} | {alone:.1f} | "
        f"{megabytes:.1f} MB |"
    )


if __name__ == "__main__":
    with joined() as processes:
        for size in (128, 1024):
            main(processes, size)
