"""What torch says of matrices that it cannot factorize, after a graph ran.

A Cholesky factor of a matrix that is not positive definite, or the solution
of a singular system, is an error in torch. Inductor cannot compile that check
in every graph, and a CUDA graph cannot hold it: the graph returns the status
of each factorization instead, which is looked at before anything is updated.
"""

from collections.abc import Sequence

from torch import Tensor, fx

from pyro_vae.svi.compat import aten

__all__ = ["Factorizations", "split_factorizations"]


class Factorizations:
    """Raises what torch does for the factorizations that have failed.

    Args:
        checks: The name of each, and whether it is of one matrix.
    """

    def __init__(self, checks: Sequence[tuple[str, bool]]):
        self._checks = checks

    def look(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Returns a graph's results without the statuses, which end them.

        Raises:
            torch.linalg.LinAlgError: If a status is not 0.
        """
        count = len(results) - len(self._checks)
        for status, (name, is_matrix) in zip(
            results[count:], self._checks, strict=True
        ):
            aten._linalg_check_errors(status, name, is_matrix=is_matrix)
        return list(results[:count])


def split_factorizations(graph: fx.GraphModule) -> Factorizations:
    """Makes the statuses of factorizations the last results of a graph."""
    checks, statuses = list[tuple[str, bool]](), list[fx.Node]()
    target = aten._linalg_check_errors.default
    for node in graph.graph.find_nodes(op="call_function", target=target):
        status, name = node.args
        checks.append((name, node.kwargs["is_matrix"]))
        statuses.append(status)
        graph.graph.erase_node(node)
    (output,) = graph.graph.find_nodes(op="output")
    output.args = ([*output.args[0], *statuses],)
    return Factorizations(checks)
