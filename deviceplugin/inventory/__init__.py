"""What the node has and what can be made of it: frozen data and pure functions, no I/O and no clock."""
