"""What would come of requests, and what KubeVirt is to be told; nothing is done to the node."""
