"""Google's Vertex AI and Cloud Storage on loopback, for Google's own clients."""
