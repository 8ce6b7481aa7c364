"""The kubelet: the only code that speaks gRPC and reads the kubelet's files."""

import os

# gRPC's core writes lines of its own to standard error, between the events of the log. It reads this when it
# is imported. Who has to see the lines sets it, which is respected.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
