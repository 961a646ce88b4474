"""Lowering to machines, one target a file, imported as `sparsecc.targets`."""

if __name__ != "sparsecc.targets":
    raise ImportError("import sparsecc.targets instead of targets")

from sparsecc.targets import sources as sources  # before the generators, see there
