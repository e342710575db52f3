"""Python interpreters beside Airflow's own, for packages that can't live in its environment.

Each has its packages in a file of `envs/`, and its path in an Airflow Variable: those of
`envs/training.txt` are where the Variable `training_python` points to.
"""

from pathlib import Path

from airflow.sdk import Variable


def interpreter(name: str) -> str:
    """The path of the one with the packages of `envs/<name>.txt`, or what to do where it lacks."""
    variable = f"{name}_python"
    path = Variable.get(variable, default="")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the Airflow Variable {variable} is {path!r}, where no interpreter is: make one with "
            f"the packages of envs/{name}.txt (the catalogue's `make install` does), and give its "
            "path"
        )
    return str(path)
