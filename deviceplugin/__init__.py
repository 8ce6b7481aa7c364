"""A Kubernetes device plugin for mediated devices.

The agent advertises one extended resource per mdev type, creates the device when the kubelet allocates it
and removes it when the pod is gone and nothing holds it any more. See the README for its use, and
``agent`` for how the pieces are put together.
"""

__version__ = "0.1.0"
