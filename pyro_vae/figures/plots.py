"""Pictures of a VAE in one line, for notebooks: tensors in, a figure out.

Each figure shows itself where it is the last line of a notebook's cell, and
`figure.savefig("name.png")` writes it to a file.
"""

import math
from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.evaluation import assign, evaluation_mode, place_labels
from pyro_vae.figures.images import image_grid, manifold
from pyro_vae.figures.latents import latent_scatter
from pyro_vae.figures.questions import (
    ROW,
    ImageShape,
    as_array,
    check_continuous,
    draw_rows,
    draw_samples,
    find_centers,
    find_white,
    first_parameter,
    infer_all,
    label_array,
    shape_of,
)
from pyro_vae.figures.style import Array
from pyro_vae.figures.usage import state_usage
from pyro_vae.parts.distributions import NormalMixture
from pyro_vae.vae import VAE


def plot_latents(vae: VAE, x: Tensor, labels: Tensor | None = None) -> Figure:
    """Draws the centers of q(z given x), colored by label.

    A mixture's components are drawn as ellipses.

    Args:
        vae: A VAE with continuous latents.
        x: Images, `(B, D)`.
        labels: Their labels, `(B,)` integers; a conditional VAE needs them.

    Raises:
        ValueError: If the latents are discrete.

    Examples:
        >>> from pyro_vae import Config, build
        >>> from pyro_vae.data import load
        >>> from pyro_vae.figures import plot_latents
        >>> data = load("digits")
        >>> vae = build(Config(), data.data_dim)
        >>> figure = plot_latents(vae, data.test, data.test_labels)
    """
    prior = check_continuous(vae, "plot_latents")
    points = find_centers(vae, x, labels)
    components = None
    if isinstance(prior, NormalMixture):
        components = (as_array(prior.loc), as_array(prior.scale))
    return latent_scatter(points, label_array(labels), components)


def plot_manifold(
    vae: VAE, x: Tensor, image_shape: ImageShape = None, size: int = 20
) -> Figure:
    """Draws the mean images on a grid over the range of images' latents.

    Args:
        vae: A VAE with continuous latents, and without labels.
        x: The images whose latents span the grid, `(B, D)`.
        image_shape: `(height, width)` or `(3, height, width)`; by default the
            shape that the VAE was built for, or a square.
        size: The number of images along each axis.

    Raises:
        ValueError: If the latents are discrete, the VAE is conditional, or the
            shape does not fit.

    Examples:
        >>> from pyro_vae import Config, build
        >>> from pyro_vae.data import load
        >>> from pyro_vae.figures import plot_manifold
        >>> data = load("digits")
        >>> vae = build(Config(), data.data_dim)
        >>> figure = plot_manifold(vae, data.test, size=10)
    """
    check_continuous(vae, "plot_manifold")
    if vae.num_labels:
        raise ValueError(
            "plot_manifold was given a conditional VAE, whose images depend on "
            "labels, too; expected one without: use vae.given(label)"
        )

    def generate(z: Array) -> Array:
        with torch.no_grad(), evaluation_mode(vae):
            return as_array(
                vae.generate(torch.as_tensor(z).to(first_parameter(vae)))
            )

    z = find_centers(vae, x, None)
    return manifold(generate, z, shape_of(vae, x, image_shape), size)


def plot_samples(
    vae: VAE, n: int = 100, image_shape: ImageShape = None, seed: int = 0
) -> Figure:
    """Draws the mean images of latents from the prior.

    Args:
        vae: The VAE. A conditional one has a row for each class and a column
            for each of ten latents.
        n: The number of latents, without labels.
        image_shape: As `plot_manifold` has it.
        seed: The seed of the draws.

    Raises:
        ValueError: If the shape does not fit.

    Examples:
        >>> from pyro_vae import Config, build
        >>> from pyro_vae.figures import plot_samples
        >>> figure = plot_samples(build(Config(), data_dim=64), n=20)
    """
    images = draw_samples(vae, n, seed)
    title = "Mean images of samples from the prior"
    if vae.num_labels:
        title = "Mean images of samples, a class a row, a z a column"
    return image_grid(
        as_array(images / find_white(images)),
        shape_of(vae, images, image_shape),
        ROW,
        title,
    )


def plot_reconstructions(
    vae: VAE,
    x: Tensor,
    labels: Tensor | None = None,
    image_shape: ImageShape = None,
) -> Figure:
    """Draws images, each above its reconstruction, ten to a row.

    Args:
        vae: The VAE.
        x: Images, `(B, D)`.
        labels: Their labels, `(B,)`, of a conditional VAE.
        image_shape: As `plot_manifold` has it.

    Raises:
        ValueError: If the shape does not fit.

    Examples:
        >>> from pyro_vae import Config, build
        >>> from pyro_vae.data import load
        >>> from pyro_vae.figures import plot_reconstructions
        >>> data = load("digits")
        >>> vae = build(Config(), data.data_dim)
        >>> figure = plot_reconstructions(vae, data.test[:20])
    """
    title = "Test images, each above its reconstruction"
    shape = shape_of(vae, x, image_shape)
    return _draw_pairs(vae, x, labels, shape, vae.reconstruct, title)


