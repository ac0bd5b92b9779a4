"""A graph as readable PyTorch source: nested modules, repeated ones as one class."""
