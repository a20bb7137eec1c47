"""The figures of a run: what `fit` draws of a VAE and its data."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from pyro_vae import figures
from pyro_vae.data import Dataset
from pyro_vae.data.draws import draw_once
from pyro_vae.figures.questions import find_white
from pyro_vae.parts.distributions import NormalMixture
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.vae import VAE


@torch.no_grad()
def draw_run(vae: VAE, data: Dataset, folder: Path) -> dict[str, Figure]:
    """Draws what a run has learned; by the figure's name.

    Args:
        vae: The fitted VAE.
        data: The data that it was fitted to.
        folder: The run's folder, with its history.
    """
    elbo = figures.elbo_curves(read_history(folder / HISTORY))
    return {**draw_images(vae, data), **draw_latents(vae, data), "elbo": elbo}


@torch.no_grad()
def draw_images(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """Draws real images, samples and reconstructions; by the figure's name."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.train), generator=generator)[:100]
    shown = data.train[chosen]
    if data.is_binary:  # as training draws them anew in each epoch
        shown = draw_once(shown, seed=0)
    white = find_white(data.test)
    shape, few = data.image_shape, slice(50)
    labels = None if data.test_labels is None else data.test_labels[few]
    drawn = {
        "data": figures.image_grid(
            shown.numpy() / white, shape, 10, f"Images of {data.name}"
        ),
        "samples": figures.plot_samples(vae, image_shape=shape),
        "reconstructions": figures.plot_reconstructions(
            vae, data.test[few], labels, shape
        ),
    }
    if data.test[few].isnan().any():
        drawn["imputations"] = figures.plot_imputations(
            vae, data.test[few], labels, shape
        )
    return drawn


def draw_latents(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """Draws the test set in latent space, and what the decoder makes of it."""
    x, labels, shape = data.test, data.test_labels, data.image_shape
    prior, drawn = vae.prior(), {}
    if not prior.has_enumerate_support:
        drawn["latent"] = figures.plot_latents(vae, x, labels)
        if not vae.num_labels:  # whose samples show all classes
            drawn["manifold"] = figures.plot_manifold(vae, x, shape)
    if prior.has_enumerate_support or isinstance(prior, NormalMixture):
        drawn["usage"] = figures.plot_usage(vae, x, labels)
        if not vae.num_labels:
            drawn["components"] = figures.plot_components(vae, x, shape)
    return drawn
