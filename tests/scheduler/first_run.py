"""Start one pipeline over the REST API of a running `make up` and wait until it is green."""

import sys

from include.tools import environment, rest, up
from tests.scheduler.api import Api


def main(dag_id: str) -> None:
    """Fail unless every task ends as success or skipped."""
    env = up.settings(environment.home())
    api = Api(env["AIRFLOW__API__BASE_URL"], rest.password(env))
    tasks = api.finished(dag_id, api.trigger(dag_id))
    states = {name: task["state"] for name, task in tasks.items()}
    print("\n".join(f"  {state:<8} {name}" for name, state in states.items()))
    if set(states.values()) - {"success", "skipped"}:
        raise SystemExit(f"{dag_id} is not green")


if __name__ == "__main__":
    main(sys.argv[1])
