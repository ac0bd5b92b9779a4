"""A run as one page for the browser: what grew, on which evidence, and what came of it."""

from fxgrow.report.page import render_report as render_report
from fxgrow.report.page import write_report as write_report
