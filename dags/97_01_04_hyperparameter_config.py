"""
> **Every hyperparameter has one value, one range and one place that set it, known before anything
> is trained.**

| | |
|---|---|
| **Level** | intermediate |
| **Needs** | nothing: the SQLite warehouse, scikit-learn, Optuna, MLflow |
| **Runs in** | about 40 seconds |
| **Look at** | the trigger form; then XCom `report` of *Resolve*; `search.png` in the MLflow run |

```text
① Configure        ② Search space     ③ Train                 ④ Compare
check → resolve ─┬→ as_configured ─┐
                 ├→ grid ──────────┤
                 ├→ at_random ─────┼→ train, one for each ──→ compare
                 └→ by_optuna ─────┘    ↑ prepare
```

| Box | Shown by |
|---|---|
| Params for hyperparameters | `configure.check` |
| Configuration files | `configure.resolve` |
| Dynamic parameter passing | `train.train` |
| Search space definition | `search.grid`, `search.at_random`, `search.by_optuna` |

The last that says something wins: default < `config/hyperparameters.yaml` < Airflow Variable of
this DAG's name (JSON) < run conf. A field of the form that is left empty says nothing.

**Run it**: `make run DAG=97_01_04_hyperparameter_config`, then once more with
`CONF='{"trees": 10}'`, and compare the reports. In the UI trigger it with a learning rate of 5: no
run is made. Write the 5 into the file: *Check* fails, names file, field, value and range, and
nothing is trained.

**What you should see**: `learning_rate` 0.3 from the file, over 0.1 from default. That gives an AUC
of 0.709, and the best of the sixteen points of the search 0.751, with three leaves to a tree and no
interactions: none are planted in these customers. The artifact `hyperparameters.yaml` of *Compare*
holds the winner, ready to be put into `config/`.

**Copy it when** a training is started by more people than its author.

**For production**: review the file like code and keep the Variable for the night when nobody can
deploy. The best of many on one validation set looks better than it is (97.4.1); how to search well
is in 97.2.3.
"""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from airflow.sdk import Param, Variable, dag, get_current_context, task, task_group

from include import retries, storage, tracking
from include.training.search_space import Choice, Float, Int, Space

DAG_ID = Path(__file__).stem
PROJECT = Path(__file__).parents[1]
FILE = "config/hyperparameters.yaml"
VARIABLE = f"Variable {DAG_ID}"
RUN = "run conf"
RULES = ("type", "minimum", "maximum", "enum")
LABEL = "churned"
VALIDATION_SHARE = 0.25
SEED = 97
GRID_POINTS = 2

DEFAULTS = {"learning_rate": 0.1, "max_leaf_nodes": 31, "trees": 30, "interactions": "any"}


def inherited(kind: str, title: str, description: str, **rules) -> Param:
    """A field that is null, which means inherit, unless it is filled in.

    The form sends every field: any other default would overrule file and Variable each time.
    """
    rules |= {"type": ["null", kind], "title": title, "section": "Hyperparameters"}
    return Param(None, description=f"{description} Empty: inherit.", **rules)


PARAMS = {
    "learning_rate": inherited(
        "number", "Learning rate", "How much each tree mends.", minimum=0.001, maximum=1
    ),
    "max_leaf_nodes": inherited(
        "integer", "Leaves", "How many groups one tree tells apart.", minimum=2, maximum=256
    ),
    "trees": inherited(
        "integer", "Trees", "How many, one after the other.", minimum=1, maximum=1000
    ),
    "interactions": inherited(
        "string",
        "Interactions",
        "Whether a tree may combine features, or looks at one alone.",
        enum=[None, "any", "none"],
        values_display={"null": "inherit"},
    ),
    "draws": Param(
        4,
        type="integer",
        minimum=1,
        maximum=6,
        section="Search",
        title="Draws",
        description="How many points chance and Optuna give, each.",
    ),
}
# Where good values are looked for: narrower than what is allowed. What is not named stays as set.
SPACE = Space(
    learning_rate=Float(0.02, 0.5, log=True),
    max_leaf_nodes=Int(3, 48, log=True),
    interactions=Choice("any", "none"),
)


