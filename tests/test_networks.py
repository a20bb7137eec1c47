import math

import pytest
import torch
from torch import nn

from pyro_vae.parts.networks import ACTIVATIONS, MLP, ConvDecoder, ConvEncoder
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


SHAPES = [((28, 28), (32, 64)), ((8, 8), (3,)), ((8, 12), (4, 5))]


@pytest.mark.parametrize(("image_shape", "channels"), SHAPES)
def test_convolutions_map_images_to_features_and_back(image_shape, channels):
    size = math.prod(image_shape)
    encoder = ConvEncoder(image_shape, 4, channels, (7,))
    decoder = ConvDecoder(
        2, image_shape, channels[::-1], (7,), output_activation="sigmoid"
    )
    assert (encoder.in_features, encoder.out_features) == (size, 4)
    assert (decoder.in_features, decoder.out_features) == (2, size)
    for batch in ((), (3,), (2, 3)):
        assert encoder(torch.rand(*batch, size)).shape == (*batch, 4)
        images = decoder(torch.randn(*batch, 2))
        assert images.shape == (*batch, size)
        assert ((images > 0) & (images < 1)).all()
    x = torch.rand(2, 3, size)
    assert torch.allclose(encoder(x)[1, 2], encoder(x[1, 2]))


def test_convolutions_see_the_image_as_an_image():
    """A pixel reaches its neighbours alone, in the first feature maps."""
    encoder = ConvEncoder((8, 8), 4, (5,), ())
    x = torch.zeros(1, 64)
    dark = encoder.layers[:2](x)
    x[0, 8 * 2 + 5] = 1.0  # row 2, column 5
    changed = (encoder.layers[:2](x) != dark).any(1).squeeze(0)
    rows, columns = changed.nonzero().T
    assert set(rows.tolist()) == {0, 1} and set(columns.tolist()) == {2, 3}


def test_the_initial_weights_of_the_convolutions():
    networks = (
        ConvEncoder((28, 28), 4, init_std=0.03),
        ConvDecoder(2, (28, 28), init_std=0.03),
    )
    for network in networks:
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any()
            elif parameter.numel() > 1000:
                assert_mean(parameter.flatten().square(), 0.03**2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvEncoder((10, 10), 4), "multiples of 4, halved by each"),
        (lambda: ConvDecoder(2, (8, 8, 3)), "8 x 3 pixels; expected sides"),
        (lambda: ConvEncoder((64,), 2), r"is \(64,\); expected \(height"),
        (lambda: ConvEncoder((8, 8), 4, ()), r"are \(\); expected some, each"),
        (lambda: ConvEncoder((8, 8), 4, (0,)), r"\(0,\); expected some, each"),
    ],
)
def test_images_that_cannot_be_halved_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
