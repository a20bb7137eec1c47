"""The commands: fit, evaluate, compare."""
