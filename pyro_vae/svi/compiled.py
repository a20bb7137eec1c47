"""CompiledSVI: Pyro's SVI with its step compiled, for any static pair."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO, SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.svi.compat_pyro import adopt_parameters, am_i_wrapped
from pyro_vae.svi.eager import check_finite
from pyro_vae.svi.estimator import computes_loss
from pyro_vae.svi.gradients import CompiledGradients
from pyro_vae.svi.optimizers import check_optimizer, make_updates
from pyro_vae.svi.options import check_grad_enabled
from pyro_vae.svi.pairs import ALONE, Pair, Run
from pyro_vae.svi.shards import Shards
from pyro_vae.svi.updates import Updates, has_stepped, mark_stepped


class CompiledSVI:
    r"""`pyro.infer.SVI` whose step runs as one compiled graph.

    The pair is run twice through Pyro's handlers, and once more while loss and
    gradients are recorded; the record is compiled, and one fused kernel
    updates the parameters. A step that draws initial parameters is taken
    eagerly. With the same seed the losses and parameters are those of
    `pyro.infer.SVI`, up to rounding; unlike there, a loss that is not finite
    raises, and parameters and buffers stay as they were. Parameters stay where
    they are (in modules and in Pyro's param store), the optimizer's state in
    the optimizer.

    The pair must be static: the same sites, shapes and operations at every
    step. A structure that depends on a parameter's value or on a draw is
    refused. One that depends on an argument's value has a graph for each value,
    up to 16. These compile a new graph:

    - an argument's new shape, strides, dtype or Python value;
    - a module's `train()` or `eval()`, a frozen parameter, another dtype, a
      hook, and a parameter, buffer or submodule put in another's place;
    - a number, string, container, array or function that the code of the pair,
      or what it calls, reads from a global, a closure, an attribute, a class
      or a default argument, if it changes.

    Tensors that the code reads there are read anew at every step, and those
    that it leaves in an attribute are left there. Other changes that it makes
    to Python objects, such as a counter's or an argument's, are refused, and
    so are random numbers from Python or NumPy, and seeds.

    Steps 1, 2, 4, 8, ... are also computed eagerly, without being taken, and
    compared, which finds what code cannot be read for: files, the environment,
    objects of other libraries. Such state remains unseen between two of these
    steps, and so do arrays of more than 1 MB, and containers in a container of
    more than 100 entries.

    Args:
        model: A Pyro model: any callable.
        guide: Its guide.
        optim: An optimizer of `pyro.optim` (`Adam`, `AdamW` and `ClippedAdam`
            are the fastest), a scheduler of it, or a torch optimizer over
            given parameters.
        loss: An estimator such as `Trace_ELBO` (by default), or a function
            `(model, guide, *args, **kwargs)` that returns the loss. A
            `ReportingELBO` gets its reports.
        loss_and_grads: A function like `loss` that also computes gradients, if
            `loss` is a function.
        num_samples: Not used, nor is `num_steps`: they are SVI's.
        num_steps: See there.
        precision: The precision of large float32 matrix products: `highest`,
            `high` or `medium` (on the CPU: bfloat16 products where the
            processor has them).
        clip_norm: The largest norm of all gradients together; by default they
            are left as they are.
        compare: Whether steps 2, 4, 8, ... are compared with eager ones.
        engine: `compiled` compiles at the first step, which takes seconds.
            `auto` lets Python run the recorded graph, operation by operation,
            for the first 1,000 steps of each graph, and compiles then: at a
            fixed step, so that a seed has one trace. Without a C++ compiler
            it goes on so.
        shards: The processes that share each minibatch. Each of them begins it
            (`rows = shards.begin(B)`) and calls `step` on its own rows, on a
            pair whose plate has the size `shards.share(N)`. They draw as one
            process would, losses and gradients are summed over all, outside of
            any graph, and each takes the same update. The loss must be a sum
            over the rows. What cannot be split is refused in all of them.

    Attributes:
        estimator: The estimator or function that was given as `loss`.

    Raises:
        ValueError: For an optimizer, a loss, a precision or an engine that it
            cannot take.
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        optim: PyroOptim | torch.optim.Optimizer,
        loss: ELBO | Callable | None = None,
        loss_and_grads: Callable | None = None,
        num_samples: int = 0,
        num_steps: int = 0,
        *,
        precision: str = "highest",
        clip_norm: float | None = None,
        compare: bool = True,
        engine: str = "compiled",
        shards: Shards | None = None,
    ):
        check_optimizer(optim)
        if num_samples or num_steps:
            warnings.warn(
                "num_samples and num_steps are for SVI.run, which Pyro has "
                "deprecated and CompiledSVI does without; expected neither: "
                "use pyro.infer.Predictive for samples",
                FutureWarning,
                stacklevel=2,
            )
        self.model, self.guide, self.optim = model, guide, optim
        self.estimator = Trace_ELBO() if loss is None else loss
        # An estimator has its own, here as in Pyro.
        own = None if isinstance(self.estimator, ELBO) else loss_and_grads
        self._loss_and_grads, self.clip_norm = own, clip_norm
        self.shards = shards or ALONE
        self._gradients = CompiledGradients(
            self._pair(), precision, compare, engine
        )
        self._updates: Updates | None = None
        self._last_stepped: list[Tensor] | None = None

    @property
    def loss(self) -> Any:
        """The function of `(model, guide, *args)` that returns the loss.

        As in `pyro.infer.SVI`: the method `loss` of the estimator. Another
        estimator may be put in its place.
        """
        return getattr(self.estimator, "loss", self.estimator)

    @loss.setter
    def loss(self, estimator: Any) -> None:
        owner: Any = getattr(estimator, "__self__", None)
        is_own = isinstance(owner, ELBO) and estimator.__name__ == "loss"
        self.estimator = owner if is_own else estimator

    @property
    def loss_and_grads(self) -> Callable:
        """The function like `loss` that also computes gradients.

        It is the one that `pyro.infer.SVI` has, and runs eagerly. Another one
        that is put in its place is recorded instead.
        """
        if self._loss_and_grads is not None:
            return self._loss_and_grads
        unused = PyroOptim(torch.optim.SGD, {})
        given = self.model, self.guide, unused, self.estimator
        return SVI(*given).loss_and_grads

    @loss_and_grads.setter
    def loss_and_grads(self, function: Callable | None) -> None:
        is_own = getattr(function, "__self__", None) is self.estimator
        self._loss_and_grads = None if is_own else function

    def __getstate__(self) -> dict[str, Any]:
        """Returns what to copy or pickle: graphs are made again."""
        state = self.__dict__ | {"_updates": None, "_last_stepped": None}
        return state | {"_gradients": self._gradients.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        options = state["_gradients"]
        self._gradients = CompiledGradients(self._pair(), *options)

    @property
    def precision(self) -> str:
        """The precision of large float32 products."""
        return self._gradients.precision

    @property
    def num_compilations(self) -> int:
        """The number of graphs that have been made."""
        return self._gradients.num_compilations

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Takes a gradient step on the loss and returns its estimate.

        Args:
            args: Arguments of the model and the guide: tensors, Python values,
                and lists, tuples, dictionaries and dataclasses of them.
            kwargs: The same, by name.

        Returns:
            A float, or a tuple of floats if the estimator has several losses.

        Raises:
            NonFiniteLossError: If the loss is NaN or infinite; it names the
                site, and nothing was touched.
            ValueError: What Pyro raises if a distribution finds, as it
                validates, a parameter or a value out of its range. On CUDA
                only the steps that are compared validate.
            DynamicPairError: If the pair is found not to be static.
            CompilationError: If the machine cannot compile.
        """
        values = [loss.item() for loss in self._step(args, kwargs)]
        call = self.shards, self.model, self.guide, *args
        for value in values:
            check_finite(value, *call, **kwargs)
        if not computes_loss(self.estimator):
            return math.inf
        return values[0] if len(values) == 1 else tuple(values)

    def step_tensor(self, *args: Any, **kwargs: Any) -> Any:
        """Takes a step and returns the loss as a tensor, `()`, or several.

        On CUDA nothing waits for the device, unless there are several
        processes, or the optimizer is another than those that are the fastest.
        A loss that is not finite updates nothing and is returned.
        """
        losses = self._step(args, kwargs)
        if not computes_loss(self.estimator):
            losses = [torch.full_like(loss, torch.inf) for loss in losses]
        return losses[0] if len(losses) == 1 else tuple(losses)

    def _step(self, args: tuple, kwargs: dict) -> list[Tensor]:
        check_grad_enabled()
        with torch.no_grad():
            self._look()
            run = self._gradients.compute(args, kwargs)
            self._update(run)
            return run.losses

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Returns an estimate of the loss; arguments as in `step`."""
        with torch.no_grad():
            self._look()
            return self._gradients.compute_loss(args, kwargs)

    def _pair(self) -> Pair:
        return Pair(
            self.model,
            self.guide,
            self.estimator,
            self._loss_and_grads,
            self.clip_norm,
            self.shards,
        )

    def _look(self) -> None:
        """Sees to it that the graphs are those of the pair as it is now."""
        if am_i_wrapped():
            raise ValueError(
                "the step runs inside a Pyro handler; expected it outside: "
                "put the handler around the model or the guide instead"
            )
        self._gradients.look(self._pair())

    def _update(self, run: Run) -> None:
        """Updates the parameters, unless a loss is not finite.

        A parameter that has stepped before steps also without a gradient, by
        its moments, as under `pyro.infer.SVI`, which leaves zeros in its
        gradient.
        """
        skip = None
        if run.losses[0].is_cuda:
            skip = (~run.is_finite()).to(torch.float32)
        elif not all(math.isfinite(loss.item()) for loss in run.losses):
            return
        if self._updates is None or self._updates.optim is not self.optim:
            self._updates = make_updates(self.optim)
        stepped, gradients = self._add_given(run)
        if stepped is not self._last_stepped:
            mark_stepped(stepped)
            if isinstance(self.optim, PyroOptim):  # also those that rest
                adopt_parameters(self.optim, run.announced)
            self._last_stepped = stepped
        params = self._list_stepping(run.announced, stepped)
        if params is not stepped:
            known = dict(zip(stepped, gradients, strict=True))
            gradients = [
                known[param] if param in known else torch.zeros_like(param)
                for param in params
            ]
        self._updates.step(self._updates.add(params), gradients, skip)

    def _list_stepping(
        self, announced: list[Tensor], stepped: list[Tensor]
    ) -> list[Tensor]:
        """Returns the parameters that step, where some have a gradient.

        Returns:
            The list of the latter itself where it is all of them.
        """
        if [*map(id, announced)] == [*map(id, stepped)]:
            return stepped
        known = {id(param) for param in stepped}
        params = [p for p in announced if id(p) in known or has_stepped(p)]
        is_all = [*map(id, params)] == [*map(id, stepped)]
        return stepped if is_all else params

    def _add_given(self, run: Run) -> tuple[list[Tensor], list[Tensor]]:
        """Adds the gradients that a `backward` of the user's has left."""
        given = {p: p.grad for p in run.announced if p.grad is not None}
        if not given:
            return run.stepped, run.gradients
        gradients = run.by_parameter()
        for param, grad in given.items():
            gradients[param] = gradients.get(param, 0) + grad
            param.grad = None
        return [*gradients], [*gradients.values()]
