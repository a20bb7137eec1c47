"""Random streams that depend on a seed and a number alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


@contextmanager
def random_stream(
    seed: int, stream: int, device: torch.device, part: int = 0
) -> Iterator[None]:
    """Seeds torch's generators for a block, and restores their states after it.

    Args:
        seed: The seed of a run.
        stream: The number of one of its independent streams: 0 for
            evaluations, e for the training of epoch e.
        device: The device whose generator is seeded, beside the CPU's.
        part: The number of one of the stream's independent parts.
    """
    numbers = np.random.SeedSequence((seed, stream, part))
    number = numbers.generate_state(1, np.uint64)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(int(number[0]))
        for cuda in devices:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(int(number[0]))
        yield


def get_random_state(device: torch.device) -> Tensor:
    """Returns the state of a device's generator, a tensor of bytes."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Sets a device's generator to a state.

    Args:
        state: What `get_random_state` returned for such a device.
        device: The device.
    """
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
