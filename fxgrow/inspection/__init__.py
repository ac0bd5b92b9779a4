"""Look at a model: views of it as plain data, from its table alone, set as text, HTML or JSON."""

from fxgrow.inspection.arcs import to_svg as to_svg
from fxgrow.inspection.details import view_node as view_node
from fxgrow.inspection.formats import to_json as to_json
from fxgrow.inspection.formats import to_plain_text as to_plain_text
from fxgrow.inspection.formats import to_text as to_text
from fxgrow.inspection.graph import to_dot as to_dot
from fxgrow.inspection.graph import view_graph as view_graph
from fxgrow.inspection.history import view_diff as view_diff
from fxgrow.inspection.history import view_history as view_history
from fxgrow.inspection.parameters import list_parameters as list_parameters
from fxgrow.inspection.selection import Selection as Selection
from fxgrow.inspection.sites import list_sites as list_sites
from fxgrow.inspection.summary import Summary as Summary
from fxgrow.inspection.views import summarize as summarize
from fxgrow.inspection.views import view_model as view_model
from fxgrow.inspection.views import view_tree as view_tree
from fxgrow.inspection.web import to_html as to_html
