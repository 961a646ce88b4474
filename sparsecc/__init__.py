"""Compile neural networks to sparse libraries that are faster than dense ones."""
