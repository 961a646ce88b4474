"""Measurements of kernel forms: the file that keeps them, and what chooses by them."""

from sparsecc.tuning.database import Database, Record, default_path, open_databases
from sparsecc.tuning.selectors import DatabaseSelector, Fixed, Survey, Surveyed, fastest

__all__ = [
    "Database",
    "DatabaseSelector",
    "Fixed",
    "Record",
    "Survey",
    "Surveyed",
    "default_path",
    "fastest",
    "open_databases",
]
