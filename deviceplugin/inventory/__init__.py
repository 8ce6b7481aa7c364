"""What the node has and what can be made of it: frozen data and functions over it, no I/O and no clock.

A request under way (``order``) and a plan (``planning``) are the two things that change, each by itself.
"""
