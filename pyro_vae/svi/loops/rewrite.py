"""Operators of a record, written as simpler ones that become loops."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.record import Example, read_example, set_example

FOR_LOOPS = "for loops"  # marks a node that torch must not run


def simplify(graph: fx.Graph) -> None:
    """Rewrites a graph's operators, in place, where that is possible."""
    for node in list(graph.nodes):
        rewrite = REWRITES.get(str(node.target))
        if rewrite is None or node.kwargs or not _is_plain(node):
            continue
        with graph.inserting_before(node):
            result = rewrite(_Writer(graph), node, *node.args)
        if result is not None:
            node.replace_all_uses_with(result)
            graph.erase_node(node)


class _Writer:
    """Inserts nodes, and describes them as recorded ones are."""

    def __init__(self, graph: fx.Graph):
        self.graph = graph

    def call(self, target: Callable, like: Example, *args: Any) -> fx.Node:
        """Calls an operator whose result is a tensor of its own.

        Run by torch, it might lie in another order.
        """
        node = self.graph.call_function(target, args)
        node.meta["example"] = like._replace(source=None, shift=0)
        node.meta[FOR_LOOPS] = True
        return node

    def map(self, target: Callable, first: fx.Node, *others: Any) -> fx.Node:
        """Calls an elementwise operator, with its first operand's shape."""
        like = _in_order(_read(first), _read(first).shape)
        return self.call(target, like, first, *others)

    def reduce(
        self, target: Callable, given: fx.Node, dims: Sequence[int]
    ) -> fx.Node:
        """Reduces dimensions to one element each."""
        known = _read(given)
        reduced = {dim % len(known.shape) for dim in dims}
        shape = [
            1 if dim in reduced else size
            for dim, size in enumerate(known.shape)
        ]
        like = _in_order(known, shape)
        return self.call(target, like, given, list(dims), True)

    def make(self, like: Example) -> fx.Node:
        """Makes a tensor with nothing in it yet."""
        node = self.graph.call_function(
            aten.empty_strided.default,
            (like.shape, like.strides),
            {"dtype": like.dtype, "device": like.device},
        )
        node.meta["example"] = like._replace(source=None, shift=0)
        return node

    def view(
        self,
        whole: fx.Node,
        shape: Sequence[int],
        strides: Sequence[int],
        start: int,
    ) -> fx.Node:
        """Returns a part of a new tensor."""
        view = self.graph.call_function(
            aten.as_strided.default,
            (whole, tuple(shape), tuple(strides), start),
        )
        view.meta["example"] = _read(whole)._replace(
            shape=tuple(shape), strides=tuple(strides), source=0, shift=start
        )
        return view

    def copy(self, part: fx.Node, given: fx.Node) -> None:
        """Copies a tensor to a part of another one."""
        node = self.graph.call_function(aten.copy_.default, (part, given))
        node.meta["example"] = _read(part)._replace(source=0, shift=0)


def _read(node: fx.Node) -> Example:
    example = read_example(node)
    assert example is not None
    return example


def _is_plain(node: fx.Node) -> bool:
    """Returns whether all about an operator is known, and on the CPU."""
    results = [node]
    if read_example(node) is None:  # several, of which each has a node
        results = [user for user in node.users if user.users]
    examples = [*map(read_example, node.all_input_nodes)]
    examples += [*map(read_example, results)]
    return all(
        each is not None and each.device.type == "cpu" and 0 not in each.shape
        for each in examples
    )


def _in_order(like: Example, shape: Sequence[int]) -> Example:
    """Describes a new tensor of another shape, in the usual order."""
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    return like._replace(
        shape=tuple(shape), strides=tuple(strides), source=None, shift=0
    )


def _split_bias(
    write: _Writer, node: fx.Node, bias: Any, left: Any, right: Any
) -> fx.Node:
    """Adds the bias of a product by itself, in a loop with others."""
    product = write.graph.call_function(aten.mm.default, (left, right))
    result = write.graph.call_function(aten.add.Tensor, (product, bias))
    set_example(product, node)
    set_example(result, node)
    return result


def _dot(write: _Writer, node: fx.Node, left: Any, right: Any) -> fx.Node:
    like = _in_order(_read(left), _read(left).shape)
    products = write.call(aten.mul.Tensor, like, left, right)
    return write.call(aten.sum.default, _read(node), products)


def _extreme(
    write: _Writer, node: fx.Node, given: Any, dim: int, keepdim: bool = False
) -> None:
    """Leaves out where the extremes are, if nothing asks for it."""
    used = [user for user in node.users if user.users]
    values = [user for user in used if user.args[1] == 0]
    if len(values) != len(used) or not used:
        return
    target = aten.amax if "max" in str(node.target) else aten.amin
    result = write.call(target.default, _read(used[0]), given, [dim], keepdim)
    for user in values:
        user.replace_all_uses_with(result)


