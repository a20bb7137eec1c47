"""The parts of a VAE: priors, likelihoods, guides and what they are made of."""
