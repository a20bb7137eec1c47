import pytest
import torch
from torch import nn

from pyro_vae.networks import ACTIVATIONS, MLP
from tests.statistics import FAILURE_RATE, assert_mean


def test_the_default_is_the_assignments_network():
    network = MLP(784, 4)
    linears = [
        layer for layer in network.layers if isinstance(layer, nn.Linear)
    ]
    assert [tuple(layer.weight.shape) for layer in linears] == [
        (512, 784),
        (4, 512),
    ]
    assert isinstance(network.layers[1], nn.ReLU)
    weights = linears[0].weight.flatten()
    assert_mean(weights, 0.0)
    assert_mean(weights.square(), 0.01)
    assert all((layer.bias == 0).all() for layer in linears)
    assert 0 < FAILURE_RATE < 1e-4


def test_any_hidden_sizes_and_the_output_activation():
    network = MLP(5, 3, hidden=(7, 6), output_activation="sigmoid")
    y = network(torch.randn(2, 4, 5))
    assert y.shape == (2, 4, 3)
    assert ((y > 0) & (y < 1)).all()
    assert isinstance(MLP(5, 3, hidden=()).layers[0], nn.Linear)
    assert len(MLP(5, 3, hidden=()).layers) == 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_is_reached(name):
    network = MLP(5, 3, activation=name)
    assert isinstance(network.layers[1], ACTIVATIONS[name])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'rleu'; expected one of relu"):
        MLP(5, 3, activation="rleu")
    with pytest.raises(ValueError, match=r"\[5, 0, 3\]; expected each"):
        MLP(5, 3, hidden=(0,))
