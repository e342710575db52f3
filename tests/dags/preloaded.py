"""Done once, by the process that runs are forked from: each of them would take seconds for it."""

import importlib

from airflow.sdk.execution_time.supervisor import in_process_api_server

from plugins.warm_workers import LIBRARIES

in_process_api_server().app._cadwyn_initialize()  # every version of the API that tasks talk to
for library in LIBRARIES:
    importlib.import_module(library)
