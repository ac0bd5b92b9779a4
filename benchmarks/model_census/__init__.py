"""The census: how far each of some 200 models goes on the way from its own code to a grown model in a file."""
