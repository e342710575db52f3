"""Azure Machine Learning: Resource Manager, storage, jobs, tracking and endpoints over HTTPS.

Implemented, for one workspace: the cloud's metadata, and tokens for a service principal's secret;
computes of kind AmlCompute, whose nodes come with jobs and go when idle; uploads to blob storage in
one piece; code, data and model versions; command jobs, their cancellation and their reasons to
fail; MLflow experiments, runs, metrics, params and tags; online endpoints with keys, deployments of
MLflow models without a script, traffic and scoring. Anything else is answered with NotImplemented
and its name: pipelines and sweeps, other computes, artifacts logged by MLflow (put files into
`outputs/`), MLflow's own model registry, searches with a filter, batch endpoints, downloads.

What runs here is real: commands as processes, models that answer. Not proved are roles and private
networks, quotas, environments (one interpreter stands for every image), sizes, prices and waits.
"""
