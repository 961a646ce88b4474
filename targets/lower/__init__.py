"""Graph -> plan: layouts, kernel selection, kernel calls, memory."""
