"""Elementwise operations of a recorded graph, as loops in C."""
