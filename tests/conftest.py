"""How the tests run.

hypothesis draws the same examples every time, unless HYPOTHESIS_PROFILE=explore asks for new ones. torch uses one
thread: the tests' tensors are small, and pytest-xdist's processes already share the cores.
"""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

#: building a network takes longer than drawing a number
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("explore", deadline=None, print_blob=True, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
