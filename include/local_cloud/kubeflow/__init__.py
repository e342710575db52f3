"""Kubeflow Pipelines 2.17: its v2beta1 REST API, with runs that really run.

Implemented: healthz; experiments (create, get, list, delete, archive, unarchive); pipelines and
their versions (upload, get, by name, list, delete); runs (create from a specification or a version,
get, list, archive, unarchive, terminate, delete); the log of a step, which the server has under
v1alpha1. Everything else is answered with 501 and its name. What a run executes is the
specification that was handed in, by `kfp.local` in the environment of `envs/kubeflow.txt`.

As there, the details of a run name its tasks, their states and times, and no artifacts (KFP fills
them in from 3.0 on): what a task wrote is below the pipeline root, what it said is in its log.

Not proved here: identities and namespaces, images, resources, caching, retries of a step, drivers
and other nodes that are no task of the pipeline, roots in an object store, the metadata service.
"""
