"""Models, and what else several test modules share."""

from typing import TypeVar

import torch
from torch import fx, nn

from pyro_vae import (
    VAE,
    Config,
    GaussianLikelihood,
    NormalGuide,
    NormalPrior,
    build,
    fit,
)
from pyro_vae.config.variants import PRIORS
from pyro_vae.objectives import is_analytic
from pyro_vae.parts.flows import Couplings
from pyro_vae.svi import backend, graphs
from pyro_vae.svi.loops.compiler import CompilerError
from pyro_vae.svi.record import record

TIMING = ("seconds", "images_per_second")
PAIRS = [
    (prior, guide)
    for prior, row in PRIORS.items()
    for guide in row.goes_with["guide"]
]
Module = TypeVar("Module", bound=nn.Module)


def bend(module: Module) -> Module:
    """Draws the last layers of a module's couplings, and returns the module.

    A fresh flow is the identity, which would test little.
    """
    for part in module.modules():
        if isinstance(part, Couplings):
            for network in part.networks:
                network.layers[-1].reset_parameters()
    return module


def list_analytic_pairs() -> dict[tuple[str, str], bool]:
    """Returns whether the KL has a closed form, by (prior, guide)."""
    pairs = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for prior, guide in PAIRS:
            config = Config(prior=prior, guide=guide, hidden=(2,))
            vae = build(config, data_dim=4)
            q = vae.infer(torch.zeros(1, 4))
            pairs[prior, guide] = is_analytic(q, vae.prior())
    return pairs


def without_timing(records):
    """Returns a fit's records without what differs from run to run."""
    return [
        {key: value for key, value in record.items() if key not in TIMING}
        for record in records
    ]


def fit_until(last_step, vae, data, config, folder):
    """Fits, and asks for a stop after a step."""
    steps = []
    records = fit(
        vae,
        data,
        config,
        folder,
        on_step=lambda step, elbo: steps.append(step),
        stop=lambda: last_step in steps,
    )
    list(records)
    assert steps[-1] == last_step


NOISE = 0.5  # of the linear VAE


def linear_vae(latent_dim=2, data_dim=6):
    """Returns probabilistic PCA, whose posterior is known."""
    decoder = nn.Linear(latent_dim, data_dim)
    encoder = nn.Linear(data_dim, 2 * latent_dim)
    nn.init.normal_(decoder.weight)
    nn.init.normal_(encoder.weight, std=0.1)
    return VAE(
        NormalPrior(latent_dim),
        GaussianLikelihood(decoder, "fixed", NOISE),
        NormalGuide(encoder),
    )


def exact_posterior(vae, x):
    """Returns the means and the covariance of p(z | x) of a linear VAE."""
    weight, bias = (p.detach() for p in vae.likelihood.decoder.parameters())
    precision = torch.eye(weight.shape[1]) + weight.T @ weight / NOISE**2
    covariance = precision.inverse()
    return (x - bias) @ weight @ covariance / NOISE**2, covariance


@torch.no_grad()
def draw_images(vae, size):
    """Returns images, `(size, D)`, drawn from a VAE."""
    return vae.likelihood(vae.prior().sample((size,))).sample()


def keep_the_record(monkeypatch):
    """Puts the recorded graph itself in the compiled one's place.

    To compile a graph takes seconds of a core, to record it none.
    """
    monkeypatch.setattr(graphs, "compile_record", lambda graph, _: graph)


def use_inductor(monkeypatch):
    """Has Inductor compile, as where there are no loops in C."""

    def refuse(*_):
        raise CompilerError("not here")

    monkeypatch.setattr(backend, "fuse", refuse)


def record_graph(function, inputs):
    """Returns the record of a function that finds no tensors elsewhere."""
    recorded = record(function, inputs)
    assert recorded.constants == []
    return fx.GraphModule({}, recorded.graph)
