"""TIR with thread bindings, one file per kernel family."""
