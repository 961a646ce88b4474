"""The pruning oracle: a pruned network must compute what the original computes with the same slices zeroed.

It reads two ONNX models and a plan, and shares no code with what made the plan, so that a mistake there
cannot hide here.
"""

from sparsecc.oracle.comparison import OracleResult, check

__all__ = ["OracleResult", "check"]