def parsed(place: str, text: str, parse: Callable) -> dict:
    """What a text sets; an empty one sets nothing."""
    try:
        given = parse(text) if text.strip() else {}
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{place} can't be read: {error}") from None
    if not isinstance(given, dict | None):
        raise ValueError(f"{place} must give values to names, but holds {text.strip()!r}")
    return given or {}


def faults(place: str, given: dict) -> Iterator[str]:
    """Everything that is wrong with what a place sets, in words that can be acted on."""
    from jsonschema import Draft202012Validator

    names = PARAMS if place == RUN else DEFAULTS
    for name, value in given.items():
        if name not in names:
            yield f"{place}: there is no {name!r}; there are {', '.join(names)}"
            continue
        rules = PARAMS[name].schema
        # NaN is not even equal to itself, and neither under a minimum nor over a maximum.
        if value != value or not Draft202012Validator(rules).is_valid(value):
            wanted = ", ".join(f"{rule} {rules[rule]}" for rule in RULES if rule in rules)
            yield f"{place}: {name} is {value!r}; wanted is {wanted}"


def candidates(way: str, points: list[dict], settings: dict) -> list[dict]:
    """The arguments of one training for each point; what is not searched stays as configured."""
    return [{"name": f"{way} {i}", **settings, **point} for i, point in enumerate(points, start=1)]


