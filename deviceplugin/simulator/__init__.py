"""A node without hardware and a kubelet without a cluster: for the demo, for trying things, and for the tests."""
