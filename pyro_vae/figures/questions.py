"""What the figures ask of a VAE: latents, images, and their shape."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.evaluation import evaluation_mode, place_labels, zip_batches
from pyro_vae.figures.latents import Labels
from pyro_vae.figures.style import Array
from pyro_vae.parts.distributions import NormalMixture, center
from pyro_vae.vae import VAE

ROW = 10  # images
AT_A_TIME = 1000  # images

ImageShape = Sequence[int] | None


@torch.no_grad()
def draw_samples(vae: VAE, n: int = 100, seed: int = 0) -> Tensor:
    """Returns mean images of n latents, or of `ROW` latents for each class.

    The classes share their latents, so that a column has one z.

    Args:
        vae: The VAE.
        n: The number of latents, without labels.
        seed: The seed of the draws.
    """
    with torch.random.fork_rng(), evaluation_mode(vae):
        torch.manual_seed(seed)
        if not vae.num_labels:
            return vae.sample(n)
        z = vae.prior().sample(torch.Size([ROW]))
        labels = torch.arange(vae.num_labels).view(-1, 1)
        images = vae.generate(z.expand(vae.num_labels, -1, -1), labels)
    return images.flatten(0, 1)


def draw_rows(mixture: NormalMixture) -> Tensor:
    """Draws `ROW` latents from each component, `(K * ROW, P)`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = mixture.component_distribution.sample((ROW,))
    return z.transpose(0, 1).flatten(0, 1)


@torch.no_grad()
def infer_all(vae: VAE, x: Tensor, labels: Tensor | None) -> list[Distribution]:
    """Returns q(z given x) of images, batch by batch."""
    images = x.to(first_parameter(vae).device)
    batches = zip_batches(images, place_labels(vae, labels), AT_A_TIME)
    with evaluation_mode(vae):
        return [vae.infer(*batch) for batch in batches]


def shape_of(
    vae: VAE, images: Tensor, image_shape: ImageShape
) -> Sequence[int]:
    """Returns the shape of images: the given one, the VAE's, or a square.

    Raises:
        ValueError: If the images are not of that shape.
    """
    size = images.shape[-1]
    shape = image_shape or (vae.recipe or {}).get("image_shape")
    side = math.isqrt(size)
    shape = shape or (side, side)
    if math.prod(shape) != size:
        raise ValueError(
            f"image_shape is {tuple(shape)} for images of {size} pixels; "
            "expected (height, width) or (3, height, width) with that product"
        )
    return shape


def check_continuous(vae: VAE, name: str) -> Distribution:
    """Returns p(z), and refuses discrete latents."""
    prior = vae.prior()
    if prior.has_enumerate_support:
        raise ValueError(
            f"{name} was given a VAE with discrete latents; expected "
            "continuous ones: use plot_usage or plot_components"
        )
    return prior


def find_centers(vae: VAE, x: Tensor, labels: Tensor | None) -> Array:
    """Returns one point for each image's q(z given x), `(B, P)`."""
    return as_array(torch.cat([center(q) for q in infer_all(vae, x, labels)]))


def find_white(images: Tensor) -> float:
    """Returns what is drawn as white: 1, or the largest where there is more.

    Counts go beyond 1.
    """
    return max(1.0, float(images.nan_to_num(0.0).max())) if len(images) else 1.0


def label_array(labels: Tensor | None) -> Labels | None:
    """Returns labels as an array on the CPU, if there are any."""
    return None if labels is None else torch.as_tensor(labels).cpu().numpy()


def first_parameter(vae: VAE) -> Tensor:
    """Returns a tensor of the VAE's device and dtype."""
    return next(vae.parameters())


def as_array(values: Tensor) -> Array:
    """Returns a tensor as an array on the CPU."""
    return values.detach().cpu().numpy()
