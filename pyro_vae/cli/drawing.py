"""The figures of a run: what `fit` draws of a VAE and its data."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import figures
from pyro_vae.data import Dataset
from pyro_vae.evaluation import assign, zip_batches
from pyro_vae.parts.distributions import NormalMixture, center
from pyro_vae.randomness import random_stream
from pyro_vae.runs.history import HISTORY, read_history
from pyro_vae.training import place_labels
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


@torch.no_grad()
def draw_images(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """Draws real images, samples and reconstructions; by the figure's name."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.train), generator=generator)[:100]
    columns = min(10, len(data.test))
    x = data.test[: 5 * columns].to(next(vae.parameters()).device)
    x = x[: len(x) // columns * columns].unflatten(0, (-1, columns))
    labels = place_labels(vae, data.test_labels)
    labels = None if labels is None else labels[: x.shape[0] * columns]
    means = vae.reconstruct(x.flatten(0, 1), labels).view_as(x)
    pairs = torch.stack([x, means], dim=1).flatten(0, 2)

    title = "Mean images of samples from the prior"
    if vae.num_labels:
        title = "Mean images of samples, a class a row, a z a column"

    test = data.test.nan_to_num(0.0)
    white = max(1.0, float(test.max())) if len(test) else 1.0

    def grid(images: Tensor, columns: int, title: str) -> Figure:
        arrays = images.cpu().numpy() / white  # counts go beyond 1
        return figures.image_grid(arrays, data.image_shape, columns, title)

    drawn = {
        "data": grid(data.train[chosen], 10, f"Images of {data.name}"),
        "samples": grid(draw_samples(vae), ROW, title),
        "reconstructions": grid(
            pairs, columns, "Test images, each above its reconstruction"
        ),
    }
    if x.isnan().any():
        with random_stream(0, 0, x.device):
            whole = vae.impute(x.flatten(0, 1), labels=labels).view_as(x)
        pairs = torch.stack([x, whole], dim=1).flatten(0, 2)
        title = "Test images (blue: not observed), each above its imputation"
        drawn["imputations"] = grid(pairs, columns, title)
    return drawn


@torch.no_grad()
def draw_samples(vae: VAE) -> Tensor:
    """Returns mean images of `ROW` latents for each class, or of 100 latents.

    The classes share their latents, so that a column has one z.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if not vae.num_labels:
            return vae.sample(100)
        z = vae.prior().sample(torch.Size([ROW]))
    labels = torch.arange(vae.num_labels).view(-1, 1)
    return vae.generate(z.expand(vae.num_labels, -1, -1), labels).flatten(0, 1)


def infer_all(vae: VAE, data: Dataset) -> Iterator[Distribution]:
    """Yields q(z | x) of the test images, batch by batch."""
    test = data.test.to(next(vae.parameters()).device)
    for batch in zip_batches(test, place_labels(vae, data.test_labels), 1000):
        yield vae.infer(*batch)


@torch.no_grad()
def draw_latents(vae: VAE, data: Dataset) -> dict[str, Figure]:
    """Draws the test set in latent space, and what the decoder makes of it."""
    labels = None if data.test_labels is None else data.test_labels.numpy()
    prior = vae.prior()
    if prior.has_enumerate_support:
        drawn = {"usage": draw_usage(vae, data)}
        if not vae.num_labels:  # whose samples show all classes
            drawn["components"] = draw_states(vae, data)
        return drawn
    z = torch.cat([center(q) for q in infer_all(vae, data)])
    points = z.cpu().numpy()
    if vae.num_labels:
        return {"latent": figures.latent_scatter(points, labels)}

    def generate(latents: np.ndarray) -> np.ndarray:
        return vae.generate(torch.as_tensor(latents).to(z)).cpu().numpy()

    drawn = {"manifold": figures.manifold(generate, points, data.image_shape)}
    if not isinstance(prior, NormalMixture):
        return {**drawn, "latent": figures.latent_scatter(points, labels)}
    components = (prior.loc.cpu().numpy(), prior.scale.cpu().numpy())
    return {
        **drawn,
        "latent": figures.latent_scatter(points, labels, components),
        "usage": draw_usage(vae, data),
        "components": figures.image_grid(
            generate(draw_rows(prior)),
            data.image_shape,
            ROW,
            "Samples, a component a row",
        ),
    }


def draw_usage(vae: VAE, data: Dataset) -> Figure:
    """Draws how many test images each state takes, by their labels."""
    labels = data.test_labels
    test = data.test.to(next(vae.parameters()).device)
    return figures.state_usage(
        assign(vae, test, place_labels(vae, data.test_labels)).numpy(),
        None if labels is None else labels.numpy(),
        vae.num_states,
    )


def draw_rows(mixture: NormalMixture) -> np.ndarray:
    """Draws `ROW` latents from each component, `(K * ROW, P)`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = mixture.component_distribution.sample((ROW,))
    return z.transpose(0, 1).flatten(0, 1).cpu().numpy()


def draw_states(vae: VAE, data: Dataset) -> Figure:
    """Draws the mean image of each state, or a row for each variable.

    In the row of a variable the others keep the state that is most usual on
    the test set.
    """
    num_variables, num_components = vae.prior().logits.shape[-2:]
    usual = torch.cat([q.mean for q in infer_all(vae, data)]).mean(0)
    usual = usual.view(num_variables, num_components).argmax(-1)
    states = torch.eye(num_components).to(vae.prior().logits)
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
    return figures.image_grid(images, data.image_shape, columns, title)
