"""What pipelines need at a vendor's beyond its operators; the local ones are in `local_cloud`."""
