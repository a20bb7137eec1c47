import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from pyro_vae import MLP, DiagonalLaplace, DiagonalNormal

KINDS = [(DiagonalNormal, dist.Normal), (DiagonalLaplace, dist.Laplace)]


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


def test_an_odd_number_of_features_is_refused():
    with pytest.raises(ValueError, match="returned 3 features; expected an ev"):
        DiagonalNormal(MLP(6, 3))(torch.rand(5, 6))