def _log_sum_exp(
    write: _Writer, node: fx.Node, given: Any, dims: Any, keepdim: bool = False
) -> fx.Node | None:
    example = _read(node)
    if not _read(given).shape or not _read(given).dtype.is_floating_point:
        return None
    highest = write.reduce(aten.amax.default, given, dims)
    size = write.map(aten.abs.default, highest)
    infinite = write.map(aten.eq.Scalar, size, math.inf)
    infinite.meta["example"] = _read(size)._replace(dtype=torch.bool)
    highest = write.map(aten.masked_fill.Scalar, highest, infinite, 0)
    powers = write.map(
        aten.exp.default, write.map(aten.sub.Tensor, given, highest)
    )
    total = write.reduce(aten.sum.dim_IntList, powers, dims)
    result = write.map(
        aten.add.Tensor, write.map(aten.log.default, total), highest
    )
    return write.view(result, example.shape, example.strides, 0)


def _softmax(
    write: _Writer, node: fx.Node, given: Any, dim: int, to_float: bool
) -> fx.Node | None:
    if to_float or not _read(given).shape:
        return None
    highest = write.reduce(aten.amax.default, given, [dim])
    less = write.call(aten.sub.Tensor, _read(node), given, highest)
    powers = write.map(aten.exp.default, less)
    total = write.reduce(aten.sum.dim_IntList, powers, [dim])
    if "log" in str(node.target):
        return write.map(
            aten.sub.Tensor, less, write.map(aten.log.default, total)
        )
    return write.map(aten.div.Tensor, powers, total)


def _softmax_backward(
    write: _Writer,
    node: fx.Node,
    grad: Any,
    output: Any,
    dim: int,
    dtype: torch.dtype,
) -> fx.Node | None:
    if dtype != _read(grad).dtype or not _read(grad).shape:
        return None
    if "log" in str(node.target):
        total = write.reduce(aten.sum.dim_IntList, grad, [dim])
        share = write.call(aten.exp.default, _read(node), output)
        return write.map(
            aten.rsub.Scalar,
            write.map(
                aten.sub.Tensor, write.map(aten.mul.Tensor, share, total), grad
            ),
            0,
        )
    both = write.call(aten.mul.Tensor, _read(node), grad, output)
    total = write.reduce(aten.sum.dim_IntList, both, [dim])
    less = write.call(aten.sub.Tensor, _read(node), grad, total)
    return write.map(aten.mul.Tensor, less, output)


def _select_backward(
    write: _Writer, node: fx.Node, grad: Any, sizes: Any, dim: int, index: int
) -> fx.Node | None:
    example = _read(node)
    dim %= len(sizes)
    index %= sizes[dim]
    strides = example.strides
    start = index * strides[dim]
    return _pad(write, node, grad, strides[:dim] + strides[dim + 1 :], start)


def _slice_backward(
    write: _Writer,
    node: fx.Node,
    grad: Any,
    sizes: Any,
    dim: int,
    start: int,
    end: int,
    step: int,
) -> fx.Node | None:
    example = _read(node)
    dim %= len(sizes)
    first = slice(start, end, step).indices(sizes[dim])[0]
    strides = list(example.strides)
    at = first * strides[dim]
    strides[dim] *= step
    return _pad(write, node, grad, strides, at)


def _pad(
    write: _Writer,
    node: fx.Node,
    grad: fx.Node,
    strides: Sequence[int],
    start: int,
) -> fx.Node:
    """Returns zeros, and a tensor where it is a part of them."""
    example = _read(node)
    whole = write.make(example)
    zero = write.graph.call_function(aten.zero_.default, (whole,))
    zero.meta["example"] = _read(whole)._replace(source=0)
    write.copy(write.view(whole, _read(grad).shape, strides, start), grad)
    return whole


def _concatenate(
    write: _Writer, node: fx.Node, parts: Any, dim: int = 0
) -> fx.Node | None:
    """Copies tensors to their parts of a new one: `cat`, and `stack`."""
    example, examples = _read(node), [*map(_read, parts)]
    if any(each.dtype != example.dtype for each in examples):
        return None
    dim %= len(example.shape)
    strides, is_stack = example.strides, "stack" in str(node.target)
    whole, place = write.make(example), 0
    for part, each in zip(parts, examples, strict=True):
        along = strides[:dim] + strides[dim + 1 :] if is_stack else strides
        view = write.view(whole, each.shape, along, place * strides[dim])
        write.copy(view, part)
        place += 1 if is_stack else each.shape[dim]
    return whole


REWRITES: dict[str, Callable[..., fx.Node | None]] = {
    "aten._log_softmax.default": _softmax,
    "aten._log_softmax_backward_data.default": _softmax_backward,
    "aten._softmax.default": _softmax,
    "aten._softmax_backward_data.default": _softmax_backward,
    "aten.addmm.default": _split_bias,
    "aten.cat.default": _concatenate,
    "aten.dot.default": _dot,
    "aten.logsumexp.default": _log_sum_exp,
    "aten.max.dim": _extreme,
    "aten.min.dim": _extreme,
    "aten.select_backward.default": _select_backward,
    "aten.slice_backward.default": _slice_backward,
    "aten.stack.default": _concatenate,
}
