"""The memory of a process that takes many compiled steps."""

import gc
import os
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

from pyro_vae.svi import CompiledSVI
from tests.models import keep_the_record

STATM = Path("/proc/self/statm")
ALLOWED = 16 << 20  # bytes, for what allocators and caches keep


def resident() -> int:
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def model(y):
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with pyro.plate("points", len(y)):
        pyro.sample("y", dist.Normal(level, 0.3), obs=y)


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="Linux tells it in /proc")
def test_memory_stays_flat_over_20000_steps_and_50_shapes(monkeypatch):
    keep_the_record(monkeypatch)
    svi = CompiledSVI(model, AutoNormal(model), Adam({"lr": 1e-3}))
    batches = [torch.randn(size) for size in range(1, 51)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so many graphs
        for _ in range(20):
            for batch in batches:
                svi.step(batch)
    before, graphs = resident(), svi.num_compilations
    for _ in range(20_000 // len(batches)):
        for batch in batches:
            svi.step(batch)
    assert resident() - before < ALLOWED
    assert svi.num_compilations == graphs == len(batches)
