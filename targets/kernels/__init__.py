"""Kernels as TIR, one file per kernel family."""
