"""Pyro's examples and tutorials that use SVI, for pyro_programs.py."""

from dataclasses import dataclass

NO_CODE = "it has no cells of code"
PIECES = "its cells are pieces of a class; no step is taken"


@dataclass(frozen=True)
class Program:
    """A program of Pyro's repository, and how it is run.

    Attributes:
        path: Where it lies in a checkout.
        arguments: Words after a script, which make it small.
        smoke: Whether a notebook is told that it is tested (`CI`).
        left_out: Why it is not run, if it is not.
    """

    path: str
    arguments: str = ""
    smoke: bool = False
    left_out: str = ""

    @property
    def name(self) -> str:
        """The path, without its first folders, and the telling arguments."""
        return f"{self.path} {self.arguments}".strip()


def _variants(path: str, common: str, *variants: str) -> list[Program]:
    return [Program(path, f"{common} {more}".strip()) for more in variants]


def _notebooks(*names: str, **options: bool | str) -> list[Program]:
    return [
        Program(f"tutorial/source/{name}.ipynb", **options)  # type: ignore
        for name in names
    ]


PROGRAMS = [
    *_variants("examples/air/main.py", "-n 20", "", "--no-baselines"),
    *_variants(
        "examples/capture_recapture/cjs.py",
        "-n 20",
        *(f"-m {model}" for model in range(1, 6)),
        "-m 1 --tmc",
    ),
    Program("examples/contrib/autoname/mixture.py", "-n 20"),
    Program("examples/contrib/autoname/scoping_mixture.py", "-n 20"),
    Program("examples/contrib/autoname/tree_data.py", "-n 20"),
    *_variants("examples/contrib/funsor/hmm.py", "-n 20 -t 6", "", "--jit"),
    Program("examples/cvae/main.py", "-n 1 -nq 1"),
    *_variants(
        "examples/dmm.py",
        "-n 20",
        "-mbs 30",
        "-mbs 60",
        "-mbs 60 -ae 0",
        "-mbs 60 -ae 0 -iafs 2",
    ),
    *_variants("examples/eight_schools/svi.py", "--num-epochs 20", "", "--jit"),
    *_variants(
        "examples/hmm.py",
        "-n 20 -t 6",
        "-m 1",
        "-m 1 --tmc",
        *(f"-m {model} --jit" for model in range(8)),
        "-m 1 -rp --jit",
    ),
    Program("examples/lda.py", "-n 20 -w 128 -d 200"),
    Program(
        "examples/minipyro.py",
        "-n 20",
        left_out="minipyro has an SVI of its own",
    ),
    Program("examples/minipyro.py", "-n 20 --backend pyro"),
    Program("examples/neutra.py", "-n 20 --num-warmup 1 --num-samples 8"),
    Program("examples/scanvi/scanvi.py", "-n 6 -d mock -bs 20"),
    *_variants(
        "examples/sparse_gamma_def.py",
        "-n 20 -ef 5 -ep 2",
        *(f"--guide {guide}" for guide in ("custom", "auto", "easy")),
    ),
    Program("examples/svi_horovod.py", "-n 1 -s 2000 --no-horovod"),
    Program(
        "examples/toy_mixture_model_discrete_enumeration.py", "-n 20 -o 500"
    ),
    *_variants(
        "examples/vae/ss_vae_M2.py",
        "-n 1",
        "--aux-loss",
        "-enum sequential",
    ),
    *_variants("examples/vae/vae.py", "-n 1", "", "--jit"),
    Program("examples/vae/vae_comparison.py", "-n 1"),
    *_notebooks("custom_objectives", "dmm", left_out=NO_CODE),
    *_notebooks("ss-vae", left_out=PIECES),
    *_notebooks("scanvi", "vae", smoke=True),
    *_notebooks(
        "air",
        "bayesian_regression",
        "bayesian_regression_ii",
        "boosting_bbvi",
        "dirichlet_process_mixture",
        "easyguide",
        "ekf",
        "gmm",
        "intro_long",
        "intro_part_ii",
        "jit",
        "logistic-growth",
        "mle_map",
        "modules",
        "predictive_deterministic",
        "prodlda",
        "stable",
        "svi_flow_guide",
        "svi_part_i",
        "svi_part_iii",
        "tracking_1d",
        "vae_flow_prior",
        "workflow",
        "working_memory",
    ),
]
