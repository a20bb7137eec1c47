"""Fits by several processes, and by one, to be compared."""

import os
import warnings
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from pyro_vae import Config, build, fit
from pyro_vae.data import Dataset, Rows
from pyro_vae.evaluation import elbo
from pyro_vae.svi import NonFiniteLossError, Shards
from pyro_vae.svi.graphs import Program
from tests.models import PAIRS, bend, without_timing
from tests.shard_pairs import OWN_CASES, OWN_REFUSED, train_own

WORLDS = (2, 3)
LONG, LONG_COMPILED = "200 steps", "200 steps, compiled"
INDUCTOR = "inductor"
FILE = "images in a file"
COMPILED = (
    "normal, laplace",
    "laplace, flow",
    "student-t",
    "poisson",
    "discretized-logistic",
    "iwae",
    "dreg",
    "categorical, score-function",
    "mixture, particles",
    "gumbel",
    "warmup",
    "clipping",
    "dynamic",
    "conditional",
    "labeled",
    "shards without rows",
    "dropout",
    "gamma",
    "nan",
)
SMALL = {
    "epochs": 1,
    "batch_size": 8,  # of 15 images: 8 and 7
    "latent_dim": 2,
    "hidden": (4,),
    "device": "cpu",
    "learning_rate": 1e-2,
}
MIXED = {"num_components": 3}


def list_cases():
    """Returns the choices of each fit, by its name."""
    cases = {
        f"{prior}, {guide}": {"prior": prior, "guide": guide}
        for prior, guide in PAIRS
    }
    for likelihood in (
        "student-t",
        "bernoulli",
        "continuous-bernoulli",
        "discretized-logistic",
        "poisson",
        "negative-binomial",
    ):
        cases[likelihood] = {"likelihood": likelihood}
    for objective in ("analytic-kl", "iwae", "renyi", "stl", "dreg"):
        cases[objective] = {"objective": objective, "num_particles": 2}
    for name in ("score-function", "score-function-baseline"):
        for prior in ("normal", "categorical", "mixture"):
            cases[f"{prior}, {name}"] = {"prior": prior, "gradient": name}
    for prior in ("normal", "categorical", "mixture"):
        cases[f"{prior}, particles"] = {"prior": prior, "num_particles": 3}
    cases |= {
        "gumbel": {"prior": "categorical", "gradient": "gumbel-softmax"},
        "learned baseline": {
            "gradient": "score-function-baseline",
            "baseline": "learned",
        },
        "weighted baseline": {
            "gradient": "score-function-baseline",
            "beta": 0.5,
        },
        "warmup": {"warmup": 1, "beta": 2.0, "epochs": 2},
        "clipping": {"gradient_clip": 1e-3, "epochs": 2},
        "dynamic": {"likelihood": "bernoulli", "binarize": "dynamic"},
        "schedule": {"schedule": "cosine", "epochs": 2},
        "stopping": {"early_stopping": 1, "epochs": 3},
        "conditional": {"condition": "labels"},
        "labeled": {"prior": "mixture", "labeled": 3},
        "shards without rows": {"batch_size": 2},
        "one row": {"gradient": "score-function-baseline", "batch_size": 1},
        "free bits": {"free_bits": 0.1},
        "local": {"inference": "local", "e_steps": 3, "epochs": 2},
        "semi-amortized": {"inference": "semi-amortized", "e_steps": 2},
        "e-steps": {"inference": "local", "e_steps": "inf"},
        "dropout": {},
        "batch norm": {},
        "gamma": {},
        "nan": {},
        LONG: {"epochs": 100},  # of 2 steps each
    }
    compiled = {"engine": "compiled"}
    cases |= {f"{name}, compiled": cases[name] | compiled for name in COMPILED}
    return cases | {
        FILE: {"binarize": "dynamic", "likelihood": "bernoulli", "epochs": 2},
        INDUCTOR: {"batch_size": 15, "epochs": 5, **compiled},
        LONG_COMPILED: {"batch_size": 5, "epochs": 67, **compiled},
        **{own: {} for own in [*OWN_CASES, *OWN_REFUSED]},
    }


def worlds_of(name):
    """Returns the numbers of processes that a case is run in."""
    if name == INDUCTOR:
        return WORLDS[:1]
    is_pair = tuple(name.split(", ")) in PAIRS
    is_twin = name in [f"{twin}, compiled" for twin in COMPILED]
    return WORLDS[-1:] if is_pair or is_twin else WORLDS


