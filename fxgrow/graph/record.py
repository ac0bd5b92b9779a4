"""Where `fxgrow.record.record` was before the rooms were parted: its names are passed on, with a warning."""

import warnings
from typing import Any

from fxgrow.record import record


def __getattr__(name: str) -> Any:
    value = getattr(record, name)
    warnings.warn(f"import {name} from fxgrow.record.record", DeprecationWarning, stacklevel=2)
    return value
