"""Exact answers where there are one or two latent dimensions.

The integrals are Gauss-Legendre sums over cells of latent space. All images
share the grid, so that each point is decoded once and meets its images in one
matrix product; a cell is halved, for the images whose mass it holds, until its
parts add up to what it held. An image whose mass goes on outside the box gets a
larger one. docs/quadrature.md explains the rules.

It is our own: the adaptive rules of a library (SciPy's, say) take one integrand
at a time, and would decode every point anew for each image, 10,000 times.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from pyro_vae.evaluation.elbo import evaluation_mode
from pyro_vae.evaluation.grid import (
    SLACK,
    Cells,
    Grid,
    find_centers,
    join,
    log_joint,
    log_sums,
)
from pyro_vae.evaluation.result import FEW, LogMarginal
from pyro_vae.vae import VAE

CELLS = 64  # along each axis, before any is split
SIZES = 12  # of the domain, each of twice the sides
MAX_SPLITS = 12
ROUGH = 6  # splits in the VAE's own precision, the rest in double
NEGLIGIBLE = 20.0  # nats below an image's mass, at which a half is left alone
EDGE = 1e-5  # of an image's mass in the outermost cells, for a larger domain
STEADY = 0.1  # nats, by which a total may move for cells to be left alone


@torch.no_grad()
def integrate(vae: VAE, x: Tensor, tolerance: float = 1e-3) -> LogMarginal:
    r"""Integrates the latents out, exactly up to a tolerance.

    .. math:: \log p(x) = \log \int p(z) p(x \mid z) dz

    Args:
        vae: A VAE with one or two continuous latent dimensions.
        x: Images, `(B, D)`.
        tolerance: The largest error that is accepted, in nats.

    Returns:
        The values, each with an estimate of its error: what the last splits of
        all cells moved, or its geometric mean with the error before if that is
        more, added up without signs.

    Raises:
        ValueError: If the latents are discrete, or more than two, or the
            tolerance is no positive number.
        ArithmeticError: If the error does not become so small.
    """
    check_tolerance(tolerance)
    FEW.check(vae.prior(), "quadrature")
    value, error = (x.new_empty(len(x), dtype=torch.float64) for _ in range(2))
    left = torch.arange(len(x), device=x.device)
    with evaluation_mode(vae):
        low, high = _domain(vae, x)
        for _ in range(SIZES):
            grid = Grid(vae, x[left], low, (high - low) / CELLS, CELLS)
            cells = grid.integrate(*grid.find())
            is_inside = grid.edge_mass(cells) < min(EDGE, tolerance / 100)
            cells = cells.where(is_inside[cells.image])
            found = _refine(grid, cells, tolerance)
            inside = left[is_inside]
            value[inside] = found.value[is_inside]
            error[inside] = found.error[is_inside]
            left = left[~is_inside]
            if not len(left):
                return LogMarginal(value, error)
            margin = (high - low) / 2
            low, high = low - margin, high + margin
    raise ArithmeticError(
        f"{len(left)} images have mass at {low.tolist()} or {high.tolist()}, "
        "in units of z, or farther out; expected it to end before: use method "
        "importance or ais"
    )


def check_tolerance(tolerance: float) -> None:
    """Refuses what no error can be compared with.

    Raises:
        ValueError: If the tolerance is no positive, finite number.
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(
            f"tolerance is {tolerance}; expected a positive, finite number of "
            "nats, such as 0.001"
        )


def _refine(grid: Grid, cells: Cells, tolerance: float) -> LogMarginal:
    """Halves the cells whose parts do not add up to what they held.

    Nothing is settled before all of an image is: a share of a total that may
    still shrink says little.
    """
    num_images, exact = len(grid.x), cache(grid.double)
    value = cells.log_mass.new_full((num_images,), -math.inf)
    error, before = torch.zeros_like(value), value
    while len(cells.cell):
        total = cells.total(num_images)
        depth = torch.where(cells.level == 0, SLACK, NEGLIGIBLE)
        is_light = cells.log_mass < total[cells.image] - depth
        share = (cells.log_error - total[cells.image]).exp().clamp(max=1.0)
        share = torch.where(is_light, 0.0, share)
        errors = torch.zeros_like(total).index_add(0, cells.image, share)
        is_steady = (total - before).abs() < STEADY
        is_done = is_steady & (errors <= tolerance)
        value = torch.where(is_done, total, value)
        error = torch.where(is_done, errors, error)
        is_small = _smallest(share, cells.image, num_images, tolerance / 2)
        is_kept = is_light | (is_small & is_steady[cells.image])
        is_open = ~is_done[cells.image]
        before, old = total, cells.where(is_open & is_kept)
        cells = join(
            [old, *_halve(grid, exact, cells.where(is_open & ~is_kept))]
        )
    return LogMarginal(value, error)


