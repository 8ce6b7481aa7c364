"""A kubelet without a cluster, on real sockets."""
