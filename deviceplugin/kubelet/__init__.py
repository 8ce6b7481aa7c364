"""The kubelet: the only code that speaks gRPC and reads the kubelet's files."""
