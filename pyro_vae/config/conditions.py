"""What a VAE is conditional on: a table like those of variants.py."""

from pyro_vae.config.bounds import exactly
from pyro_vae.config.variant import Table, Variant
from pyro_vae.config.variants import PRIORS

# The vamp prior's learned images have no labels, and E-steps see none.
# make(num_labels)
CONDITIONS: Table = {
    "none": Variant(lambda num_labels: 0),
    "labels": Variant(
        lambda num_labels: num_labels,
        goes_with={
            "prior": tuple(name for name in PRIORS if name != "vamp"),
            "inference": ("amortized",),
        },
        bounds={"labeled": exactly(None)},
    ),
}
