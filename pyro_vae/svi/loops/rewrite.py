"""Operators of a record, written as simpler ones that become loops."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx

from pyro_vae.svi.compat import aten
from pyro_vae.svi.loops.copies import drop_copies
from pyro_vae.svi.loops.operators import C_TYPES
from pyro_vae.svi.loops.pads import Pads
from pyro_vae.svi.loops.writer import Writer, in_order, read
from pyro_vae.svi.record import read_example, set_example


def simplify(graph: fx.Graph) -> None:
    """Rewrites a graph's operators, in place, where that is possible."""
    drop_copies(graph)
    write = Writer(graph)
    pads = Pads(write)
    rewrites: dict[str, Callable[..., fx.Node | None]] = {
        **{name: partial(known, write) for name, known in REWRITES.items()},
        "aten.add.Tensor": pads.add,
        "aten.select_backward.default": pads.select,
        "aten.slice_backward.default": pads.slice,
    }
    for node in list(graph.nodes):
        rewrite = rewrites.get(str(node.target))
        if rewrite is None or node.kwargs or not _is_plain(node):
            continue
        with graph.inserting_before(node):
            result = rewrite(node, *node.args)
        if result is not None:
            node.replace_all_uses_with(result)
            graph.erase_node(node)


def _is_plain(node: fx.Node) -> bool:
    """Returns whether all tensors of an operator are known, and loops'."""
    results = [node]
    if read_example(node) is None:  # several, of which each has a node
        results = [user for user in node.users if user.users]
    examples = [*map(read_example, node.all_input_nodes)]
    examples += [*map(read_example, results)]
    return all(
        each is not None
        and each.device.type == "cpu"
        and each.dtype in C_TYPES
        and 0 not in each.shape
        for each in examples
    )


def _split_bias(
    write: Writer, node: fx.Node, bias: Any, left: Any, right: Any
) -> fx.Node:
    """Adds the bias of a product by itself, in a loop with others."""
    product = write.graph.call_function(aten.mm.default, (left, right))
    result = write.graph.call_function(aten.add.Tensor, (product, bias))
    set_example(product, node)
    set_example(result, node)
    return result


def _dot(write: Writer, node: fx.Node, left: Any, right: Any) -> fx.Node | None:
    if not read(node).dtype.is_floating_point:
        return None
    like = in_order(read(left), read(left).shape)
    products = write.call(aten.mul.Tensor, like, left, right)
    return write.call(aten.sum.default, read(node), products)


def _extreme(
    write: Writer, node: fx.Node, given: Any, dim: int, keepdim: bool = False
) -> None:
    """Leaves out where the extremes are, if nothing asks for it."""
    used = [user for user in node.users if user.users]
    values = [user for user in used if user.args[1] == 0]
    if len(values) != len(used) or not used:
        return
    is_highest = "max" in str(node.target)
    result: fx.Node | None = None
    if read(given).dtype == torch.bool and not is_highest:
        result = _all_true(write, used[0], given, dim)
    elif read(given).dtype.is_floating_point:
        target = (aten.amax if is_highest else aten.amin).default
        result = write.call(target, read(used[0]), given, [dim], keepdim)
    if result is None:
        return
    for user in values:
        user.replace_all_uses_with(result)


def _log_sum_exp(
    write: Writer, node: fx.Node, given: Any, dims: Any, keepdim: bool = False
) -> fx.Node | None:
    example = read(node)
    if not read(given).shape or not read(given).dtype.is_floating_point:
        return None
    highest = write.reduce(aten.amax.default, given, dims)
    size = write.map(aten.abs.default, highest)
    infinite = write.map(aten.eq.Scalar, size, math.inf)
    infinite.meta["example"] = read(size)._replace(dtype=torch.bool)
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
    write: Writer, node: fx.Node, given: Any, dim: int, to_float: bool
) -> fx.Node | None:
    if to_float or not read(given).shape:
        return None
    highest = write.reduce(aten.amax.default, given, [dim])
    less = write.call(aten.sub.Tensor, read(node), given, highest)
    powers = write.map(aten.exp.default, less)
    total = write.reduce(aten.sum.dim_IntList, powers, [dim])
    if "log" in str(node.target):
        return write.map(
            aten.sub.Tensor, less, write.map(aten.log.default, total)
        )
    return write.map(aten.div.Tensor, powers, total)


def _softmax_backward(
    write: Writer,
    node: fx.Node,
    grad: Any,
    output: Any,
    dim: int,
    dtype: torch.dtype,
) -> fx.Node | None:
    if dtype != read(grad).dtype or not read(grad).shape:
        return None
    if "log" in str(node.target):
        total = write.reduce(aten.sum.dim_IntList, grad, [dim])
        share = write.call(aten.exp.default, read(node), output)
        return write.map(
            aten.rsub.Scalar,
            write.map(
                aten.sub.Tensor, write.map(aten.mul.Tensor, share, total), grad
            ),
            0,
        )
    both = write.call(aten.mul.Tensor, read(node), grad, output)
    total = write.reduce(aten.sum.dim_IntList, both, [dim])
    less = write.call(aten.sub.Tensor, read(node), grad, total)
    return write.map(aten.mul.Tensor, less, output)


def _concatenate(
    write: Writer, node: fx.Node, parts: Any, dim: int = 0
) -> fx.Node | None:
    """Copies tensors to their parts of a new one: `cat`, and `stack`."""
    example, examples = read(node), [*map(read, parts)]
    if any(each.dtype != example.dtype for each in examples):
        return None
    dim %= len(example.shape)
    strides, is_stack = example.strides, "stack" in str(node.target)
    whole, place = write.make(example), 0
    for part, each in zip(parts, examples, strict=True):
        along = strides[:dim] + strides[dim + 1 :] if is_stack else strides
        view = write.view(whole, each.shape, along, place * strides[dim])
        write.change(aten.copy_.default, view, part)
        place += 1 if is_stack else each.shape[dim]
    return whole


def _all_true(
    write: Writer, node: fx.Node, given: Any, dim: int | None = None, *_: Any
) -> fx.Node | None:
    """Counts what is not true: `all`, also of a dimension."""
    known, example = read(given), read(node)
    if known.dtype != torch.bool:
        return None
    if not known.shape:
        return write.view(given, (), (), 0)
    dims = range(len(known.shape)) if dim is None else [dim]
    wrong = write.map(aten.logical_not.default, given)
    count = write.reduce(aten.sum.dim_IntList, wrong, dims)
    count.meta["example"] = read(count)._replace(dtype=torch.float32)
    result = write.map(aten.eq.Scalar, count, 0)
    result.meta["example"] = read(result)._replace(dtype=torch.bool)
    return write.view(result, example.shape, example.strides, 0)


REWRITES: dict[str, Callable[..., fx.Node | None]] = {
    "aten._log_softmax.default": _softmax,
    "aten._log_softmax_backward_data.default": _softmax_backward,
    "aten._is_all_true.default": _all_true,
    "aten._softmax.default": _softmax,
    "aten._softmax_backward_data.default": _softmax_backward,
    "aten.addmm.default": _split_bias,
    "aten.all.default": _all_true,
    "aten.all.dim": _all_true,
    "aten.cat.default": _concatenate,
    "aten.dot.default": _dot,
    "aten.logsumexp.default": _log_sum_exp,
    "aten.max.dim": _extreme,
    "aten.min.dim": _extreme,
    "aten.stack.default": _concatenate,
}
