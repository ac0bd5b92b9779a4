"""Operators: the kinds of pseudo-layer, by name.

`register_operator` makes a class of your own known to `fxgrow.grow`; an installed package does it by an entry point in
the group ``fxgrow.operators``.
"""

from fxgrow.operators.base import Attachment as Attachment
from fxgrow.operators.base import PseudoLayer as PseudoLayer
from fxgrow.operators.parallel import Branch, Gated, Paper, Signed
from fxgrow.operators.registry import available_operators as available_operators
from fxgrow.operators.registry import find_operator as find_operator
from fxgrow.operators.registry import known_operator as known_operator
from fxgrow.operators.registry import register_operator as register_operator
from fxgrow.operators.serial import Serial

for _operator in (Serial, Branch, Gated, Signed, Paper):
    register_operator(_operator)
