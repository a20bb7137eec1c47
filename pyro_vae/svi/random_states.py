"""The states of torch's random generators, read and put back."""

import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def get_random_states() -> list[Tensor]:
    """Returns the state of the CPU's generator, and of each CUDA device's."""
    if not torch.cuda.is_initialized():
        return [torch.get_rng_state()]
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def set_random_states(states: list[Tensor]) -> None:
    """Puts back the states that `get_random_states` returned."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def are_same_states(left: list[Tensor], right: list[Tensor]) -> bool:
    """Returns whether two results of `get_random_states` are equal."""
    return len(left) == len(right) and all(map(torch.equal, left, right))


def list_other_states() -> dict[str, Any]:
    """Returns what to compare the other generators' states by, by a name."""
    return {
        "the state of Python's random module": random.getstate(),
        "the state of NumPy's random module": pickle.dumps(
            np.random.get_state()
        ),
    }


@contextmanager
def keep_random_states(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Puts torch's, Python's and NumPy's random states back afterwards.

    Within the block Python and NumPy draw other numbers every time, so that
    two recordings of a pair that uses them differ.

    Args:
        inputs: Tensors on the devices that are used within the block.
    """
    devices = {tensor.device for tensor in inputs if tensor.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        random.seed()
        np.random.seed()
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
