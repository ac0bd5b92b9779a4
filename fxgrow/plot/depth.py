"""The depth map as a picture: one line for each site, one cell for each neuron."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fxgrow.plot.moments import own_sites
from fxgrow.plot.style import NOT_GROWN, Source, new_axes, table_of
from fxgrow.record.numbering import numbered

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def depth_map(model: Source, *, axes: "Axes | None" = None) -> "Axes":
    """Draw how many pseudo-layers deep each neuron is: the darker, the deeper.

    The model's own sites stand in its order; those that may not grow without being asked for and did not are left out.

    Args:
        model: A grown model, its table (`fxgrow.files.read_table`), or a run (`fxgrow.results.read_results`).
        axes: Where to draw; new axes of pyplot if left out.

    Returns:
        The axes. ``axes.images[0].get_array()`` is the map: ``(sites, neurons)``, masked where a site has no more
        neurons.

    Example:
        >>> fxgrow.plot.depth_map(grown).figure.savefig("depth.svg")  # doctest: +SKIP
    """
    from matplotlib.colors import ListedColormap

    table = table_of(model)
    depths = table.depth_map
    asked = {row.site.path for row in table.nodes if row.site and row.site.by_default}
    sites = [path for path in own_sites(table) if path in asked or any(depths[path])]
    longest = max((len(depths[path]) for path in sites), default=1)
    drawn = np.ma.masked_all((len(sites), longest))  # type: ignore[no-untyped-call]
    for line, path in enumerate(sites):
        drawn[line, : len(depths[path])] = depths[path]
    deepest = max((max(depths[path]) for path in sites), default=0)
    colours = depth_colours(deepest)
    axes = new_axes(axes, width=7, height=1.2 + 0.16 * len(sites))
    axes.imshow(drawn, aspect="auto", interpolation="none", cmap=ListedColormap(colours), vmin=-0.5, vmax=deepest + 0.5)
    axes.set_yticks(range(len(sites)), sites, fontsize=7)
    axes.set_xlabel("neuron")
    for line in _ends_of_blocks(sites):
        axes.axhline(line + 0.5, color="white", linewidth=2)
    _legend(axes, colours)
    return axes


def depth_colours(deepest: int) -> list[str]:
    """Return a colour for each depth from 0 on: grey, then blues that darken, told apart by lightness alone."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    blues = colormaps["Blues"](np.linspace(0.45, 1, max(deepest, 1)))
    return [NOT_GROWN, *map(to_hex, blues)][: deepest + 1]


def _legend(axes: "Axes", colours: list[str]) -> None:
    from matplotlib.patches import Patch

    labels = ["0, not grown", *map(str, range(1, len(colours)))]
    handles = [Patch(color=colour, label=label) for colour, label in zip(colours, labels, strict=False)]
    axes.legend(
        handles=handles, title="pseudo-layers deep", ncols=min(len(handles), 6), fontsize=8, title_fontsize=8,
        loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False,
    )  # fmt: skip


def block_of(path: str) -> str:
    """Return the block that a site belongs to: its path up to the first numbered part, or else its first part.

    Example:
        >>> block_of("blocks.3.mlp.fc1"), block_of("layer1.0.conv1"), block_of("patch_embed.proj")
        ('blocks.3', 'layer1.0', 'patch_embed')
    """
    parts = path.split(".")
    end = next((place for place, part in enumerate(parts) if numbered(part)), 0)
    return ".".join(parts[: end + 1])


def _ends_of_blocks(sites: list[str]) -> list[int]:
    return [line for line, (one, next_) in enumerate(pairwise(sites)) if block_of(one) != block_of(next_)]