@dag(
    dag_id=DAG_ID,
    dag_display_name="97.01.04 · Hyperparameter Configuration",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["reference", "patterns", "intermediate", "success"],
    default_args={
        "owner": "ml-catalogue",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "retry_policy": retries.POLICY,
        "execution_timeout": timedelta(minutes=5),
    },
    params=PARAMS,
)
def hyperparameter_config():
    @task_group(group_id="configure", group_display_name="① Configure")
    def configure():
        @task(task_display_name="Check", multiple_outputs=False)
        def check() -> list:
            """Refuse what Airflow lets through: unknown names, and values that no form has seen."""
            text = (PROJECT / FILE).read_text(encoding="utf-8")
            places = {
                "default": DEFAULTS,
                FILE: parsed(FILE, text, yaml.safe_load),
                VARIABLE: parsed(VARIABLE, Variable.get(DAG_ID, default=""), json.loads),
                RUN: get_current_context()["dag_run"].conf or {},
            }
            wrong = [each for place, given in places.items() for each in faults(place, given)]
            if wrong:
                raise ValueError("\n- ".join(["Nothing is trained.", *wrong]))
            return list(places.items())

        @task(task_display_name="Resolve", multiple_outputs=True)
        def resolve(places: list) -> dict[str, dict]:
            """The last word counts; say whose it was, and whom it overruled."""
            import mlflow

            settings, report = {}, {}
            for name in DEFAULTS:
                words = [
                    (said[name], place) for place, said in places if said.get(name) is not None
                ]
                # To JSON and YAML 15.0 is a whole number; scikit-learn refuses it.
                whole = "integer" in PARAMS[name].schema["type"]
                settings[name] = int(words[-1][0]) if whole else words[-1][0]
                report[name] = ", over ".join(
                    f"{value} from {place}" for value, place in words[::-1]
                )
            with tracking.run():
                mlflow.set_tags(report)  # a param could not change when the file has
            return {"settings": settings, "report": report}

        return resolve(check())["settings"]

    @task_group(group_id="search", group_display_name="② Search space")
    def search(settings: dict):
        @task(task_display_name="As configured", multiple_outputs=False)
        def as_configured(settings: dict) -> list[dict]:
            """What a search has to beat."""
            return [{"name": "configured", **settings}]

        @task(task_display_name="Grid", multiple_outputs=False)
        def grid(settings: dict) -> list[dict]:
            """Every combination of the ends of each range: even, and soon too many."""
            return candidates("grid", SPACE.grid(GRID_POINTS), settings)

        @task(task_display_name="At random", multiple_outputs=False)
        def at_random(settings: dict) -> list[dict]:
            """As many points as can be afforded, with a new value of everything in each."""
            draws = get_current_context()["params"]["draws"]
            return candidates("random", SPACE.random(draws, SEED), settings)

        @task(task_display_name="By Optuna", multiple_outputs=False)
        def by_optuna(settings: dict) -> list[dict]:
            """A study asks for points of the same space; told their scores, it learns (97.2.3)."""
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED))
            draws = get_current_context()["params"]["draws"]
            asked = [study.ask(SPACE.distributions()).params for _ in range(draws)]
            return candidates("Optuna", asked, settings)

        drawn = [draw(settings) for draw in (grid, at_random, by_optuna)]
        return as_configured(settings).concat(*drawn)

    @task_group(group_id="train", group_display_name="③ Train")
    def train(wanted):
        @task(task_display_name="Prepare", multiple_outputs=True)
        def prepare() -> dict[str, str]:
            """The same customers for all, or the comparison says nothing about hyperparameters."""
            from airflow.providers.sqlite.hooks.sqlite import SqliteHook
            from sklearn.model_selection import train_test_split

            customers = SqliteHook(sqlite_conn_id="warehouse").get_df("SELECT * FROM customers")
            train, validation = train_test_split(
                customers, test_size=VALIDATION_SHARE, stratify=customers[LABEL], random_state=SEED
            )
            return {
                "train": storage.write_frame(train, "train.parquet"),
                "validation": storage.write_frame(validation, "validation.parquet"),
            }

        @task(task_display_name="Train", map_index_template="{{ candidate }}")
        def train(data, name, learning_rate, max_leaf_nodes, trees, interactions) -> float:
            """Hyperparameters arrive by name: one too many or too few is an error, never unseen."""
            from sklearn.ensemble import HistGradientBoostingClassifier
            from sklearn.metrics import roc_auc_score
            from sklearn.pipeline import make_pipeline
            from threadpoolctl import threadpool_limits

            from include.features.churn import preprocessor

            get_current_context()["candidate"] = name
            rows, unseen = (storage.read_frame(data[part]) for part in ("train", "validation"))
            boosting = HistGradientBoostingClassifier(
                learning_rate=learning_rate,
                max_leaf_nodes=max_leaf_nodes,
                max_iter=trees,
                interaction_cst="no_interactions" if interactions == "none" else None,
                random_state=SEED,
            )
            with threadpool_limits(1):  # its siblings run at the same time
                model = make_pipeline(preprocessor(), boosting).fit(rows, rows[LABEL])
                scores = model.predict_proba(unseen)[:, 1]
            return float(roc_auc_score(unseen[LABEL], scores))

        return train.partial(data=prepare()).expand_kwargs(wanted)

    @task(task_display_name="Compare", multiple_outputs=False)
    def compare(trained: list[dict], auc: list[float]) -> dict:
        """Rank and draw them, and write the winner as a file that `config/` can take."""
        import mlflow
        import pandas as pd

        from include.evaluation import plots

        points, auc = list(trained), list(auc[:])  # a slice is one request, a loop one for each
        ways = [point["name"].split()[0] for point in points]
        table = pd.DataFrame(points).assign(way=ways, auc=auc)
        table = table.sort_values("auc", ascending=False, kind="stable")
        best = points[table.index[0]]
        file = yaml.safe_dump({name: best[name] for name in DEFAULTS}, sort_keys=False)
        with tracking.run():
            axes = ("learning_rate", "max_leaf_nodes")
            tracking.log_figure(plots.explored(table, "way", *axes, "auc"), "search.png")
            mlflow.log_text(table.to_csv(index=False), "trainings.csv")
            mlflow.log_text(file, "hyperparameters.yaml")
        return {
            "configured": auc[ways.index("configured")],
            "best": {"name": best["name"], "auc": max(auc)},
            "file": storage.write_bytes(file.encode(), "hyperparameters.yaml"),
        }

    settings = configure()
    wanted = search(settings)
    compare(wanted, train(wanted))


hyperparameter_config()