def make_data(choices):
    """Returns 15 training and 4 test images of 6 pixels."""
    x = torch.rand(19, 6, generator=torch.Generator().manual_seed(3))
    likelihood = choices.get("likelihood")
    if likelihood in ("poisson", "negative-binomial"):
        x = (9 * x).floor()
    elif likelihood == "discretized-logistic":
        x = (255 * x).round() / 255
    elif likelihood == "bernoulli" and "binarize" not in choices:
        x = x.round()
    labels = torch.arange(19) % 3
    return Dataset("random", x[:15], x[15:], labels[:15], labels[15:])


def train(name, choices, shards):
    """Returns a fit's records and its parameters, or why it was refused."""
    if name in OWN_CASES | OWN_REFUSED:
        with backend(name):
            return train_own(name, shards)
    if choices.get("prior") in ("categorical", "mixture"):
        choices = {**MIXED, **choices}
    if shards.is_alone:  # the others are compared with the plainest fit
        choices = {**choices, "engine": "eager"}
    config, data = Config(**{**SMALL, **choices}), make_data(choices)
    torch.manual_seed(0)
    vae = bend(build(config, 6, num_labels=3))
    change(vae, name.removesuffix(", compiled"), shards)
    run = partial(fit, vae, config=config, shards=shards)
    try:
        with backend(name), TemporaryDirectory() as folder:
            if name == FILE:
                records = fit_file(run, data, Path(folder), shards)
            else:
                records = list(run(data))
    except (ValueError, NonFiniteLossError) as error:
        return str(error)
    return without_timing(records), vae.state_dict()


def fit_file(run, data, folder, shards):
    """Fits images that stay in a file, of which each process reads its own."""
    np.save(folder / "images.npy", data.train.numpy())
    images, read = np.load(folder / "images.npy", mmap_mode="r"), []

    def read_some(rows):
        read.extend(rows.tolist())
        return torch.from_numpy(images[rows])

    def check(step, elbo):
        assert len({*read}) == shards.part.count
        read.clear()

    rows, records = Rows(read_some, *data.train.shape), []
    for record in run(replace(data, train=rows), on_step=check):
        read.clear()  # what was read between the epochs
        records.append(record)
    assert type(images) is np.memmap
    return records


def backend(name):
    """Lets Python run recorded graphs, which costs no compilation."""
    if name == INDUCTOR:
        return nullcontext()
    return mock.patch.object(Program, "compile", lambda program, inputs: None)


def change(vae, name, shards):
    """Makes a VAE one that is hard to split."""
    is_last = shards.rank == shards.world_size - 1
    hooks = {
        "dropout": lambda y: nn.functional.dropout(y, 0.2),
        "gamma": lambda y: y * torch._standard_gamma(y.detach().exp()),
        "nan": lambda y: y * (torch.nan if is_last else 1),
    }
    if name == "batch norm":
        vae.likelihood.decoder.norm = nn.BatchNorm1d(6)
    if name in hooks:
        vae.guide.encoder.register_forward_hook(
            lambda network, x, y: hooks[name](y) if vae.training else y
        )


def differ(left, right):
    """Returns the largest difference of two fits, or that they differ."""
    if isinstance(left, str) or isinstance(right, str):
        return right if isinstance(right, str) else f"one process: {left}"
    pairs = [
        (torch.tensor(one[key]), torch.tensor(other[key]))
        for one, other in zip(left[0], right[0], strict=True)
        for key in one
    ]
    pairs += [(value, right[1][key]) for key, value in left[1].items()]
    return max(
        float(((a - b).abs() / (1 + a.abs())).max())
        for a, b in pairs
        if a.numel()
    )


def run_all(rank, folder, names):
    """Runs every case in every world, in one of three processes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    elbo.EVALUATION_BATCH = 3  # of 4 images, so that there are two batches
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=max(WORLDS),
        timeout=timedelta(seconds=60),
    )
    groups = {size: dist.new_group(list(range(size))) for size in WORLDS}
    shards = {size: Shards(group) for size, group in groups.items()}
    cases, outcomes = list_cases(), {}
    for name in names:
        alone = train(name, cases[name], Shards()) if rank == 0 else None
        for size, group in groups.items():
            if rank >= size or size not in worlds_of(name):
                continue
            # A fit knows nothing of the one before it; a pair is no fit.
            is_own = name in OWN_CASES | OWN_REFUSED
            given = Shards(group) if is_own else shards[size]
            ours = train(name, cases[name], given)
            every = [None] * size
            dist.all_gather_object(every, ours, group=group)
            if rank == 0:
                apart = [differ(every[0], other) for other in every]
                outcomes[name, size] = differ(alone, ours), apart
    if rank == 0:
        torch.save(outcomes, f"{folder}/outcomes.pt")
    dist.barrier()
    os._exit(0)  # at an ordinary end, threads of gloo's may still abort it
