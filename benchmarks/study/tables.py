"""How the page sets tables and numbers."""

from collections.abc import Sequence

from study.analysis import Difference


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    ruled = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def signed(difference: Difference | None) -> str:
    """Spell a difference with its error; nothing if it is not known."""
    return "" if difference is None else f"{difference.mean:+.4f} ± {difference.error:.4f}"


def probability(p: float) -> str:
    """Spell a p-value."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
