"""What growth may cost, in parameters."""

import math

from fxgrow.errors import PlanError


def resolve_budget(parameters: int, budget: float) -> int:
    """Return the number of parameters that may be added.

    Args:
        parameters: How many there are.
        budget: A float is a fraction of them, an int a number of parameters.

    Raises:
        PlanError: If the budget is not a positive number.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not math.isfinite(budget) or budget <= 0:
        raise PlanError(
            "it is not a positive number",
            where=f"budget {budget!r}",
            fix="give a fraction of the parameters as a float (0.10) or a number of parameters as an int",
        )
    if isinstance(budget, int):
        return budget
    return int(budget * parameters)