def _halve(
    grid: Grid, exact: Callable[[], Grid], cells: Cells
) -> Iterator[Cells]:
    """Yields the halves of cells, level by level."""
    for level in cells.level.unique().tolist():
        wholes = cells.where(cells.level == level)
        if level == MAX_SPLITS:
            raise ArithmeticError(
                f"the quadrature of {len(wholes.image.unique())} images is not "
                f"exact to the tolerance; expected {MAX_SPLITS} splits of a "
                "cell to be enough: use method importance or ais"
            )
        finer = (grid if level < ROUGH else exact()).halved(level + 1)
        cell = grid.halved(level).halves(wholes.cell)
        whole = torch.arange(len(cell), device=cell.device)
        whole = whole.repeat_interleave(cell.shape[1])
        cell, order = cell.flatten().sort()
        whole = whole[order]
        image = wholes.image[whole]
        log_mass = finer.log_masses(cell, image)
        sums = log_sums(log_mass, whole, len(wholes.cell))
        moved = _log_difference(sums, wholes.log_mass)
        # Two sums can agree by luck: the less likely, the more closely they do.
        error = moved.maximum((moved + wholes.log_error) / 2)
        log_error = log_mass + (error - sums)[whole]  # as the mass is shared
        levels = torch.full_like(cell, level + 1)
        yield Cells(cell, image, log_mass, log_error, levels)


def _smallest(
    values: Tensor, group: Tensor, num_groups: int, budget: float
) -> Tensor:
    """Returns which values of each group fit into a budget, smallest first."""
    order = values.argsort()
    order = order[group[order].argsort(stable=True)]
    sums = torch.zeros(num_groups).to(values).index_add(0, group, values)
    before = (sums.cumsum(0) - sums)[group[order]]
    is_within = torch.empty_like(values, dtype=torch.bool)
    is_within[order] = values[order].cumsum(0) - before <= budget
    return is_within


def _domain(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a box around the prior's bulk and the guide's centers."""
    centers = find_centers(vae, x)
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        inside = torch.cat([centers, vae.prior().sample(torch.Size([10_000]))])
    low, high = inside.amin(0), inside.amax(0)
    margin = 0.15 * (high - low) + 1e-3
    return low - margin, high + margin


@torch.no_grad()
def posterior_density(
    vae: VAE, x: Tensor, low: Tensor, high: Tensor, size: int = 200
) -> tuple[Tensor, Tensor]:
    """Evaluates one image's joint density, normalized over a grid.

    Args:
        vae: A VAE with two continuous latent dimensions.
        x: One image, `(1, D)`.
        low: The box's lower corner, `(2,)`.
        high: The box's upper corner, `(2,)`.
        size: The number of midpoints along each axis.

    Returns:
        The points, `(size, size, 2)`, and p(z | x) at them, `(size, size)`,
        if the box holds the posterior.

    Raises:
        ValueError: If the latents are discrete, or more than two.
    """
    FEW.check(vae.prior(), "a grid")
    side = (high - low) / size
    steps = torch.arange(size, device=low.device).view(-1, 1) + 0.5
    steps = low + side * steps
    first, second = torch.meshgrid(*steps.T, indexing="ij")
    z = torch.stack([first, second], dim=-1)
    with evaluation_mode(vae):
        joint = log_joint(vae, z.flatten(0, 1), x.double()).view(size, size)
    return z, (joint - joint.logsumexp((0, 1)) - side.log().sum()).exp()


def _log_difference(left: Tensor, right: Tensor) -> Tensor:
    """Returns log |exp(left) - exp(right)|."""
    high, low = torch.maximum(left, right), torch.minimum(left, right)
    return high + (-torch.expm1(low - high)).log()
