"""Vendors' protocols on loopback: pipelines for a cloud run here as they will run there.

Each platform is a process of its own (`python -m include.local_cloud.<platform>`) that speaks the
vendor's API to the vendor's own client. Nothing in a DAG knows of it: what leads there instead of
to the vendor is a connection, and for some clients an environment that stays unset elsewhere.
"""
