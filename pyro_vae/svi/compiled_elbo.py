"""Compiled estimators, which go into an unchanged `pyro.infer.SVI`."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import (
    ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

from pyro_vae.svi.compat_pyro import outside_traces
from pyro_vae.svi.eager import check_finite
from pyro_vae.svi.gradients import CompiledGradients
from pyro_vae.svi.options import check_grad_enabled, check_options
from pyro_vae.svi.pairs import ALONE, Pair


class CompiledELBO(ELBO):
    """What the compiled estimators have in common: a Pyro estimator's methods.

    `pyro.infer.SVI` calls `loss_and_grads` in each step, and takes the step
    itself, in Pyro's way, parameter by parameter. Everything else is as in
    `CompiledSVI`, which has the faster updates: what is compiled anew, what is
    refused, and that a loss that is not finite raises.

    Args:
        args: The arguments of the Pyro estimator of the same name.
        precision: The precision of large float32 products, as in `CompiledSVI`.
        compare: Whether runs 2, 4, 8, ... are compared with eager ones.
        engine: What runs the graphs, as in `CompiledSVI`.
        kwargs: The arguments of the Pyro estimator, by name.

    Raises:
        ValueError: For an unknown precision, or, in a step, within another
            handler of Pyro's than those of `pyro.infer.SVI`.
    """

    def __init__(
        self,
        *args: Any,
        precision: str = "highest",
        compare: bool = True,
        engine: str = "compiled",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self._options = (precision, compare, engine)
        check_options(*self._options)
        self._compiled: list[tuple[Pair, CompiledGradients]] = []

    @property
    def num_compilations(self) -> int:
        """The number of graphs that have been made."""
        return sum(each.num_compilations for _, each in self._compiled)

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Any:
        """Adds the gradients to the parameters' own, and returns the loss.

        Args:
            model: A Pyro model.
            guide: Its guide.
            args: Their arguments.
            kwargs: The same, by name.

        Returns:
            A float, in nats.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite; it names the
                site, and there are no gradients.
            DynamicPairError: If the pair is found not to be static.
            CompilationError: If the machine cannot compile.
        """
        check_grad_enabled()
        with torch.no_grad(), outside_traces():
            run = self._find(model, guide).compute(args, kwargs)
            value = run.losses[0].item()
            check_finite(value, ALONE, model, guide, *args, **kwargs)
        for name in run.names:
            pyro.param(name)  # so that SVI sees which parameters there are
        for param, grad in run.by_parameter().items():
            own = param.grad
            param.grad = grad.clone() if own is None else (own + grad).detach()
        return value

    @torch.no_grad()
    def loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the loss, in nats, without gradients; arguments as above."""
        with outside_traces():
            return self._find(model, guide).compute_loss(args, kwargs)

    def _find(self, model: Callable, guide: Callable) -> CompiledGradients:
        """Returns the graphs of a pair."""
        pair = Pair(model, guide, self, None, None)
        for known, gradients in self._compiled:
            if known.is_same(pair):
                gradients.look(pair)
                return gradients
        gradients = CompiledGradients(pair, *self._options)
        self._compiled.append((pair, gradients))
        return gradients


class CompiledTrace_ELBO(CompiledELBO, Trace_ELBO):
    """`pyro.infer.Trace_ELBO`, compiled."""


class CompiledTraceMeanField_ELBO(CompiledELBO, TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`, compiled."""


class CompiledTraceGraph_ELBO(CompiledELBO, TraceGraph_ELBO):
    """`pyro.infer.TraceGraph_ELBO`, compiled."""


class CompiledTraceEnum_ELBO(CompiledELBO, TraceEnum_ELBO):
    """`pyro.infer.TraceEnum_ELBO`, compiled."""


class CompiledRenyiELBO(CompiledELBO, RenyiELBO):
    """`pyro.infer.RenyiELBO`, compiled."""
