"""The pointers that a function in C takes, and functions that are shared.

Where a graph repeats itself, step after step of a loop over time, functions
differ in their pointers alone, so that gcc compiles one of them.
"""

from collections.abc import Iterable, Iterator, Mapping

from torch import fx


class Pointers:
    """Collects the pointers of one function.

    Args:
        names: The pointers to the nodes' tensors, in the caller.

    Attributes:
        given: What the caller gives, in order.
    """

    def __init__(self, names: Mapping[fx.Node, str]):
        self._names = names
        self.given: list[str] = []

    def take(self, node: fx.Node, kind: str, offset: int) -> str:
        """Returns a pointer to an element of a node's tensor.

        Args:
            node: The node.
            kind: The type of its elements.
            offset: How many elements come before.
        """
        self.given.append(f"(char *)(({kind} *){self._names[node]} + {offset})")
        return f"({kind} *)q[{len(self.given) - 1}]"


class Functions:
    """The functions of a graph, each written once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def call(self, body: Iterable[str], pointers: Pointers) -> Iterator[str]:
        """Yields the call of a function.

        Args:
            body: Its lines, which use the pointers.
            pointers: Its pointers.
        """
        text = "\n".join(body)
        name = self._names.setdefault(text, f"loops_{len(self._names)}")
        yield f"{{ char *const q[] = {{{', '.join(pointers.given)}}};"
        yield f"{name}(q); }}"

    def write(self) -> Iterator[str]:
        """Yields all functions that are called."""
        for text, name in self._names.items():
            # Inlined, gcc 12 misses what one writes by a `restrict` pointer.
            yield f"static __attribute__((noipa)) void {name}(char *const *q)"
            yield text
