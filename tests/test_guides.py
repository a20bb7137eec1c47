import pyro.distributions as dist
import pytest
import torch
from torch.autograd.functional import jacobian
from torch.nn.functional import softplus

from pyro_vae import (
    MLP,
    FlowGuide,
    FullNormalGuide,
    LaplaceGuide,
    NormalGuide,
)
from tests.models import bend
from tests.statistics import assert_mean

KINDS = [(NormalGuide, dist.Normal), (LaplaceGuide, dist.Laplace)]


def full(size=3, **choices):
    return FullNormalGuide(
        MLP(6, FullNormalGuide.count_parameters(size)), size, **choices
    )


def flow(size=3):
    encoder = MLP(6, 2 * size + 4)
    return bend(FlowGuide(encoder, size, 4, num_couplings=3, units=8))


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_the_encoder_gives_loc_and_scale(kind, family):
    encoder = MLP(6, 4)
    x = torch.rand(5, 6)
    q = kind(encoder)(x)
    assert q.batch_shape == (5,) and q.event_shape == (2,)
    assert isinstance(q.base_dist, family)
    loc, unconstrained = encoder(x).split(2, dim=-1)
    assert torch.equal(q.base_dist.loc, loc)
    assert torch.allclose(q.base_dist.scale, 1e-4 + softplus(unconstrained))


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_the_scale_keeps_its_floor(kind, family):
    q = kind(lambda x: torch.full((len(x), 4), -1e4), min_scale=0.03)(
        torch.rand(5, 6)
    )
    assert (q.base_dist.scale == 0.03).all()
    assert q.log_prob(q.rsample()).isfinite().all()


@pytest.mark.parametrize("make", [full, flow])
def test_any_parameters_give_a_member_of_the_family(make):
    guide, x = make(), torch.rand(5, 6)
    q = guide(x)
    assert q.batch_shape == (5,) and q.event_shape == (3,) and q.has_rsample
    z = q.rsample((4,))
    expected = q.log_prob(z)
    parameters = guide.encoder(x)
    assert torch.allclose(guide.family(parameters).log_prob(z), expected)
    stacked = guide.family(parameters.expand(2, 5, -1))
    assert stacked.batch_shape == (2, 5)
    assert torch.allclose(stacked.log_prob(z[0]), expected[0].expand(2, 5))
    assert torch.allclose(q.expand((4, 5)).log_prob(z), expected)


def test_the_covariance_of_the_full_normal():
    guide, x = full(min_scale=0.03), torch.rand(2, 6)
    parameters = guide.encoder(x)
    loc, diagonal, (a, b, c) = (
        *parameters[:, :6].chunk(2, -1),
        parameters[:, 6:].T,
    )
    d, e, f = (0.03 + softplus(diagonal)).T
    zero = torch.zeros(2)
    factor = torch.stack([d, zero, zero, a, e, zero, b, c, f], -1).view(2, 3, 3)
    q = guide(x)
    assert torch.allclose(q.covariance_matrix, factor @ factor.mT)
    assert torch.equal(q.mean, loc)
    residual = q.rsample((20_000,)) - loc
    outer = residual.unsqueeze(-1) * residual.unsqueeze(-2)
    assert_mean(outer, factor @ factor.mT)


def test_the_diagonal_of_the_full_normal_keeps_its_floor():
    guide = FullNormalGuide(lambda x: torch.full((len(x), 9), -1e4), 3, 0.03)
    diagonal = guide(torch.rand(5, 6)).scale_tril.diagonal(dim1=-2, dim2=-1)
    assert (diagonal == 0.03).all()


@pytest.mark.parametrize("size", [2, 3])
def test_the_flow_guides_density_is_that_of_autograds_jacobian(size):
    guide = flow(size)
    for x in torch.rand(4, 1, 6):
        q = guide(x)

        def push(noise, q=q):
            for transform in q.transforms:
                noise = transform(noise)
            return noise

        noise = q.base_dist.rsample()
        matrix = jacobian(push, noise).view(size, size)
        _, log_det = matrix.slogdet()
        expected = q.base_dist.log_prob(noise) - log_det
        z = push(noise)
        assert torch.allclose(q.log_prob(z), expected)  # as it was drawn
        assert torch.allclose(q.log_prob(z.clone()), expected)  # any point


def test_the_flow_guide_integrates_to_one_and_knows_x():
    guide = flow(2)
    line = torch.linspace(-12, 12, 400)
    points = torch.cartesian_prod(line, line).unsqueeze(1)
    with torch.no_grad():
        q = guide(torch.rand(3, 6))
        density = q.log_prob(points).exp()
    total = density.sum(0) * (line[1] - line[0]) ** 2
    # The lattice's error, where a network's ReLUs give the density an edge.
    assert torch.allclose(total, torch.ones(3), atol=1e-4)
    base = guide(torch.zeros(1, 6)).base_dist
    parameters = guide.encoder(torch.rand(2, 6))
    parameters[:, :4] = parameters[0, :4]  # the same base, another context
    one, other = guide.family(parameters).log_prob(torch.randn(9, 1, 2)).T
    assert base.event_shape == (2,) and not torch.allclose(one, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormalGuide(MLP(6, 3)), "returned 3 parameters; expected an"),
        (
            lambda: FullNormalGuide(MLP(6, 8), 3),
            r"8 parameters; expected 6 \+ 3",
        ),
        (lambda: FlowGuide(MLP(6, 8), 2, 3), r"8 parameters; expected 4 \+ 3"),
    ],
)
def test_a_wrong_number_of_parameters_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()(torch.rand(5, 6))
