"""The figures of a run: what `fit` draws of a VAE and its data."""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import figures
from pyro_vae.data import Dataset
from pyro_vae.evaluation import assign
from pyro_vae.parts.distributions import NormalMixture, center
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.vae import VAE

ROW = 10  # images


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


def draw_images(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """Draws real images, samples and reconstructions; by the figure's name."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.train), generator=generator)[:100]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        samples = vae.sample(100)
    columns = min(10, len(data.test))
    x = data.test[: 5 * columns].to(samples.device)
    x = x[: len(x) // columns * columns].unflatten(0, (-1, columns))
    means = vae.reconstruct(x.flatten(0, 1)).view_as(x)
    pairs = torch.stack([x, means], dim=1).flatten(0, 2)

    def grid(images: Tensor, columns: int, title: str) -> Figure:
        arrays = images.cpu().numpy()
        return figures.image_grid(arrays, data.image_shape, columns, title)

    return {
        "data": grid(data.train[chosen], 10, f"Images of {data.name}"),
        "samples": grid(samples, 10, "Mean images of samples from the prior"),
        "reconstructions": grid(
            pairs, columns, "Test images, each above its reconstruction"
        ),
    }


def draw_latents(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """Draws the test set in latent space, and what the decoder makes of it."""
    test = data.test.to(next(vae.parameters()).device)
    labels = None if data.test_labels is None else data.test_labels.numpy()
    prior = vae.prior()
    if prior.has_enumerate_support:
        return {
            "usage": draw_usage(vae, test, labels),
            "components": draw_states(vae, test, data.image_shape),
        }
    z = torch.cat([center(vae.infer(x)) for x in test.split(1000)])

    def generate(latents: np.ndarray) -> np.ndarray:
        return vae.generate(torch.as_tensor(latents).to(z)).cpu().numpy()

    points = z.cpu().numpy()
    drawn = {"manifold": figures.manifold(generate, points, data.image_shape)}
    if not isinstance(prior, NormalMixture):
        return {**drawn, "latent": figures.latent_scatter(points, labels)}
    components = (prior.loc.cpu().numpy(), prior.scale.cpu().numpy())
    return {
        **drawn,
        "latent": figures.latent_scatter(points, labels, components),
        "usage": draw_usage(vae, test, labels),
        "components": figures.image_grid(
            generate(draw_rows(prior)),
            data.image_shape,
            ROW,
            "Samples, a component a row",
        ),
    }


def draw_usage(vae: VAE, test: Tensor, labels: np.ndarray | None) -> Figure:
    """Draws how many test images each state takes, by their labels."""
    return figures.state_usage(
        assign(vae, test).numpy(), labels, vae.num_states
    )


def draw_rows(mixture: NormalMixture) -> np.ndarray:
    """Draws `ROW` latents from each component, `(K * ROW, P)`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = mixture.component_distribution.sample((ROW,))
    return z.transpose(0, 1).flatten(0, 1).cpu().numpy()


def draw_states(vae: VAE, test: Tensor, image_shape: tuple[int, ...]) -> Figure:
    """Draws the mean image of each state, or a row for each variable.

    In the row of a variable the others keep the state that is most usual on
    the test set.
    """
    num_variables, num_components = vae.prior().logits.shape[-2:]
    usual = torch.cat([vae.infer(x).mean for x in test.split(1000)]).mean(0)
    usual = usual.view(num_variables, num_components).argmax(-1)
    states = torch.eye(num_components).to(test)
    z = states[usual].expand(num_variables, num_components, -1, -1).clone()
    for variable in range(num_variables):
        z[variable, :, variable] = states
    images = vae.generate(z.flatten(-2).flatten(0, 1)).cpu().numpy()
    if num_variables == 1:
        columns = math.ceil(math.sqrt(num_components))
        title = f"The mean images of the {num_components} states"
    else:
        columns = num_components
        title = "Each row changes one variable, the others as usual"
    return figures.image_grid(images, image_shape, columns, title)
