"""A Kubernetes cluster with one node: this machine."""
