"""Graph -> launches: which kernel each node gets on a device, and where its values lie."""
