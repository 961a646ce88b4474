"""Targets with a GPU: what a device is, kernels with thread bindings, and their lowering from a graph."""
