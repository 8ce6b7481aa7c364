"""A node without hardware and a kubelet without a cluster: for the demo, for a try, and for the tests."""
