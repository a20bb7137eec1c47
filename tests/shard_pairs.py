"""A user's own pair in several processes, by CompiledSVI or Pyro's SVI."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from pyro.optim import ClippedAdam
from torch import nn

from pyro_vae.svi import CompiledSVI, make_svi

SIZES = 3 * [8, 7, 2, 8, 8, 1]
NUM_DATA = 50
OWN_CASES = {
    "own": {"clip_norm": 5.0},
    "own, eager": {"clip_norm": 5.0},
    "own, an error in one process": {},
}
OWN_REFUSED = {
    "own, site": "site 'w' of the guide is not of the rows",
    "own, factor": "site 'penalty' of the guide is not of the rows",
    "own, subsample": "the plate 'data' of the guide draws its own rows",
    "own, buffer": "the step changes a buffer of shape (3,)",
    "own, average": "the step keeps a running average of the loss",
    "own, dynamic": "the random draws depend on the number of images",
    "own, fixed": "the step cannot be taken with",
}


class Own:
    """A regression with a latent of each row, and parameters drawn late."""

    def __init__(self, name):
        self.name = name
        self.norm = nn.BatchNorm1d(3)
        self.weights = torch.ones(1)

    def is_named(self, name):
        return self.name == f"own, {name}"

    def start(self, rows):
        """Sees the rows of a step."""
        if self.is_named("fixed"):
            self.weights = torch.ones(rows, 1)

    def plate(self, x, share):
        if self.is_named("subsample"):
            return pyro.plate("data", 1 + len(x), len(x))
        return pyro.plate("data", share, subsample=torch.arange(len(x)))

    def model(self, x, share):
        if self.is_named("site"):
            pyro.sample("w", dist.Normal(0.0, 1.0))
        if self.is_named("buffer"):
            x = self.norm(x)
        if self.is_named("dynamic") and len(x) % 2:
            torch.rand(1)
        x = x * self.weights
        infer = {}
        if self.is_named("average"):
            infer["baseline"] = {"use_decaying_avg_baseline": True}
        with self.plate(x, share) as index:
            index = index % len(x)
            z = pyro.sample("z", dist.Normal(x[index, 0], 1), infer=infer)
            probs = torch.full((len(index),), 0.3)
            b = pyro.sample("b", dist.Bernoulli(probs))
            pyro.sample("y", dist.Normal(z + b, 1), obs=x[index, 1])

    def guide(self, x, share):
        if self.is_named("site"):
            pyro.sample("w", dist.Normal(pyro.param("loc", torch.ones(())), 1))
        if self.is_named("factor"):  # which is 0 in the first step
            shift = pyro.param("shift", torch.zeros(()))
            pyro.factor("penalty", -shift, has_rsample=True)
        slope = pyro.param("slope", lambda: torch.randn(3))
        scale = pyro.param(
            "scale", lambda: torch.rand(()), constraint=constraints.positive
        )
        probs = pyro.param("probs", torch.tensor(0.4))
        kind = dist.Normal
        infer = {}
        if self.is_named("average"):
            kind = NonreparameterizedNormal
            infer["baseline"] = {"use_decaying_avg_baseline": True}
        with self.plate(x, share) as index:
            index = index % len(x)
            pyro.sample("z", kind(x[index] @ slope, scale), infer=infer)
            pyro.sample("b", dist.Bernoulli(probs.expand(len(index))))


def make(own, name, shards):
    """Returns what takes the steps of a pair."""
    loss = TraceGraph_ELBO() if own.is_named("average") else Trace_ELBO()
    pair = (own.model, own.guide, ClippedAdam({"lr": 0.01}), loss)
    options = {**OWN_CASES.get(name, {}), "shards": shards}
    make_it = make_svi if own.is_named("eager") else CompiledSVI
    return make_it(*pair, **options)


def fail(svi, given, shards):
    """Has the last process fail, and the others with it."""
    is_last = shards.rank == shards.world_size - 1
    try:
        svi.step(*given, **({"odd": object()} if is_last else {}))
    except ValueError as error:
        assert "an argument of the step is <object" in str(error)
    else:
        raise AssertionError("a process has failed, and the step was taken")


def train_own(name, shards):
    """Returns the losses and parameters of steps, or why they are refused."""
    own, losses = Own(name), []
    images = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with pyro.get_param_store().scope():
        svi = make(own, name, shards)
        for number, size in enumerate(SIZES):
            if own.is_named("average"):  # which Pyro keeps for each row
                size = SIZES[0]
            x = torch.randn(size, 3, generator=images)
            given = (x[shards.begin(size)], shards.share(NUM_DATA))
            own.start(len(given[0]))
            if own.is_named("an error in one process") and number == 10:
                fail(svi, given, shards)
            try:
                losses.append(svi.step(*given))
            except ValueError as error:
                return str(error)
        if isinstance(svi, CompiledSVI):
            losses.append(svi.evaluate_loss(*given))
        params = pyro.get_param_store().named_parameters()
        values = {key: value.detach().clone() for key, value in params}
    return [{"loss": value} for value in losses], values
