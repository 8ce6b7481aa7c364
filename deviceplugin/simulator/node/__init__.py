"""A node without hardware: a tree of files, and the kernel's part when something is written to it."""
