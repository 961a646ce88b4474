"""What a compile did, as data (`CompileReport`) and as one HTML page (`render_html`)."""

from sparsecc.report.compile_report import CompileReport, LayerLine, PassLine, report_of
from sparsecc.report.html import render_html

__all__ = ["CompileReport", "LayerLine", "PassLine", "render_html", "report_of"]
