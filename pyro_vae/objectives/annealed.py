"""The objective of a fit: its KL's weight by the step, and what it says."""

from torch import Tensor

from pyro_vae.config import Config
from pyro_vae.objectives.choices import choose_objective
from pyro_vae.schedules import kl_weight
from pyro_vae.vae import VAE

Number = float | Tensor


class AnnealedObjective:
    """A configuration's objective, whose KL may warm up.

    Args:
        config: Its objective, beta and warm-up.
        vae: The VAE, on its device.
        num_data: N, the images that the loss is scaled to.
        epoch_steps: Steps in an epoch.

    Attributes:
        estimator: The Pyro estimator.
        is_elbo: Whether its loss is minus the ELBO, so that one number does.
    """

    def __init__(
        self, config: Config, vae: VAE, num_data: int, epoch_steps: int
    ):
        self.estimator = choose_objective(config, vae)
        self.is_elbo = not hasattr(self.estimator, "elbo")
        self._beta, self._num_data = config.beta, num_data
        self._warmup_steps = config.warmup * epoch_steps

    def weight(self, step: int) -> float:
        """Returns the weight of the KL at a step, which counts from 1."""
        return kl_weight(self._beta, step, self._warmup_steps)

    def set_weight(self, step: int) -> None:
        """Sets it, in place: a compiled step goes on with the same graph."""
        if self._warmup_steps:
            self.estimator.beta.fill_(self.weight(step))

    def read(self, loss: Number) -> tuple[Number, Number]:
        """Returns a step's objective and its ELBO, in nats per image.

        Args:
            loss: What the step returned: where that is a tensor, so are they.
        """
        value = -loss / self._num_data
        if self.is_elbo:
            return value, value
        elbo = self.estimator.elbo / self._num_data
        return value, elbo if isinstance(loss, Tensor) else elbo.item()
