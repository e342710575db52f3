"""Models behind HTTP: a scorer for each version, a gateway in front, a client that loads them."""
