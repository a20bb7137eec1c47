"""Copies of what nothing uses afterwards, which need not be made.

The gradient of a change in place begins with a copy of the whole tensor's
gradient: for a loop over time, one at each step.
"""

from typing import cast

from torch import fx

from pyro_vae.svi.compat import aten, writes_in_place
from pyro_vae.svi.loops.layout import list_written
from pyro_vae.svi.loops.operators import EMPTY
from pyro_vae.svi.record import list_tensors, read_example


def find_root(node: fx.Node) -> fx.Node:
    """Returns the node that owns the storage of a node's tensor."""
    example = read_example(node)
    while example is not None and example.source is not None:
        node = list_tensors(node)[example.source]
        example = read_example(node)
    return node


def drop_copies(graph: fx.Graph) -> None:
    """Has copies of new tensors stand for the tensors, where they can."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    ends: dict[fx.Node, int] = {}  # of each storage, the last use
    for node in graph.nodes:
        for user in node.users:
            # Of what is not described, nothing says which storage it is in.
            is_known = read_example(user) is not None or not user.users
            end = places[user] if is_known else len(places)
            root = find_root(node)
            ends[root] = max(ends.get(root, 0), end)
    for node in list(graph.nodes):
        if node.target is not aten.copy_.default or len(node.args) != 2:
            continue
        made, given = cast(list[fx.Node], node.args)
        root = find_root(given)
        if (
            str(made.target) in EMPTY
            and all(places[user] >= places[node] for user in made.users)
            and root.op != "placeholder"
            and ends[root] <= places[node]
            and _is_whole(given)
            and read_example(root) == read_example(made)
        ):
            ends[root] = max(ends[root], ends[made])
            node.replace_all_uses_with(given)
            graph.erase_node(node)
            made.replace_all_uses_with(given)
            graph.erase_node(made)


def _is_whole(node: fx.Node) -> bool:
    """Returns whether a node's tensor is all that lies in its storage."""
    while writes_in_place(node):
        (node, *others) = list_written(node)
        if others:
            return False
    return find_root(node) is node
