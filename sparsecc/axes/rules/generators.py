"""Ops that make values from shapes or nothing, and all that stays frozen by nature."""
