"""Done once, by the process that runs are forked from: Airflow takes seconds for it in each."""

from airflow.sdk.execution_time.supervisor import in_process_api_server

in_process_api_server().app._cadwyn_initialize()  # every version of the API that tasks talk to
