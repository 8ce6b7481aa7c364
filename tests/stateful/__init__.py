"""The whole agent as a process, in histories that nobody thought of.

A machine draws what happens next: pods, a kubelet and a node that misbehave, and an agent that is killed at
a named place. After each step and at every calm moment it is looked up whether the agent kept its promises.
``python -m tests.stateful --help`` tells of long runs.
"""