def plot_imputations(
    vae: VAE,
    x: Tensor,
    labels: Tensor | None = None,
    image_shape: ImageShape = None,
) -> Figure:
    """Draws images with missing values, each above the one filled in.

    Args:
        vae: A VAE that takes missing values.
        x: Images, `(B, D)`, with NaN, which is drawn in blue.
        labels: Their labels, `(B,)`, of a conditional VAE.
        image_shape: As `plot_manifold` has it.

    Raises:
        ValueError: If the shape does not fit, or the VAE takes no NaN.

    Examples:
        >>> from pyro_vae import Config, build
        >>> from pyro_vae.data import load
        >>> from pyro_vae.figures import plot_imputations
        >>> data = load("digits")
        >>> vae = build(Config(missing=True), data.data_dim)
        >>> x = data.test[:10].clone()
        >>> x[:, :16] = float("nan")
        >>> figure = plot_imputations(vae, x)
    """

    def fill(images: Tensor, known: Tensor | None) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return vae.impute(images, labels=known)

    title = "Test images (blue: not observed), each above its imputation"
    shape = shape_of(vae, x, image_shape)
    return _draw_pairs(vae, x, labels, shape, fill, title)


def _draw_pairs(
    vae: VAE,
    x: Tensor,
    labels: Tensor | None,
    shape: Sequence[int],
    answer: Callable[[Tensor, Tensor | None], Tensor],
    title: str,
) -> Figure:
    """Draws whole rows of images, each above what a function makes of it."""
    columns = min(ROW, len(x))
    x = x[: len(x) // columns * columns].to(first_parameter(vae).device)
    known = place_labels(vae, labels)
    known = None if known is None else known[: len(x)]
    with evaluation_mode(vae):
        answers = answer(x, known)
    both = [part.unflatten(0, (-1, columns)) for part in (x, answers)]
    pairs = torch.stack(both, dim=1).flatten(0, 2)
    return image_grid(as_array(pairs) / find_white(x), shape, columns, title)


def plot_usage(vae: VAE, x: Tensor, labels: Tensor | None = None) -> Figure:
    """Draws how many images each discrete state takes, by their labels.

    Args:
        vae: A VAE with discrete latents, or a mixture.
        x: Images, `(B, D)`.
        labels: Their labels, `(B,)` integers; a conditional VAE needs them.

    Examples:
        >>> from pyro_vae import Config, build
        >>> from pyro_vae.data import load
        >>> from pyro_vae.figures import plot_usage
        >>> data = load("digits")
        >>> vae = build(Config(prior="categorical"), data.data_dim)
        >>> figure = plot_usage(vae, data.test, data.test_labels)
    """
    images = x.to(first_parameter(vae).device)
    states = assign(vae, images, place_labels(vae, labels)).numpy()
    return state_usage(states, label_array(labels), vae.num_states)


@torch.no_grad()
def plot_components(
    vae: VAE, x: Tensor, image_shape: ImageShape = None
) -> Figure:
    """Draws the mean images of discrete states, or samples of components.

    A mixture has a row of samples for each component. Several discrete
    variables have a row each, in which the others keep the state that is most
    usual for some images.

    Args:
        vae: A VAE with discrete latents, or a mixture; without labels.
        x: Images, `(B, D)`.
        image_shape: As `plot_manifold` has it.

    Examples:
        >>> from pyro_vae import Config, build
        >>> from pyro_vae.data import load
        >>> from pyro_vae.figures import plot_components
        >>> data = load("digits")
        >>> vae = build(Config(prior="categorical"), data.data_dim)
        >>> figure = plot_components(vae, data.test)
    """
    prior, shape = vae.prior(), shape_of(vae, x, image_shape)
    if isinstance(prior, NormalMixture):
        images = as_array(vae.generate(draw_rows(prior)))
        rows = [f"c{k}" for k in range(vae.num_states)]
        return image_grid(
            images, shape, ROW, "Samples, a component a row", (), rows
        )
    num_variables, num_components = prior.logits.shape[-2:]
    usual = torch.cat([q.mean for q in infer_all(vae, x, None)]).mean(0)
    usual = usual.view(num_variables, num_components).argmax(-1)
    states = torch.eye(num_components).to(prior.logits)
    z = states[usual].expand(num_variables, num_components, -1, -1).clone()
    for variable in range(num_variables):
        z[variable, :, variable] = states
    images = as_array(vae.generate(z.flatten(-2).flatten(0, 1)))
    names = [str(i % num_components) for i in range(len(images))]
    if num_variables == 1:
        columns = math.ceil(math.sqrt(num_components))
        title = f"The mean images of the {num_components} states"
        return image_grid(images, shape, columns, title, names)
    title = "Each row changes one variable, the others as usual"
    rows = [f"$z_{{{i + 1}}}$" for i in range(num_variables)]
    return image_grid(images, shape, num_components, title, names, rows)
