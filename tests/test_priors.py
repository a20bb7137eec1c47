import pytest
import torch

from pyro_vae import Laplace, StandardNormal
from tests.statistics import assert_mean


@pytest.mark.parametrize("prior", [StandardNormal(3), Laplace(3, 0.5)])
def test_shapes_and_no_state(prior):
    assert prior().batch_shape == ()
    assert prior().event_shape == (3,)
    assert not prior.state_dict() and not list(prior.parameters())


def test_densities_are_the_formulas():
    z = torch.randn(5, 3)
    normal = -0.5 * (z.square() + torch.tensor(2 * torch.pi).log()).sum(-1)
    assert torch.allclose(StandardNormal(3)().log_prob(z), normal)
    laplace = (-z.abs() / 0.5 - torch.tensor(1.0).log()).sum(-1)
    assert torch.allclose(Laplace(3, 0.5)().log_prob(z), laplace)


def test_the_laplace_scale_is_the_mean_absolute_value():
    z = Laplace(2, 0.7)().sample((20_000,))
    assert_mean(z.abs(), 0.7)
    assert_mean(z, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StandardNormal(0), "latent_dim is 0; expected at least 1"),
        (lambda: Laplace(2, -1.0), "scale is -1.0; expected a positive"),
        (lambda: Laplace(2, float("nan")), "scale is nan; expected a positive"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
