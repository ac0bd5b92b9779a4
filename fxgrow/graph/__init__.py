"""Facts about a torch.fx graph: sites, values and their memory, regions, the networkx view."""
