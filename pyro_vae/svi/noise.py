"""Random numbers that Inductor would draw in another way than torch does.

Inductor builds these distributions from uniform numbers, even where it is
told to keep torch's generator. Behind operators that it does not know, they
are drawn as everywhere else in torch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.record import set_example

_OPERATORS = {
    aten.bernoulli.default: "bernoulli",
    aten.exponential_.default: "exponential_",
    aten.cauchy_.default: "cauchy_",
    aten.geometric_.default: "geometric_",
    aten.log_normal_.default: "log_normal_",
}

_library = torch.library.Library("pyro_vae", "FRAGMENT")
_library.define(
    "draw(Tensor like, str name, float[] parameters) -> Tensor",
    tags=[torch.Tag.nondeterministic_seeded],
)


@torch.library.impl(_library, "draw", "CompositeExplicitAutograd")
def draw(like: Tensor, name: str, parameters: Sequence[float]) -> Tensor:
    """Draws from torch's generator and returns a new tensor.

    Args:
        like: The probabilities of a Bernoulli; else, a tensor of the shape
            and dtype to draw.
        name: A method of Tensor; one that ends in `_` fills a new tensor.
        parameters: The arguments of the method.
    """
    target = torch.empty_like(like) if name.endswith("_") else like
    return getattr(target, name)(*parameters)


@torch.library.register_fake("pyro_vae::draw", lib=_library)
def _(like: Tensor, name: str, parameters: Sequence[float]) -> Tensor:
    return torch.empty_like(like)


def keep_draws(graph: fx.GraphModule) -> None:
    """Puts the draws of a recorded graph behind `draw`, in place."""
    for node in list(graph.graph.nodes):
        if node.target not in _OPERATORS:
            continue
        like, *parameters = node.args
        name = _OPERATORS[node.target]
        if name.endswith("_") and "empty" not in str(like.target):
            continue  # a view or a part; drawn with other numbers, then
        with graph.graph.inserting_before(node):
            drawn = graph.graph.call_function(
                torch.ops.pyro_vae.draw.default, (like, name, parameters)
            )
        set_example(drawn, node)
        node.replace_all_uses_with(drawn)
        graph.graph.erase_node(node)
