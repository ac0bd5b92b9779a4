"""Rewrites by name: what `fxgrow.passes` does, with the growth history and an optimizer carried along."""

from fxgrow.rewriting.insertions import add_residual_edge as add_residual_edge
from fxgrow.rewriting.insertions import insert_block as insert_block
from fxgrow.rewriting.simplifications import fold_pairs as fold_pairs
from fxgrow.rewriting.simplifications import merge_branches as merge_branches
from fxgrow.rewriting.undoing import undo as undo
from fxgrow.rewriting.widths import slim as slim
from fxgrow.rewriting.widths import widen as widen
