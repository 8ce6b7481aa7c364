"""The demo: the agent between a simulated node and a simulated kubelet, each step shown and checked."""
