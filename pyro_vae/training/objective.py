"""The objective of a fit: the weight of its KL by the step, and its reports."""

from dataclasses import asdict

from torch import Tensor

from pyro_vae.config import ObjectiveConfig, part_of
from pyro_vae.objectives import make_objective
from pyro_vae.svi import ReportingELBO, Shards
from pyro_vae.training.schedules import kl_weight
from pyro_vae.vae import VAE

Number = float | Tensor


class AnnealedObjective:
    """A configuration's objective, whose KL may warm up.

    Args:
        config: The objective, its beta and its warm-up.
        vae: The VAE, on its device.
        num_data: N, the number of images that the loss is scaled to.
        epoch_steps: The number of steps in an epoch.
        shards: The processes that share each minibatch.

    Attributes:
        estimator: The Pyro estimator.
        is_elbo: Whether its loss is minus the ELBO, so that a step has one
            number to report.

    Raises:
        ValueError: If the objective cannot take the VAE.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        vae: VAE,
        num_data: int,
        epoch_steps: int,
        shards: Shards | None = None,
    ):
        _check_inference(config, vae)
        beta: Number = config.beta
        if config.warmup:
            # A tensor, which a compiled step reads anew every time.
            beta = next(vae.parameters()).new_tensor(beta)
        self._weight = beta
        self.estimator = make_objective(
            vae,
            config.objective,
            config.num_particles,
            config.alpha,
            beta,
            config.free_bits,
            shards,
        )
        self.is_elbo = not isinstance(self.estimator, ReportingELBO)
        self._beta, self._num_data = config.beta, num_data
        self._warmup_steps = config.warmup * epoch_steps

    def weight(self, step: int) -> float:
        """Returns the weight of the KL at a step, which counts from 1."""
        return kl_weight(self._beta, step, self._warmup_steps)

    def set_weight(self, step: int) -> None:
        """Sets the weight of the KL for a step, which counts from 1."""
        if isinstance(self._weight, Tensor):
            self._weight.fill_(self.weight(step))

    def read(self, loss: Number) -> tuple[Number, Number]:
        """Returns a step's objective and its ELBO, in nats per image.

        Args:
            loss: What the step returned. If it is a tensor, so are they.
        """
        value = -loss / self._num_data
        if not isinstance(self.estimator, ReportingELBO):
            return value, value
        elbo = self.estimator.report() / self._num_data
        return value, elbo if isinstance(loss, Tensor) else elbo.item()


def _check_inference(config: ObjectiveConfig, vae: VAE) -> None:
    """Refuses E-steps, which climb the plain ELBO, for another objective.

    Raises:
        ValueError: If the VAE has E-steps, and the objective is another.
    """
    ours = part_of(config, ObjectiveConfig)
    plain = asdict(ObjectiveConfig(num_particles=config.num_particles))
    if vae.inference.is_amortized or ours == plain:
        return
    raise ValueError(
        f"the inference is {type(vae.inference).__name__}, whose E-steps climb "
        "the ELBO; expected objective=elbo, with beta=1 and without warmup or "
        "free_bits"
    )
