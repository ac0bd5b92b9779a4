"""Hidden widths: which dimensions of which tensors belong together, and how they are resized."""
