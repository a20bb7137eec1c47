# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Variational autoencoders in Pyro
#
# A decoder $f$ with weights $w$ turns a latent vector $z$ into an image $x$. A
# second network, the encoder $g$ with weights $\phi$, infers $z$ from $x$:
# $$z_n \sim N(0, I), \qquad x_n \mid z_n \sim N\bigl(f(z_n, w),
# \Sigma\bigr), \qquad \Theta = (w, \Sigma),$$
#
# $$q(z_n; x_n, \phi) = N\bigl(z_n \mid \mu_n,
# \operatorname{diag}(\sigma_n^2)\bigr), \qquad
# (\mu_n, \upsilon_n) = g(x_n, \phi), \qquad
# \sigma_n = \log(1 + e^{\upsilon_n}).$$
#
# Each network has one hidden layer of 512 ReLU units. The latent dimension is
# $P = 2$; an image has $D$ pixels with values in $[0, 1]$. Formulas are given
# for any covariance $\Sigma$ first; the model that is trained has
# $\Sigma = s^2 I$ with one learned scale $s = e^{\ell}$. Both $s$ and $\sigma$
# are positive by construction. Pyro trains all parameters by gradient ascent on
# the evidence lower bound (ELBO), estimated on minibatches.
#
# | item | what is asked |
# |:-----|:--------------------------------------------------------------|
# | [1a] | an unbiased estimate of the ELBO from a minibatch |
# | [1b] | its gradient in $\Theta$ |
# | [1c] | the KL divergence of two Gaussians |
# | [1d] | the gradient in $\phi$, by reparameterization |
# | [2a] | the code: [infer], [generate] and [compute_elbo] |
# | [2b] | training on MNIST |
# | [3a] | 10 x 10 real digits and 10 x 10 samples |
# | [3b] | the latents by label, and the 20 x 20 manifold over their range |
# | [4a] | a Laplace prior, reparameterized and trained |
# | [4b] | discrete latents |
# | [more] | how good the bound is, against the exact $\log p(x)$ |
#
# [1a]: #Problem-1a:-the-minibatch-ELBO
# [1b]: #Problem-1b:-the-gradient-in-Theta
# [1c]: #Problem-1c:-the-KL-divergence-of-two-Gaussians
# [1d]: #Problem-1d:-the-gradient-in-phi
# [2a]: #Problem-2a:-the-code
# [infer]: #The-function-infer
# [generate]: #The-function-generate
# [compute_elbo]: #The-function-compute_elbo
# [2b]: #Problem-2b:-training
# [3a]: #Problem-3a:-samples
# [3b]: #Problem-3b:-the-latent-space
# [4a]: #Problem-4a:-a-Laplace-prior
# [4b]: #Problem-4b:-discrete-latents
# [more]: #Beyond:-how-good-the-bound-is
#
# The notebook and its PDF come from one run. No line of code is longer than 80
# columns. Smaller `EPOCHS` or `LIMIT` make a quick run, and the same seed gives
# the same numbers on the same machine (except for running times).

# %%
import itertools
import math
from copy import deepcopy
from functools import partial
from time import perf_counter as clock

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from IPython.display import display
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn
from torch.distributions import kl_divergence
from torch.nn.functional import one_hot, softplus
from tqdm import tqdm

import pyro_vae
from pyro_vae.data import DataUnavailableError, load
from pyro_vae.evaluation import posterior_density, split_gap
from pyro_vae.svi import CompilationError, CompiledSVI

# %% tags=["parameters"]
DATASET = "mnist"  # or "digits": 8 x 8 pixels, and no download
EPOCHS = 10
LIMIT = None  # how many images of each set; None takes all
SEED = 0

# %%
plt.rcParams.update({"figure.dpi": 120, "font.size": 9})
plt.rcParams["figure.constrained_layout.use"] = True
try:
    data = load(DATASET).first(LIMIT)
except DataUnavailableError:
    print("MNIST is not on disk and cannot be downloaded:")
    print("the 8 x 8 digits of scikit-learn stand in for it.")
    data = load("digits").first(LIMIT)
print(
    f"{data.name}: {len(data.train):,} training and {len(data.test):,} test "
    f"images of {data.data_dim} pixels"
)

# %% [markdown]
# The package `pyro_vae` loads the images here, and checks the results at the
# end. The VAE itself is built from Pyro and torch alone.
#
# ## Pyro in one cell
#
# A Pyro *model* is a function that draws every random variable with
# `pyro.sample`; `obs=` marks one as observed. A *guide* is another function,
# which draws the latents, by the same names, from $q$.
#
# - `pyro.plate("images", N, subsample=x)` declares the images independent. Only
#   the length $B$ of `x` matters here: if it is below $N$, Pyro multiplies the
#   log-densities inside by $N / B$.
# - `to_event(1)` makes the last dimension one vector, so that the log-density
#   of an image is the sum over its pixels.
# - `Trace_ELBO` runs the guide, runs the model again with the guide's $z$ in
#   place of its own, and returns minus the estimate of $\mathcal{L}$, the sum
#   over all $N$ images and not their mean: a loss.
#
# Below are the model and the guide in miniature: 4 pixels, 5 hidden units, 6
# images, minibatches of 2, in double precision. Problem 1 checks its formulas
# on them.
#
# The initial weights of the VAE come from $N(0, 0.01)$. The second argument
# is read as a variance, as in $N(0, I)$ and $N(f, \Sigma)$, so the standard
# deviation is 0.1. (With a standard deviation of 0.01, the output of $f$
# would hardly depend on $z$ at the start.) Only the miniature redraws its
# weights from $N(0, 1)$, so that every term of a formula matters.


# %%
def network(inputs, outputs, hidden=512):
    """One hidden layer; the weights from N(0, 0.01), the biases zero."""
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    for layer in (first, last):
        nn.init.normal_(layer.weight, std=0.1)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), last)


torch.set_default_dtype(torch.float64)  # until Problem 2
torch.manual_seed(SEED)
N, B, D, P = 6, 2, 4, 2
x_all = torch.rand(N, D)
f = nn.Sequential(network(P, D, hidden=5), nn.Sigmoid())
g = network(D, 2 * P, hidden=5)
for parameter in [*f.parameters(), *g.parameters()]:
    nn.init.normal_(parameter)  # so that every term of a formula matters
s = torch.tensor(0.4, requires_grad=True)


def tiny_model(x, num_data):
    with pyro.plate("images", num_data, subsample=x):
        prior = dist.Normal(torch.zeros(P), torch.ones(P)).to_event(1)
        z = pyro.sample("z", prior)
        pyro.sample("x", dist.Normal(f(z), s).to_event(1), obs=x)


def tiny_guide(x, num_data):
    mu, upsilon = g(x).chunk(2, dim=-1)
    with pyro.plate("images", num_data, subsample=x):
        q = dist.Normal(mu, softplus(upsilon)).to_event(1)
        pyro.sample("z", q)


# %% [markdown]
# Two helpers show the checks. `compare` prints our result, the reference, and
# their largest difference; a result with several entries is shown by its
# norm. `estimate` prints the mean of many draws, its distance from the truth
# in standard errors (for a correct formula, above 4.26 in only one of 50,000
# cases), and the standard deviation of a draw.


