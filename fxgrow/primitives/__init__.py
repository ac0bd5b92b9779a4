"""The small ground: what a linear map is, the rows that are added to a value, activations, modules by their path."""
