"""Whole attention ops of opset 23 and rotary embeddings."""