# %%
def compare(what, ours, other, tolerance=1e-9):
    ours, other = ours.detach().flatten(), other.detach().flatten()
    difference = (ours - other).abs().max().item()
    size = max(1.0, other.norm().item())
    left, right = (v.item() if len(v) == 1 else v.norm() for v in (ours, other))
    print(f"{what:<36}{left:>13.6f}{right:>13.6f}{difference:>9.0e}")
    assert difference <= tolerance * size


def estimate(what, draws, truth):
    error = (draws.std() / len(draws) ** 0.5).item()
    off = (draws.mean().item() - truth) / error
    print(
        f"{what:<30}{draws.mean():>9.3f} +- {error:.3f}, "
        f"off by {off:+.2f}, deviation {draws.std():.2f}"
    )
    assert abs(off) < 4.26


def join(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def title(*names):
    print(f"{'':<36}{names[0]:>13}{names[1]:>13}{'differ':>9}")


# %% [markdown]
# # Problem 1: the estimators
#
# ## Problem 1a: the minibatch ELBO
#
# *Estimate the ELBO of the data set without bias from a minibatch.*
#
# By Jensen's inequality, for any $q$ that is positive where the posterior is,
# $$\log p(x_n) = \log \mathbb{E}_q \left[\frac{p(x_n, z)}{q(z)}\right] \ge
# \mathbb{E}_q \bigl[\log p(x_n, z) - \log q(z)\bigr] = \mathcal{L}_n,
# \qquad \mathcal{L} = \sum_{n=1}^N \mathcal{L}_n .$$
#
# Draw a minibatch $\mathcal{B}$ of $B$ indices, uniformly without replacement,
# and $S$ samples $z_{nj} \sim q(\cdot\,; x_n, \phi)$ for each of them:
# $$\hat{\mathcal{L}} = \frac{N}{B} \sum_{n \in \mathcal{B}} \frac{1}{S}
# \sum_{j=1}^S \bigl[\log p(x_n, z_{nj}; \Theta) -
# \log q(z_{nj}; x_n, \phi)\bigr].$$
#
# **It is unbiased.** Given the minibatch, the inner mean has expectation
# $\mathcal{L}_n$. Each index is in the minibatch with probability $B / N$, so
# $$\mathbb{E} \hat{\mathcal{L}} = \frac{N}{B} \sum_{n=1}^N
# P(n \in \mathcal{B})\, \mathcal{L}_n
# = \frac{N}{B} \sum_{n=1}^N \frac{B}{N} \mathcal{L}_n = \mathcal{L}.$$
#
# **With the KL in closed form.** Since
# $\mathcal{L}_n = \mathbb{E}_q \log p(x_n \mid z) - KL(q, p)$, and the KL is
# known by 1c, only the first term needs samples:
# $$\hat{\mathcal{L}}^{KL} = \frac{N}{B} \sum_{n \in \mathcal{B}} \left[
# \frac{1}{S} \sum_{j=1}^S \log p(x_n \mid z_{nj}; \Theta) -
# \frac12 \sum_{p=1}^P \bigl(\mu_{np}^2 + \sigma_{np}^2 - 1 -
# \log \sigma_{np}^2\bigr) \right].$$
#
# It replaces a sampled term by its expectation, so it is unbiased as well.
#
# **Check.** With $S = 1$ and $z = \mu + \sigma \odot \epsilon$: both formulas
# against Pyro's two estimators at the same noise, `Trace_ELBO`, which samples
# the KL, and `TraceMeanField_ELBO`, which has it in closed form; then the mean
# over all 15 minibatches against the sum over all images.


# %%
def log_normal(x, loc, scale):
    return dist.Normal(loc, scale).log_prob(x).sum(-1)


def terms(x, epsilon):
    """Each image's log p(x | z), and its KL, sampled and exact."""
    mu, upsilon = g(x).chunk(2, dim=-1)
    sigma = softplus(upsilon)
    z = mu + sigma * epsilon
    zero, one = torch.zeros(P), torch.ones(P)
    sampled = log_normal(z, mu, sigma) - log_normal(z, zero, one)
    exact = (mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum(-1) / 2
    return log_normal(x, f(z), s), sampled, exact


def pyro_elbo(estimator):
    """Pyro's estimate from the first minibatch, its noise from a seed."""
    torch.manual_seed(1)
    loss = estimator.differentiable_loss(tiny_model, tiny_guide, x, N)
    return -loss


# %%
x = x_all[:B]
torch.manual_seed(1)
epsilon = torch.randn(B, P)  # what Pyro draws from this seed
title("by hand", "Pyro")
likelihood, sampled, exact = terms(x, epsilon)
elbo = N / B * (likelihood - sampled).sum()
compare("ELBO: Trace_ELBO", elbo, pyro_elbo(Trace_ELBO()))
elbo = N / B * (likelihood - exact).sum()
other = pyro_elbo(TraceMeanField_ELBO())
compare("KL exact: TraceMeanField_ELBO", elbo, other)

likelihood, sampled, _ = terms(x_all, torch.randn(N, P))
each = likelihood - sampled
batches = torch.tensor(list(itertools.combinations(range(N), B)))
title("15 batches", "all images")
estimates = N / B * each[batches].sum(1)
compare("mean of the estimates", estimates.mean(), each.sum())

# %% [markdown]
# Next, 4,000 draws of the noise for one minibatch. The exact value comes from
# a grid of 300 x 300 quantiles of the noise. The closed form halves the
# standard deviation here.

# %%
with torch.no_grad():
    likelihood, sampled, exact = terms(x, torch.randn(4000, B, P))
    grid = dist.Normal(0.0, 1.0).icdf((torch.arange(300) + 0.5) / 300)
    truth = terms(x[:, None], torch.cartesian_prod(grid, grid))
    truth = N / B * (truth[0] - truth[2]).mean(1).sum().item()
print(f"the ELBO of the minibatch, by a sum over a grid: {truth:.3f}")
estimate("KL sampled", N / B * (likelihood - sampled).sum(-1), truth)
estimate("KL in closed form", N / B * (likelihood - exact).sum(-1), truth)

# %% [markdown]
# ## Problem 1b: the gradient in Theta
#
# *Give the gradient of the estimate in $\Theta$.*
#
# The samples do not depend on $\Theta$, and of the summands only
# $\log p(x \mid z)$ does:
# $$\nabla_\Theta \hat{\mathcal{L}} = \nabla_\Theta \hat{\mathcal{L}}^{KL}
# = \frac{N}{B S} \sum_{n \in \mathcal{B}} \sum_{j=1}^S
# \nabla_\Theta \log p(x_n \mid z_{nj}; \Theta).$$
#
# **Any covariance.** Let $r = x - f(z, w)$, and let $J_w f$ be the Jacobian of
# $f$ in $w$. From
# $\log p(x \mid z) = -\frac12 \log |2 \pi \Sigma| - \frac12 r^T \Sigma^{-1} r$,
# with $d \log |\Sigma| = \operatorname{tr}(\Sigma^{-1} d\Sigma)$ and
# $d \Sigma^{-1} = -\Sigma^{-1} (d\Sigma)\, \Sigma^{-1}$,
# $$\nabla_w \log p = (J_w f)^T\, \Sigma^{-1} r, \qquad
# \nabla_\Sigma \log p = \tfrac12 \bigl(\Sigma^{-1} r r^T \Sigma^{-1} -
# \Sigma^{-1}\bigr).$$
#
# **One scale.** For $\Sigma = s^2 I$ with $s = e^{\ell}$,
# $$\nabla_w \log p = (J_w f)^T\, \frac{x - f(z, w)}{s^2}, \qquad
# \frac{\partial \log p}{\partial s} = \frac{\|x - f(z, w)\|^2}{s^3} -
# \frac{D}{s}.$$
#
# The second is zero where $s^2$ is the mean squared residual of a pixel. By the
# chain rule, $\partial \log p / \partial \ell
# = s\, \partial \log p / \partial s$.
#
# **The result**, with $r_{nj} = x_n - f(z_{nj}, w)$:
# $$\nabla_w \hat{\mathcal{L}} = \frac{N}{B S s^2} \sum_{n \in \mathcal{B}}
# \sum_{j=1}^S (J_w f)^T r_{nj}, \qquad
# \frac{\partial \hat{\mathcal{L}}}{\partial s} = \frac{N}{B S}
# \sum_{n \in \mathcal{B}} \sum_{j=1}^S \left(
# \frac{\|r_{nj}\|^2}{s^3} - \frac{D}{s} \right).$$
#
# **Check.** In code, a product with a transposed Jacobian is
# `torch.autograd.grad(f(z), w, grad_outputs=...)`. First any covariance against
# autograd through a multivariate normal, then one scale against autograd
# through Pyro's loss.

# %%
w = list(f.parameters())
z = torch.randn(P)
root = torch.randn(D, D)
Sigma = (root @ root.T + torch.eye(D)).requires_grad_()
r = x[0] - f(z)
Sinv_r = Sigma.inverse() @ r
in_w = torch.autograd.grad(f(z), w, grad_outputs=Sinv_r)
in_Sigma = (Sinv_r.outer(Sinv_r) - Sigma.inverse()) / 2
log_p = dist.MultivariateNormal(f(z), Sigma).log_prob(x[0])
auto = torch.autograd.grad(log_p, [*w, Sigma])
title("by hand", "autograd")
compare("any covariance, in w", join(in_w), join(auto[:-1]))
compare("any covariance, in Sigma", in_Sigma, auto[-1])

# %%
mu, upsilon = (t.detach() for t in g(x).chunk(2, dim=-1))
mean = f(mu + softplus(upsilon) * epsilon)
r = (x - mean).detach()
in_w = torch.autograd.grad(mean, w, grad_outputs=N / B * r / s**2)
in_s = N / B * (r.square().sum(-1) / s**3 - D / s).sum()
title("by hand", "Pyro")
for what, estimator in (
    ("", Trace_ELBO()),
    (", KL exact", TraceMeanField_ELBO()),
):
    auto = torch.autograd.grad(pyro_elbo(estimator), [*w, s])
    compare(f"one scale, in w{what}", join(in_w), join(auto[:-1]))
    compare(f"one scale, in s{what}", in_s, auto[-1])

# %% [markdown]
# ## Problem 1c: the KL divergence of two Gaussians
#
# *Derive $KL(q_1, q_2)$ for $q_i = N(\mu_i, \Sigma_i)$ in $P$ dimensions.*
#
# With $z \sim q_1$,
# $$\log \frac{q_1(z)}{q_2(z)} = \tfrac12 \log \frac{|\Sigma_2|}{|\Sigma_1|} -
# \tfrac12 (z - \mu_1)^T \Sigma_1^{-1} (z - \mu_1) +
# \tfrac12 (z - \mu_2)^T \Sigma_2^{-1} (z - \mu_2).$$
#
# **The expectation of a quadratic form.** For any vector $m$ and matrix $A$,
# write $z - m = (z - \mu_1) + (\mu_1 - m)$ and expand. The mixed terms are
# linear in $z - \mu_1$, whose mean is zero, so they vanish. The square of the
# first part is a number, hence its own trace, and a trace allows its factors to
# be permuted cyclically:
# $$\mathbb{E} (z - \mu_1)^T A (z - \mu_1)
# = \operatorname{tr}\bigl(A\, \mathbb{E} (z - \mu_1)(z - \mu_1)^T\bigr)
# = \operatorname{tr}(A \Sigma_1),$$
#
# $$\mathbb{E} (z - m)^T A (z - m) = \operatorname{tr}(A \Sigma_1) +
# (\mu_1 - m)^T A (\mu_1 - m).$$
#
# **The divergence.** The first form, $m = \mu_1$ and $A = \Sigma_1^{-1}$, has
# expectation $\operatorname{tr} I = P$. The second has $m = \mu_2$ and
# $A = \Sigma_2^{-1}$. Together,
# $$KL(q_1, q_2) = \tfrac12 \left[ \operatorname{tr}(\Sigma_2^{-1} \Sigma_1) +
# (\mu_2 - \mu_1)^T \Sigma_2^{-1} (\mu_2 - \mu_1) - P +
# \log \frac{|\Sigma_2|}{|\Sigma_1|} \right].$$
#
# From the guide to the prior, $\Sigma_1 = \operatorname{diag}(\sigma^2)$,
# $\mu_2 = 0$ and $\Sigma_2 = I$, this is the sum over $p$ of
# $\frac12 (\mu_p^2 + \sigma_p^2 - 1 - \log \sigma_p^2)$.

# %%
mu1, mu2, m = torch.randn(3, 3)
roots = torch.randn(2, 3, 3)
S1, S2 = roots @ roots.mT + torch.eye(3)
A, shift = S2.inverse(), mu2 - mu1
log_ratio = S2.logdet() - S1.logdet()
kl = ((A @ S1).trace() + shift @ A @ shift - 3 + log_ratio) / 2
q1, q2 = dist.MultivariateNormal(mu1, S1), dist.MultivariateNormal(mu2, S2)
title("by hand", "torch")
compare("KL of two Gaussians", kl, kl_divergence(q1, q2))
draws = q1.sample((20_000,))
quadratic = ((draws - m) @ A * (draws - m)).sum(-1)
expected = ((A @ S1).trace() + (mu1 - m) @ A @ (mu1 - m)).item()
print(f"\nby the formulas: {expected:.3f} and {kl:.3f}; by 20,000 draws:")
estimate("quadratic form", quadratic, expected)
estimate("log q1 - log q2", q1.log_prob(draws) - q2.log_prob(draws), kl.item())

# %% [markdown]
# ## Problem 1d: the gradient in phi
#
# *Give the gradient of the estimate in $\phi$, by reparameterization.*
#
# The distribution of the samples depends on $\phi$, so the gradient cannot
# simply be moved inside the expectation. Write
# $z = \mu + \sigma \odot \epsilon$ with $\epsilon \sim N(0, I)$, whose
# distribution does not depend on $\phi$. Then
# $$\nabla_\phi\, \mathbb{E}_q \bigl[\log p(x, z) - \log q(z; x, \phi)\bigr]
# = \mathbb{E}_\epsilon \nabla_\phi
# \bigl[\log p(x, \mu + \sigma \odot \epsilon) -
# \log q(\mu + \sigma \odot \epsilon; x, \phi)\bigr],$$
#
# and samples of $\epsilon$ estimate the right side without bias. Along
# $z = \mu + \sigma \odot \epsilon$ the log-density of the guide is
# $\log q = -\sum_p \bigl[\log \sigma_p + \frac12 \epsilon_p^2 +
# \frac12 \log 2 \pi\bigr]$, which depends on $\phi$ through $\sigma$ alone.
# The rest depends on $\phi$ through $z$, with $\nabla_z \log p(z) = -z$ and,
# for any covariance,
# $$b = \nabla_z \log p(x \mid z)
# = (J_z f)^T\, \Sigma^{-1} \bigl(x - f(z, w)\bigr).$$
#
# Since $\partial z / \partial \mu = 1$,
# $\partial z / \partial \sigma = \epsilon$ and
# $\partial \sigma / \partial \upsilon = 1 / (1 + e^{-\upsilon})$, the gradient
# for one image and one sample is
# $$\nabla_\mu = b - z, \qquad
# \nabla_\sigma = \epsilon \odot (b - z) + \frac1\sigma, \qquad
# \nabla_\upsilon = \nabla_\sigma \odot \frac{1}{1 + e^{-\upsilon}}.$$
#
# **The result.** The Jacobian $J_\phi g$ of the encoder, with a row for each
# entry of $(\mu_n, \upsilon_n)$, carries both to $\phi$:
# $$\nabla_\phi \hat{\mathcal{L}} = \frac{N}{B S} \sum_{n \in \mathcal{B}}
# \sum_{j=1}^S J_\phi g(x_n, \phi)^T \begin{pmatrix} b_{nj} - z_{nj} \\[4pt]
# \Bigl(\epsilon_{nj} \odot (b_{nj} - z_{nj}) + \dfrac{1}{\sigma_n}\Bigr) \odot
# \dfrac{1}{1 + e^{-\upsilon_n}} \end{pmatrix},$$
#
# where $z_{nj} = \mu_n + \sigma_n \odot \epsilon_{nj}$ and, for
# $\Sigma = s^2 I$, $b_{nj} = J_z f(z_{nj}, w)^T (x_n - f(z_{nj}, w)) / s^2$.
#
# **With the KL in closed form**, $\nabla_\mu KL = \mu$ and
# $\nabla_\sigma KL = \sigma - 1 / \sigma$ by 1c, so that
# $$\nabla_\phi \hat{\mathcal{L}}^{KL} = \frac{N}{B S} \sum_{n \in \mathcal{B}}
# \sum_{j=1}^S J_\phi g(x_n, \phi)^T \begin{pmatrix} b_{nj} - \mu_n \\[4pt]
# \Bigl(\epsilon_{nj} \odot b_{nj} - \sigma_n + \dfrac{1}{\sigma_n}\Bigr) \odot
# \dfrac{1}{1 + e^{-\upsilon_n}} \end{pmatrix}.$$
#
# The two vectors that $J_\phi g^T$ multiplies, the *columns* below, differ by
# $-\sigma_n \odot \epsilon_{nj}$ on top and by $(\sigma_n - \epsilon_{nj}
# \odot z_{nj}) / (1 + e^{-\upsilon_n})$ below. Both have mean zero, since
# $\mathbb{E}\, \epsilon = 0$ and $\mathbb{E}\, \epsilon \odot z = \sigma$:
# the two gradients have the same mean.
#
# **Check.** Both columns against autograd through Pyro's losses.


# %%
def columns(x, epsilon):
    """What multiplies the Jacobian, with the KL sampled and exact."""
    mu, upsilon = (t.detach() for t in g(x).chunk(2, dim=-1))
    sigma = softplus(upsilon)
    z = (mu + sigma * epsilon).requires_grad_()
    mean = f(z)
    (b,) = torch.autograd.grad(mean, z, (x - mean).detach() / s**2)
    slope = torch.sigmoid(upsilon)
    below = (epsilon * (b - z) + 1 / sigma) * slope
    below_kl = (epsilon * b - sigma + 1 / sigma) * slope
    sampled = torch.cat([b - z, below], dim=-1)
    exact = torch.cat([b - mu, below_kl], dim=-1)
    return sampled.detach(), exact.detach()


phi = list(g.parameters())
title("by hand", "Pyro")
for what, column, estimator in zip(
    ("in phi", "in phi, KL exact"),
    columns(x, epsilon),
    (Trace_ELBO(), TraceMeanField_ELBO()),
    strict=True,
):
    ours = torch.autograd.grad(g(x), phi, grad_outputs=N / B * column)
    auto = torch.autograd.grad(pyro_elbo(estimator), phi)
    compare(what, join(ours), join(auto))

# %% [markdown]
# Next, the first entry of each column over 4,000 draws of the noise. Its
# exact mean comes from autograd through a sum over the grid.

# %%
point = g(x[:1]).detach().requires_grad_()  # (mu, upsilon) of one image
e = torch.cartesian_prod(grid, grid)
z = point[:, :P] + softplus(point[:, P:]) * e
expected = log_normal(x[0], f(z), s).mean() - (point[:, :P] ** 2).sum() / 2
truth = torch.autograd.grad(expected, point)[0][0, 0].item()
sampled, exact = columns(x[:1], torch.randn(4000, P))
print(f"the gradient in the first mu, by a sum over a grid: {truth:.3f}")
estimate("KL sampled", sampled[:, 0], truth)
estimate("KL in closed form", exact[:, 0], truth)

# %% [markdown]
# # Problem 2: the VAE
#
# ## Problem 2a: the code
#
# *Write the VAE in Pyro: infer, generate and compute_elbo.*
#
# A module holds $\Theta$ and $\phi$. `family` is the distribution of both prior
# and guide: `dist.Normal` now, `dist.Laplace` in 4a. `name` is there because
# Pyro keeps all parameters in one global store, under their names: two models
# of one name would share the weights of the first. `clear_param_store` empties
# this store, so that a cell can be run again; the trained weights stay in the
# module.

# %%
torch.set_default_dtype(torch.float32)


class Weights(nn.Module):
    """w and log s, which are Theta, and phi."""

    def __init__(self, name, family, data_dim, latent_dim=2):
        super().__init__()
        self.name, self.family, self.latent_dim = name, family, latent_dim
        self.f = nn.Sequential(network(latent_dim, data_dim), nn.Sigmoid())
        self.log_s = nn.Parameter(torch.zeros(()))
        self.g = network(data_dim, 2 * latent_dim)

    def prior(self):
        zero = torch.zeros(self.latent_dim)
        return self.family(zero, zero + 1).to_event(1)


# %% [markdown]
# ### The function infer
#
# Returns $q(z; x, \phi)$, one distribution for each image of a batch.


# %%
def infer(vae, x):
    mu, upsilon = vae.g(x).chunk(2, dim=-1)
    return vae.family(mu, softplus(upsilon)).to_event(1)


# %% [markdown]
# ### The function generate
#
# Returns the mean image $f(z, w)$ of each latent.


# %%
def generate(vae, z):
    return vae.f(z)


# %% [markdown]
# ### The model and the guide
#
# As in miniature above, with one more statement: `pyro.module` announces the
# parameters to Pyro, so that the optimizer finds them.


# %%
def likelihood_of(vae, z):
    return dist.Normal(generate(vae, z), vae.log_s.exp()).to_event(1)


def model(vae, x, num_data):
    pyro.module(vae.name, vae)
    with pyro.plate("images", num_data, subsample=x):
        z = pyro.sample("z", vae.prior())
        pyro.sample("x", likelihood_of(vae, z), obs=x)


def guide(vae, x, num_data):
    pyro.module(vae.name, vae)
    with pyro.plate("images", num_data, subsample=x):
        pyro.sample("z", infer(vae, x))


# %% [markdown]
# ### The function compute_elbo
#
# Returns an estimate of $\mathcal{L}_n$ for each image, in nats (units of the
# natural logarithm): the bracket of 1a averaged over $S$ samples, without the
# factor $N / B$. `mean_elbo` averages it over images, always with the same
# noise, so that it changes from epoch to epoch only because the parameters
# do.


# %%
def compute_elbo(vae, x, num_particles=1):
    q = infer(vae, x)
    z = q.rsample((num_particles,))
    log_joint = vae.prior().log_prob(z) + likelihood_of(vae, z).log_prob(x)
    return (log_joint - q.log_prob(z)).mean(0)


@torch.no_grad()
def mean_elbo(vae, x):
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        parts = [compute_elbo(vae, part) for part in x.split(2000)]
    return torch.cat(parts).mean().item()


# %% [markdown]
# ### The loop
#
# `SVI.step` passes its arguments to the guide and to the model (`partial` has
# fixed the first one), and takes one step of Adam on the loss. The bar of
# `progress` is redrawn in place, and leaves one line.


# %%
def progress(items, label):
    bar = display({"text/plain": label}, raw=True, display_id=True)
    start = clock()
    for done, item in enumerate(items, start=1):
        yield item
        text = tqdm.format_meter(
            done, len(items), clock() - start, 64, ascii=True, prefix=label
        )
        bar.update({"text/plain": text}, raw=True)


def train(vae, epochs, batch_size=128, rate=1e-3):
    """Returns the mean ELBO of training and test images for each epoch."""
    pyro.clear_param_store()
    x, history = data.train, []
    pair = partial(model, vae), partial(guide, vae)
    svi = SVI(*pair, Adam({"lr": rate}), Trace_ELBO())
    for _ in progress(range(epochs), vae.name):
        for batch in torch.randperm(len(x)).split(batch_size):
            svi.step(x[batch], len(x))
        ends = mean_elbo(vae, x[:10_000]), mean_elbo(vae, data.test)
        history.append(ends)
    return torch.tensor(history)


# %% [markdown]
# **Check.** That was the whole VAE. The package's own model and guide have
# the same loss at the same weights and noise. Its `CompiledSVI` can replace
# Pyro's `SVI` where every step does the same operations: it compiles the step
# once, and then takes the same steps, up to rounding, in less time. The
# training below uses Pyro's own `SVI`.


# %%
def packaged(vae):
    """The package's VAE with the weights of ours."""
    prior = pyro_vae.NormalPrior(vae.latent_dim)
    likelihood = pyro_vae.GaussianLikelihood(vae.f, min_scale=0.0)
    likelihood.log_scale = vae.log_s
    q = pyro_vae.NormalGuide(vae.g, min_scale=0.0)
    return pyro_vae.VAE(prior, likelihood, q)


torch.manual_seed(SEED)
vae = Weights("first", dist.Normal, data.data_dim)
x, num_data = data.train[:128], len(data.train)
losses = []
for pair in (
    (partial(model, vae), partial(guide, vae)),
    (packaged(vae).model, packaged(vae).guide),
):
    torch.manual_seed(SEED)
    losses.append(torch.tensor(Trace_ELBO().loss(*pair, x, num_data)))
title("notebook", "package")
compare("loss per image", *(loss / num_data for loss in losses), 1e-5)


def steps(engine, name, count=100):
    """The losses of some steps, and the seconds that one takes."""
    pyro.clear_param_store()
    copy = deepcopy(vae)
    copy.name = name
    pair = partial(model, copy), partial(guide, copy)
    svi = engine(*pair, Adam({"lr": 1e-3}), Trace_ELBO())
    torch.manual_seed(SEED)
    losses = [svi.step(x, num_data) for _ in range(5)]  # compiles, warms up
    times = []
    for _ in range(count):
        start = clock()
        losses.append(svi.step(x, num_data))
        times.append(clock() - start)
    return torch.tensor(losses) / num_data, sorted(times)[count // 2]


eager, seconds = steps(SVI, "eager")
try:
    compiled, fast = steps(CompiledSVI, "compiled")
    title("CompiledSVI", "SVI")
    compare("losses of 105 steps", compiled, eager, 1e-5)
    print(
        f"a step takes {1e3 * seconds:.1f} ms with SVI and {1e3 * fast:.1f} ms"
    )
    print(f"with CompiledSVI, which is {seconds / fast:.1f} times as fast")
except CompilationError as error:
    print(f"This machine cannot compile: {error}")

# %% [markdown]
# ## Problem 2b: training
#
# *Train the VAE on MNIST and show the ELBO.*
#
# Both priors are trained here, the standard normal and the Laplace of 4a, with
# minibatches of 128 and Adam at a rate of 0.001. On the small digits there
# are 20 times as many epochs, because there are so few images.

# %%
epochs = EPOCHS if data.name == "mnist" else 20 * EPOCHS
vaes, histories = {}, {}
for name, family in (("normal", dist.Normal), ("Laplace", dist.Laplace)):
    torch.manual_seed(SEED)
    vaes[name] = Weights(name, family, data.data_dim)
    before = mean_elbo(vaes[name], data.test)
    histories[name] = train(vaes[name], epochs)
    last = histories[name][-1]
    print(f"ELBO of the test set: {before:.1f} before, {last[1]:.1f} after;")
    scale = vaes[name].log_s.exp()
    print(f"of the training set: {last[0]:.1f}; noise scale s = {scale:.3f}")
    assert last[1] > before

# %%
figure, places = plt.subplots(1, 2, figsize=(8, 3))
for axes, first in zip(places, (0, epochs // 3), strict=True):
    for name, color in (("normal", "C0"), ("Laplace", "C1")):
        curves, shown = histories[name][first:], range(first + 1, epochs + 1)
        axes.plot(shown, curves[:, 0], color + "--", label=f"{name}, training")
        axes.plot(shown, curves[:, 1], color, label=f"{name}, test")
    axes.set(xlabel="epoch", ylabel="ELBO, nats per image")
places[0].set_title("all epochs")
places[1].set_title("the last two thirds")
places[0].legend()
plt.show()

# %% [markdown]
# Most of the gain comes in the first five epochs. The noise scale starts
# at 1 and ends near 0.2. An ELBO above zero is no error: it bounds the
# logarithm of a density in 784 dimensions, and a density may exceed one. In
# the second panel the training images pull ahead of the test images, by about
# 10 nats at the end: the models have begun to overfit. The two priors are
# closer to each other than that.

# %% [markdown]
# # Problem 3: what was learned
#
# ## Problem 3a: samples
#
# *Show 10 x 10 real digits, and 10 x 10 images from the model.*
#
# Each sample is the mean image $f(z, w)$ of a $z$ from the prior; the noise of
# the pixels is left out.


# %%
def tile(images, columns):
    """One sheet of images, row by row, with a gap of a pixel."""
    images = images.detach().reshape(-1, *data.image_shape).clamp(0, 1)
    images = nn.functional.pad(images, (0, 1, 0, 1), value=1.0)
    rows = images.split(columns)
    return torch.cat([torch.cat(list(row), dim=1) for row in rows])


def show(axes, images, columns, name):
    axes.imshow(tile(images, columns), cmap="gray", vmin=0, vmax=1)
    axes.set_title(name)
    axes.set_axis_off()


# %%
torch.manual_seed(SEED)
real = data.train[torch.randperm(len(data.train))[:100]]
figure, axes = plt.subplots(figsize=(3.6, 3.8))
show(axes, real, 10, f"{data.name}: training images")
plt.show()

# %%
figure, places = plt.subplots(1, 2, figsize=(8, 4.2))
for axes, (name, vae) in zip(places, vaes.items(), strict=True):
    torch.manual_seed(SEED)
    z = vae.prior().sample((100,))
    show(axes, generate(vae, z), 10, f"samples, {name} prior")
plt.show()

# %% [markdown]
# Many samples are digits, all are blurred, and some lie between two digits.
# Two dimensions hold the class and little of the style; over the rest the
# decoder averages, and an average of strokes is a blur. The classes are not
# equally frequent: the 4, 6, 8 and 9 abound, and a 1 or a 7 is rare under the
# normal prior. The next figure shows why. Samples of the prior fall near the
# origin, where many classes meet, and the latents of a 1 or a 7 lie farther
# out.

# %% [markdown]
# ## Problem 3b: the latent space
#
# *Show the latents by label, and the manifold over their range.*
#
# First the mean $\mu_n$ of $q$ for each test image, colored by its label. Then
# the mean images of a 20 x 20 grid from the smallest to the largest mean in
# each dimension.

# %%
figure, places = plt.subplots(1, 2, figsize=(8, 3.9))
ranges = {}
for axes, (name, vae) in zip(places, vaes.items(), strict=True):
    with torch.no_grad():
        z = infer(vae, data.test).mean
    ranges[name] = z.min(0).values, z.max(0).values
    points = axes.scatter(*z.T, c=data.test_labels, s=2, cmap="tab10", lw=0)
    points.set_clim(-0.5, 9.5)
    axes.set(title=f"{name} prior", xlabel="$z_1$", ylabel="$z_2$")
figure.colorbar(points, ticks=range(10), label="label")
plt.show()
for name, (low, high) in ranges.items():
    print(
        f"{name}: z1 from {low[0]:.2f} to {high[0]:.2f}, "
        f"z2 from {low[1]:.2f} to {high[1]:.2f}"
    )

# %% [markdown]
# The classes spread from the origin like petals, and far beyond the bulk of
# the prior, of which 95 percent lie within 2.5 of the origin. The 1 and the 0
# stand apart. The 4 and the 9, which differ by one stroke, overlap almost
# entirely; so do the 3, 5 and 8. Under the Laplace prior the latents reach
# farther, 13 in place of 9, since far away $|z|$ costs less than $z^2 / 2$.


# %%
def draw_manifold(name):
    vae, (low, high) = vaes[name], ranges[name]
    first = torch.linspace(low[0], high[0], 20)
    second = torch.linspace(high[1], low[1], 20)  # upward in the figure
    z = torch.cartesian_prod(second, first).flip(-1)
    axes = plt.figure(figsize=(5.0, 5.2)).gca()
    show(axes, generate(vae, z), 20, f"the manifold, {name} prior")
    axes.set_axis_on()
    height, width = data.image_shape
    for axis, values, side in (
        (axes.xaxis, first, width),
        (axes.yaxis, second, height),
    ):
        places = [(side + 1) * i + side / 2 for i in (0, 6, 13, 19)]
        axis.set_ticks(places, [f"{values[i]:.1f}" for i in (0, 6, 13, 19)])
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    plt.show()


draw_manifold("normal")

# %%
draw_manifold("Laplace")

# %% [markdown]
# Both manifolds change smoothly, since $f$ is continuous and the noise of $q$
# makes the decoder map a whole neighborhood to similar images. Classes border
# on those that look alike: the 4, 9 and 7 follow each other, the 3 turns into
# an 8 or a 5, and the slant of the 1 turns steadily across its region. In the
# middle many classes meet, and the images are the least sharp. The corners
# lie outside the scatter; there the decoder extrapolates, to saturated
# strokes and to shapes that are no digits.

# %% [markdown]
# # Problem 4: other latents
#
# ## Problem 4a: a Laplace prior
#
# *Take another prior, a Laplace distribution, and reparameterize it.*
#
# The density $\frac{1}{2 \tau} e^{-|z| / \tau}$ of scale $\tau$ has the
# distribution function $F(z) = \frac12 e^{z / \tau}$ for $z \le 0$ and
# $1 - \frac12 e^{-z / \tau}$ for $z > 0$. If $u$ is uniform on $(0, 1)$, then
# $F^{-1}(u)$ has this distribution. Let
# $\epsilon = u - \frac12 \sim \operatorname{Uniform}(-\frac12, \frac12)$:
#
# - for $\epsilon > 0$, $1 - \frac12 e^{-z / \tau} = \epsilon + \frac12$ gives
#   $z = -\tau \log(1 - 2 \epsilon)$;
# - for $\epsilon \le 0$, $\frac12 e^{z / \tau} = \epsilon + \frac12$ gives
#   $z = \tau \log(1 + 2 \epsilon)$.
#
# Both are one formula:
# $$z = r(\epsilon, \tau) = -\tau \operatorname{sign}(\epsilon)
# \log\bigl(1 - 2 |\epsilon|\bigr), \qquad
# \frac{\partial z}{\partial \tau} = \frac{z}{\tau}.$$
#
# The prior is $\tau = 1$ in each dimension. The guide is
# $z = \mu + r(\epsilon, \tau)$ with $\tau = \log(1 + e^{\upsilon})$ from the
# encoder, in the place of $\sigma$. With $e_n = r(\epsilon_n, \tau_n) / \tau_n$
# for the noise, the gradient in $\phi$ is that of 1d, except that
# $\nabla_z \log p(z) = -\operatorname{sign}(z)$ in the place of $-z$:
# $$\nabla_\mu = b - \operatorname{sign}(z), \qquad
# \nabla_\tau = e \odot \bigl(b - \operatorname{sign}(z)\bigr) + \frac1\tau .$$
#
# (A Laplace prior under the normal guide would need no new map: only
# $\nabla_z \log p(z)$ changes.)
#
# **Check.** The map against torch's inverse distribution function and against
# Pyro's own draws at the same noise; two moments, $\mathbb{E} |z| = \tau$ and
# $\mathbb{E} z^2 = 2 \tau^2$; then the gradient against autograd.


# %%
def reparameterize(epsilon, tau):
    return -tau * epsilon.sign() * torch.log1p(-2 * epsilon.abs())


torch.set_default_dtype(torch.float64)
torch.manual_seed(SEED)
tau = torch.tensor(0.7, requires_grad=True)
epsilon = torch.rand(20_000) - 0.5
z = reparameterize(epsilon, tau)
title("by hand", "Pyro")
icdf = dist.Laplace(0.0, tau).icdf(epsilon + 0.5)
compare("the inverse distribution function", z, icdf, 1e-6)
torch.manual_seed(1)
draws = dist.Laplace(torch.zeros(100), tau).rsample()
torch.manual_seed(1)
tiny = torch.finfo(draws.dtype).eps
uniform = torch.empty(100).uniform_(tiny - 1, 1) / 2
compare("draws from one seed", reparameterize(uniform, tau), draws)
(in_tau,) = torch.autograd.grad(draws.square().sum(), tau)
ours = (2 * draws * draws / tau).sum()
compare("gradient in tau", ours, in_tau)
print()
estimate("E |z|, which is 0.7", z.detach().abs(), 0.7)
estimate("E z^2, which is 0.98", z.detach() ** 2, 0.98)

# %%
point = torch.randn(2 * P, requires_grad=True)
mu, upsilon = point.chunk(2)
noise = torch.rand(P) - 0.5
z = mu + reparameterize(noise, softplus(upsilon))
q, prior = dist.Laplace(mu, softplus(upsilon)), dist.Laplace(0.0, 1.0)
log_ratio = (prior.log_prob(z) - q.log_prob(z)).sum()
(auto,) = torch.autograd.grad(log_normal(x_all[0], f(z), s) + log_ratio, point)
leaf = z.detach().requires_grad_()
(b,) = torch.autograd.grad(log_normal(x_all[0], f(leaf), s), leaf)
scale = softplus(upsilon)
e = reparameterize(noise, torch.tensor(1.0))
in_tau = e * (b - leaf.sign()) + 1 / scale
ours = torch.cat([b - leaf.sign(), in_tau * upsilon.sigmoid()])
title("by hand", "autograd")
compare("gradient in mu and upsilon", ours, auto)
torch.set_default_dtype(torch.float32)

# %% [markdown]
# **Trained.** The model of 2b and 3 with the name Laplace has this prior and
# this guide: Pyro's `Laplace` draws by exactly this map, as the check shows.
# Its test ELBO is within a few nats of the normal's, so the choice of the
# prior matters little for the bound here. It does matter for the latent
# space, which is wider and has a denser center in 3b.

# %% [markdown]
# ## Problem 4b: discrete latents
#
# *What changes if $z$ is discrete?*
#
# **The networks.** Let $z$ be one of $K$ states, as a one-hot vector. The
# decoder's input has $K$ entries, and its first layer holds a column of weights
# for each state. The encoder's output is $K$ logits, and
# $q(z = k; x, \phi) = \operatorname{softmax}(g(x, \phi))_k$ takes the place of
# $\mu$ and $\sigma$.
#
# **The ELBO** is a finite sum, with no sampling:
# $$\mathcal{L}_n = \sum_{k=1}^K q_{nk} A_{nk}, \qquad
# A_{nk} = \log p(k) + \log p(x_n \mid k) - \log q_{nk}.$$
#
# **The gradient in $\phi$** by 1d is gone: as $\phi$ changes smoothly, a draw
# of $z$ stays the same or jumps to another state, so its derivative is zero
# almost everywhere. Three ways remain.
#
# **Enumeration** differentiates the sum itself, which is exact.
#
# **The score function.** Since $\nabla q = q\, \nabla \log q$ and
# $\mathbb{E}_q \nabla \log q = 0$, for any constant $c$ (a baseline)
# $$\nabla_\phi \mathcal{L}_n = \sum_k A_{nk} \nabla_\phi q_{nk}
# = \mathbb{E}_q \bigl[(A_{nz} - c)\, \nabla_\phi \log q(z; x_n, \phi)\bigr].$$
#
# Here $A_{nz}$ is $A_{nk}$ for the state $k$ that was drawn. Draws of $z$
# estimate it without bias, but with a large variance.
#
# **Gumbel-softmax.** With $G_k = -\log(-\log u_k)$ and
# $u_k \sim \operatorname{Uniform}(0, 1)$, relax $z$ at a temperature $T$ to
# $$\tilde z = \operatorname{softmax}\left(
# \frac{\log q_n + G}{T}\right).$$
#
# It is differentiable in $\phi$, and tends to a one-hot draw from $q$ as
# $T \to 0$. The gradient is biased, and its variance grows as $T$ falls.
#
# **Enumerated, in Pyro.** The site of $z$ in the guide gets
# `infer={"enumerate": "parallel"}`, and the loss is `TraceEnum_ELBO`. Pyro then
# runs the model on all states at once, in a new dimension left of the plate's
# (`max_plate_nesting=1` says that there is one plate): $z$ has shape
# $(K, 1, K)$ (states, images, of which one value serves all, and entries of the
# one-hot vector), and $\log p(x \mid z)$ has shape $(K, B)$.

# %%
K = 20


class DiscreteWeights(Weights):
    """The same networks, with K states in and K logits out."""

    def __init__(self, name, data_dim):
        super().__init__(name, None, data_dim, latent_dim=K)
        self.g = network(data_dim, K)

    def prior(self):
        return dist.OneHotCategorical(logits=torch.zeros(K))


def discrete_guide(vae, x, num_data):
    pyro.module(vae.name, vae)
    with pyro.plate("images", num_data, subsample=x):
        q = dist.OneHotCategorical(logits=vae.g(x))
        pyro.sample("z", q, infer={"enumerate": "parallel"})


def log_ratios(vae, x, log_q):
    """A, for each image and each state."""
    log_p = likelihood_of(vae, torch.eye(K)).log_prob(x[:, None])
    return log_p - math.log(K) - log_q


pyro.clear_param_store()
torch.manual_seed(SEED)
discrete = DiscreteWeights("discrete", data.data_dim)
x, images = data.train[:10_000], min(len(data.train), 10_000)
passes = min(epochs, 6 if data.name == "mnist" else 120)
enumerated = TraceEnum_ELBO(max_plate_nesting=1)
pair = partial(model, discrete), partial(discrete_guide, discrete)
svi = SVI(*pair, Adam({"lr": 3e-3}), enumerated)
for _ in progress(range(passes), "discrete"):
    for batch in torch.randperm(images).split(64):
        svi.step(x[batch], images)


with torch.no_grad():
    log_q = discrete.g(data.test).log_softmax(-1)
    elbo = (log_q.exp() * log_ratios(discrete, data.test, log_q)).sum(-1)
    loss = enumerated.loss(*pair, data.test, len(data.test)) / len(elbo)
title("by hand", "Pyro")
compare("test ELBO, by the sum", elbo.mean(), torch.tensor(-loss), 1e-4)
states = log_q.argmax(-1)
used = len(states.unique())
print(f"{used} of the {K} states are the likeliest one of a test image")

# %%
figure, axes = plt.subplots(figsize=(6, 1.6))
show(axes, generate(discrete, torch.eye(K)), 10, "the mean image of each state")
plt.show()

# %% [markdown]
# Nearly every state is a variant of a digit. With no continuous latent beside
# them, 20 states hold the class, and a little of the slant and the width. The
# test ELBO stays below those of 2b. (This model saw a sixth of the images, six
# times each.)
#
# **The sampled gradients**, with respect to the logits of one test image. All
# logits are set to zero, as for an encoder that knows nothing yet. Each row
# averages 4,000 draws. The columns are the mean of the estimate's component
# along the exact gradient, divided by the length of that (1 if unbiased); its
# standard error; and the standard deviation of one draw, in the same unit.

# %%
x, logits = data.test[0], torch.zeros(K, requires_grad=True)
draws = 4000
log_q = logits.log_softmax(-1)
A = log_ratios(discrete, x[None], log_q)[0]
(exact,) = torch.autograd.grad((log_q.exp() * A.detach()).sum(), logits)
A, q = A.detach(), log_q.exp().detach()

z = dist.OneHotCategorical(q).sample((draws,))
score = z - q  # the gradient of log q(z) in the logits
value = (z * A).sum(-1, keepdim=True)
estimates = {"score function": value * score}
estimates["with a baseline"] = (value - (q * A).sum()) * score
for temperature in (1.0, 0.2):
    many = logits.detach().expand(draws, K).clone().requires_grad_()
    gumbel = dist.Gumbel(0.0, 1.0).sample((draws, K))
    relaxed = ((many.log_softmax(-1) + gumbel) / temperature).softmax(-1)
    log_p = likelihood_of(discrete, relaxed).log_prob(x)
    kl = (many.softmax(-1) * many.log_softmax(-1)).sum(-1) + math.log(K)
    (gradient,) = torch.autograd.grad((log_p - kl).sum(), many)
    estimates[f"Gumbel-softmax, T = {temperature}"] = gradient
print(f"{'':<26}{'mean':>8}{'error':>8}{'deviation':>12}")
for name, estimated in estimates.items():
    along = estimated @ exact / exact.square().sum()
    error = along.std() / draws**0.5
    spread = (estimated - estimated.mean(0)).square().sum(-1).mean().sqrt()
    print(
        f"{name:<26}{along.mean():>8.3f}{error:>8.3f}"
        f"{spread / exact.norm():>12.2f}"
    )
    assert "Gumbel" in name or abs(along.mean() - 1) < 4.26 * error

# %% [markdown]
# The score function is unbiased, and a draw of it is off by several times the
# gradient itself; a baseline takes away what all states share. The
# Gumbel-softmax at $T = 1$ varies the least, and its mean falls short; at
# $T = 0.2$ the bias is gone or hidden in the noise, the largest of all.
# Enumeration has neither bias nor variance, and costs $K$ runs of the decoder
# instead of one.
#
# **Several variables.** With $M$ variables of $K$ states each, an image has
# $K^M$ configurations, and the decoder runs on every one: the sum's cost grows
# exponentially in $M$. Below, 8 states per variable and a fresh decoder:

# %%
print(f"{'variables':>9}{'terms':>8}{'ms':>10}")
for variables in (1, 2, 3, 4):
    decoder = nn.Sequential(network(8 * variables, data.data_dim), nn.Sigmoid())
    every = itertools.product(range(8), repeat=variables)
    z = one_hot(torch.tensor(list(every)), 8).float().flatten(1)
    times = []
    for _ in range(5):
        start = clock()
        log_normal(x, decoder(z), 1.0).logsumexp(0).backward()
        times.append(1e3 * (clock() - start))
    print(f"{variables:>9}{len(z):>8,}{min(times):>10.1f}")

# %% [markdown]
# Beyond a few variables only sampled gradients remain. Problems 1c and 3b
# change too: the KL is a sum, not an integral, and the manifold is a list of
# states, with nothing between one and the next.

# %% [markdown]
# # Beyond: how good the bound is
#
# With two latent dimensions $\log p(x) = \log \int p(z)\, p(x \mid z)\, dz$ can
# be integrated on a grid. So the bound can be checked, and what it loses can be
# split in two:
# $$\log p(x) - \mathcal{L}(q) = \underbrace{\log p(x) - \mathcal{L}(q^*)}
# _{\text{approximation gap}} + \underbrace{\mathcal{L}(q^*) - \mathcal{L}(q)}
# _{\text{amortization gap}},$$
#
# where $q^*$ is the best diagonal Gaussian for that one image, found by
# gradient steps on its own $\mu$ and $\sigma$. The package computes the
# integral and finds $q^*$, here for the model with the normal prior and eight
# test images, in nats.

# %%
pair = packaged(vaes["normal"])
x = data.test[:8]
found = split_gap(pair, x, seed=SEED)
table = {
    "log p(x)": found.log_marginal_likelihood,
    "ELBO": found.elbo,
    "approximation": found.approximation,
    "amortization": found.amortization,
}
print("label" + "".join(f"{name:>15}" for name in table))
for label, *row in zip(data.test_labels, *table.values(), strict=False):
    print(f"{label:>5}" + "".join(f"{value:>15.2f}" for value in row))
print(" mean" + "".join(f"{of.mean():>15.2f}" for of in table.values()))
assert (found.elbo < found.log_marginal_likelihood + 0.1).all()

# %%
figure, places = plt.subplots(2, 4, figsize=(8, 4.6))
angle = torch.linspace(0, 2 * math.pi, 100)
circle = torch.stack([angle.cos(), angle.sin()], dim=-1)
guessed = infer(vaes["normal"], x)
best = pair.guide.family(found.parameters)
for n, axes in enumerate(places.flat):
    mu, sigma = (q[n].detach() for q in (guessed.mean, guessed.stddev))
    mu_best, sigma_best = best.mean[n], best.stddev[n]
    ends = [mu - 4 * sigma, mu + 4 * sigma]
    ends += [mu_best - 8 * sigma_best, mu_best + 8 * sigma_best]
    low, high = torch.stack(ends).amin(0), torch.stack(ends).amax(0)
    z, density = posterior_density(pair, x[n : n + 1], low, high, 150)
    levels = density.max() * torch.tensor([0.01, 0.1, 0.5, 1.0])
    axes.contourf(*z.permute(2, 0, 1), density, levels, cmap="Blues")
    axes.plot(*(mu + 2 * sigma * circle).T, "C1", label="the encoder's q")
    axes.plot(*(mu_best + 2 * sigma_best * circle).T, "C2", label="the best q")
    axes.set_title(f"a {data.test_labels[n]}")
    axes.tick_params(labelsize=7)
figure.legend(
    *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2
)
plt.show()

# %% [markdown]
# Blue is the exact posterior, at 1, 10 and 50 percent of its peak; the
# ellipses are two standard deviations of $q$. The posteriors are tilted and a
# few tenths wide, in a space 14 wide, and yet the best diagonal Gaussian
# loses less than a nat on each. Nearly all of the gap is amortization's, and
# most of that comes from two images, a 2 and a 4, for which the encoder puts
# $q$ beside the posterior. So a better encoder would tighten this bound; a
# richer family would not.
