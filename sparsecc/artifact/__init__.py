"""Artifacts: a folder (or one archive) with the compiled library, its weights and a manifest.

Loading and running needs numpy only; writing (`sparsecc.artifact.pack`) needs a C compiler.
"""

from sparsecc.artifact.load import load, read_artifact
from sparsecc.artifact.manifest import FORMAT_VERSION, Manifest, StepInfo, TensorInfo
from sparsecc.artifact.session import Session
from sparsecc.host import host_features, host_machine

__all__ = [
    "FORMAT_VERSION",
    "Manifest",
    "Session",
    "StepInfo",
    "TensorInfo",
    "host_features",
    "host_machine",
    "load",
    "read_artifact",
]
