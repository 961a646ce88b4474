"""Recurrent layers: gates times hidden units, and the hidden state that feeds back."""
