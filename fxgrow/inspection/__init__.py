"""Look at a model: a tree of its modules with sizes, depths and scores, from its table alone."""

from fxgrow.inspection.details import render_node as render_node
from fxgrow.inspection.parameters import render_parameters as render_parameters
from fxgrow.inspection.report import Report as Report
from fxgrow.inspection.report import Summary as Summary
from fxgrow.inspection.report import render as render
from fxgrow.inspection.report import summarize as summarize
