import math

import pytest
import torch

from pyro_vae import MLP, Gaussian


def decoder():
    return MLP(2, 6, output_activation="sigmoid")


@pytest.mark.parametrize(
    ("noise", "learned"), [("shared", 1), ("fixed", 0), ("diagonal", 6)]
)
def test_sigma_is_learned_unless_fixed(noise, learned):
    likelihood = Gaussian(decoder(), noise, noise_scale=0.3)
    assert torch.allclose(likelihood.scale, torch.tensor(0.3))
    count = dict(likelihood.named_parameters()).get("log_scale")
    assert (0 if count is None else count.numel()) == learned


def test_the_density_is_the_formula():
    likelihood = Gaussian(decoder(), noise_scale=0.3)
    z, x = torch.randn(4, 5, 2), torch.rand(5, 6)
    p = likelihood(z)
    assert p.batch_shape == (4, 5) and p.event_shape == (6,)
    residual = (x - likelihood.decoder(z)) / 0.3
    log_norm = math.log(0.3) + 0.5 * math.log(2 * math.pi)
    expected = (-0.5 * residual.square() - log_norm).sum(-1)
    assert torch.allclose(p.log_prob(x), expected)
    assert torch.equal(p.mean, likelihood.decoder(z))


def test_a_pixel_that_is_always_black_stops_at_the_lower_bound():
    likelihood = Gaussian(
        lambda z: torch.zeros(len(z), 1), "diagonal", torch.tensor([0.5]), 0.05
    )
    optim = torch.optim.Adam(likelihood.parameters(), lr=0.1)
    x = z = torch.zeros(8, 1)
    for _ in range(500):
        optim.zero_grad()
        (-likelihood(z).log_prob(x).mean()).backward()
        optim.step()
    assert 0.05 < likelihood.scale.item() < 0.051


def test_a_vector_of_scales():
    scale = torch.linspace(0.1, 0.6, 6)
    for noise in ("fixed", "diagonal"):
        assert torch.allclose(Gaussian(decoder(), noise, scale).scale, scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shard",), "'shard'; expected one of shared, fixed, diagonal"),
        (("shared", 0.01), "0.01; expected it above 0.01"),
        (("fixed", 0.0), "0.0; expected it above 0.0"),
        (("fixed", math.inf), "inf; expected it above"),
        (("shared", torch.ones(6)), "use noise='diagonal'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Gaussian(decoder(), *arguments)


def test_diagonal_noise_must_know_its_size():
    with pytest.raises(ValueError, match="as a tensor of shape"):
        Gaussian(torch.nn.Sigmoid(), "diagonal", 0.3)
