"""Names of blocks that are numbered."""

import re

_NUMBERED = re.compile(r"((?!.*_pseudo_)(?:|.*_))(\d+)")


def numbered(name: str) -> tuple[str, int] | None:
    """Split the name of one of several like blocks into stem and number; None for any other name.

    Blocks are numbered as in ``blocks.3`` or, in torchvision, ``layers.encoder_layer_3``; pseudo-layers are no blocks.

    Example:
        >>> numbered("3"), numbered("encoder_layer_3"), numbered("fc1"), numbered("fc1_pseudo_0")
        (('', 3), ('encoder_layer_', 3), None, None)
    """
    found = _NUMBERED.fullmatch(name)
    return (found.group(1), int(found.group(2))) if found else None
