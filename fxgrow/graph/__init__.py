"""Facts about a torch.fx graph, and the few primitives by which passes edit it."""
