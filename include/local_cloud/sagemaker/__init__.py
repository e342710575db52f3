"""Amazon SageMaker on loopback, and the S3, CloudWatch Logs, STS and IAM that it works with.

Processing, training, transform and tuning jobs run the user's scripts as processes (script mode);
models, endpoint configurations and endpoints with weighted variants answer from the trained model;
model package groups and packages; pipelines with Processing and Training steps; AutoML V2 for
tables with two classes, by AUC. Other SageMaker calls are answered with "NotImplemented", by name:
other problems of AutoML and its first version, the feature store, notebooks, monitoring,
experiments, Hyperband, early stopping. S3 and the rest are moto's.

What users have made survives a restart, S3's objects included (their bytes, not their tags or
versions); CloudWatch's logs don't. What this can't prove: permissions (any key and role will do),
quotas, images (the interpreter that runs this runs the scripts), instance types, network, price.
"""
