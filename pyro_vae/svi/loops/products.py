"""Products of matrices of which one is narrow, as loops.

A library of linear algebra is made for large matrices. A product by few
columns, or of few, is a sum in a loop that something else goes through anyway:
the one over the larger matrix, in the order in which that lies in memory.
"""

from torch import Tensor, fx

from pyro_vae.svi.loops.layout import Access
from pyro_vae.svi.loops.loop import Loop, Operand, Result

NARROW = 8  # rows or columns that loops are faster for


def multiply(
    node: fx.Node, value: Tensor, left: Access, right: Access, k: int
) -> Loop | None:
    """Returns the loop of a product of `(n, k)` and `(k, m)`.

    Args:
        node: The product's node.
        value: Its result, `(n, m)`, without data.
        left: How to walk through the left matrix.
        right: How to walk through the right one.
        k: The number of products in each sum.

    Returns:
        None if no dimension is narrow.
    """
    n, m = value.shape
    if k == 0 or min(n, k, m) > NARROW:
        return None
    if k <= NARROW:
        return _add_products(node, value, left, right, k)
    return _sum_products(node, value, left, right, k)


def _add_products(
    node: fx.Node, value: Tensor, left: Access, right: Access, k: int
) -> Loop:
    """A sum of few products for each element."""
    operands, terms = [], []
    for index in range(k):
        for access, dim in ((left, 1), (right, 0)):
            strides = list(access.strides)
            offset = access.offset + index * strides[dim]
            strides[dim] = 0
            part = access._replace(offset=offset, strides=tuple(strides))
            operands.append(Operand(part, value.dtype))
        terms.append(f"{{{2 * index}}} * {{{2 * index + 1}}}")
    result = Result(" + ".join(terms), 0, value.stride())
    shape = tuple(value.shape)
    return Loop(node, shape, tuple(operands), (result,), value.dtype)


def _sum_products(
    node: fx.Node, value: Tensor, left: Access, right: Access, k: int
) -> Loop:
    """Few columns (or rows), each a reduction over the larger matrix."""
    (n, m), (rows, columns) = value.shape, value.stride()
    if m <= n:
        large, small, shape, dim, count = left, right, (n, k), 1, m
        steps, step = (rows, 0), columns
        along, across = small.strides
    else:
        large, small, shape, dim, count = right, left, (k, m), 0, n
        steps, step = (0, columns), rows
        across, along = small.strides
    operands, results = [Operand(large, value.dtype)], []
    for index in range(count):
        strides = (0, along) if dim else (along, 0)
        offset = small.offset + index * across
        part = small._replace(offset=offset, strides=strides)
        operands.append(Operand(part, value.dtype))
        text = f"{{0}} * {{{index + 1}}}"
        results.append(Result(text, index * step, steps))
    loop = Loop(
        node,
        shape,
        tuple(operands),
        tuple(results),
        value.dtype,
        "sum",
        (dim,),
    )
    in_order = large.strides[0] >= large.strides[1]
    return loop if in_order else _transpose(loop)


def _transpose(loop: Loop) -> Loop:
    """Returns the same loop of two dimensions, in the other order."""

    def turn(operand: Operand) -> Operand:
        source = operand.source
        if isinstance(source, Access):
            source = source._replace(strides=source.strides[::-1])
        return Operand(source, operand.dtype)

    return Loop(
        loop.node,
        loop.shape[::-1],
        tuple(map(turn, loop.operands)),
        tuple(
            Result(result.expression, result.offset, result.strides[::-1])
            for result in loop.results
        ),
        loop.dtype,
        loop.reduction,
        tuple(1 - dim for dim in loop.dims),
    )
