"""The command line: `main`, and one module per verb with `add` (its options) and `run` (its work)."""
