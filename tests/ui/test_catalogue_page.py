"""The Catalogue page as a reader meets it: in a browser, on Airflow's own API server."""

import json
import os
import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import expect

from include import processes, spec
from include.tools import copy, environment
from tests.conftest import HOME
from tests.harness import clone
from tests.scheduler.api import Api
from tests.services import http_connection, tracking_server
from tests.ui import browser

pytestmark = pytest.mark.slow

TASKS = spec.load().tasks
HERE = sorted(path.stem for path in environment.DAGS.glob("97_*.py"))
ABSENT = [task.dag_id for task in TASKS if task.dag_id not in HERE]
FIRST = "97_01_01_ml_pipeline_structure"
TRACKED = "97_03_01_mlflow_integration"
# Each stands for the pipelines whose last run ended, or did not begin, in this way.
GREEN, RED, WAITING, *_, NEVER = HERE
REFRESHED = 5000  # so many milliseconds after it has asked, the page asks again
FILES = ("page.js", "page.css", "icon.svg")
ADMINS_PASSWORD = "an-admin's-password"  # noqa: S105

# The ratio of light between each text and what lies behind it, by WCAG 2.2.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const mix = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll(".catalogue *")) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3);
    const text = own.map((node) => node.data).join("").trim();
    if (!text) continue;
    const behind = [];
    for (let each = element; each; each = each.parentElement) {
      behind.unshift(getComputedStyle(each).backgroundColor);
    }
    const pair = [mix(behind), mix([...behind, getComputedStyle(element).color])].map(light);
    found.push([(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), text]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}"""


@dataclass
class ApiServer:
    """Airflow's API server alone: no scheduler moves the runs, so they stay as a test puts them."""

    api: Api
    process: processes.Process

    def run(self, dag_id, state):
        """A run that came this far; returns its id."""
        run_id = self.api.trigger(dag_id)
        if state != "queued":
            self.api.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": state})
        return run_id


def started(name, mlflow, **settings):
    """Start an API server on the DAGs of this session and on no runs; don't wait for it."""
    home = HOME / name
    home.mkdir()
    clone(HOME / "airflow.db", home / "airflow.db")
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM dag_run")
        database.commit()
    port = processes.free_port()
    address = f"http://{environment.HOST}:{port}"
    env = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        "AIRFLOW_CONN_MLFLOW_DEFAULT": mlflow,
        **settings,
    }
    command = [sys.executable, "-m", "airflow", "api-server"]
    process = processes.start(HOME / "services", name, command, env, port)
    return ApiServer(Api(address), process)


@pytest.fixture(scope="module")
def no_experiments(mlflow_store):
    """A tracking server that knows no pipeline, whatever ran before."""
    with tracking_server(HOME / "no-experiments") as server:
        yield server


@pytest.fixture(scope="module")
def servers(dags, no_experiments):
    """Two API servers: one where everybody is admin, one that asks who is there."""
    dags.all()  # the servers' database has to know them
    passwords = HOME / "passwords.json"
    passwords.write_text(json.dumps({"reader": "a reader's secret", "admin": ADMINS_PASSWORD}))
    nobody = http_connection(processes.free_port())
    opened = [
        started(
            "open",
            no_experiments.connection,
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
        ),
        started(
            "asking",
            nobody,
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="False",
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS="reader:viewer,admin:admin",
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE=str(passwords),
        ),
    ]
    try:
        for each in opened:
            processes.wait_until_answers(f"{each.api.address}/api/v2/version", each.process)
        yield opened
    finally:
        processes.stop(HOME / "services", [each.process for each in opened])


@pytest.fixture(scope="module")
def server(servers):
    return servers[0]


@pytest.fixture(scope="module")
def asking(servers):
    return servers[1]


@pytest.fixture(scope="module")
def runs(server):
    """One run that ended well, one that failed and one that waits, each of another pipeline."""
    return {
        dag_id: server.run(dag_id, state)
        for dag_id, state in ((GREEN, "success"), (RED, "failed"), (WAITING, "queued"))
    }


@pytest.fixture(scope="module")
def chromium():
    if browser.PROGRAM is None and "CI" not in os.environ:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    expect.set_options(timeout=20_000)  # the page asks every five seconds
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def window(chromium):
    """A reader's window; it keeps Airflow's own files, so that only the first page is slow."""
    with chromium.new_context(viewport={"width": 1400, "height": 900}) as opened:
        opened.grant_permissions(["clipboard-read", "clipboard-write"])
        yield opened


@pytest.fixture
def visit(window, server):
    """Open a page; the test fails where one complained, or asked for anything elsewhere."""
    pages, complaints = [], []

    def asked(request):
        if not request.url.startswith((server.api.address, "data:", "blob:")):
            complaints.append(f"asked for {request.url}")

    def said(message, provoked):
        if message.type in ("error", "warning") and not (provoked and provoked in message.text):
            complaints.append(message.text)

    def open_page(query="", path="/plugin/catalogue", prepare=lambda page: None, provoked=""):
        """Let a test prepare the page before it opens, and name the complaint that it provokes."""
        page = window.new_page()
        pages.append(page)
        page.set_default_timeout(30_000)
        page.on("console", lambda message: said(message, provoked))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        prepare(page)
        page.goto(f"{server.api.address}{path}{query}")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def cards(page):
    return page.locator(".catalogue article")


def card(page, dag_id):
    return page.locator(f'.catalogue article[data-dag="{dag_id}"]')


def shown(page):
    return [each.get_attribute("data-dag") for each in cards(page).all()]


def answer(address, token=None):
    """Status and text of what a server says."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(address, headers=headers), timeout=60) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def token(asking):
    """What a reader without rights to change anything gets for name and password."""
    who = {"username": "reader", "password": "a reader's secret"}
    request = Request(
        f"{asking.api.address}/auth/token",
        data=json.dumps(who).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=60) as reply:
        return json.load(reply)["access_token"]


@pytest.mark.parametrize("path", ["sections", "experiments", *FILES, "openapi.json", "docs"])
def test_who_is_not_logged_in_gets_nothing(asking, path):
    status, text = answer(f"{asking.api.address}/catalogue/{path}")
    assert (status, json.loads(text)) == (401, {"detail": "Not authenticated"})
    assert answer(f"{asking.api.address}/catalogue/{path}", "made-up")[0] in (401, 403)


def test_who_may_only_read_gets_the_page(asking, token):
    known = json.loads(answer(f"{asking.api.address}/catalogue/sections", token)[1])
    assert [task["dag_id"] for section in known for task in section["tasks"]] == [
        task.dag_id for task in TASKS
    ]
    for file in FILES:
        assert answer(f"{asking.api.address}/catalogue/{file}", token)[0] == 200
    for other in ("..%2Fcatalogue.py", "secrets.json"):
        assert answer(f"{asking.api.address}/catalogue/{other}", token)[0] in (404, 422)


def test_mlflow_out_of_reach_is_said_in_words(asking, token):
    status, text = answer(f"{asking.api.address}/catalogue/experiments", token)
    assert status == 200
    assert json.loads(text)["pages"] == {}
    assert "MLflow does not answer at http://127.0.0.1:" in json.loads(text)["fault"]


def test_the_link_that_make_up_prints_logs_in_and_hides_the_password(chromium, asking):
    with chromium.new_context() as window:
        page = window.new_page()
        page.goto(f"{asking.api.address}/enter/#{ADMINS_PASSWORD}")
        page.wait_for_url(f"{asking.api.address}/")
        expect(page.get_by_role("link", name="Catalogue")).to_be_visible()
        assert page.evaluate("fetch('api/v2/dags').then((answer) => answer.status)") == 200


def test_a_wrong_link_says_where_the_right_one_is(chromium, asking):
    with chromium.new_context() as window:
        page = window.new_page()
        page.goto(f"{asking.api.address}/enter/#wrong")
        expect(page.get_by_role("status")).to_have_text(
            "This link does not log in. `make status` prints the one that does."
        )
        assert page.url == f"{asking.api.address}/enter/"
        assert page.evaluate("fetch('../api/v2/dags').then((answer) => answer.status)") == 401


def test_the_navigation_leads_to_fifty_cards_in_ten_sections(visit, server):
    page = visit(path="/")
    page.get_by_role("link", name="Catalogue").click()
    expect(cards(page)).to_have_count(50)
    assert page.locator(".catalogue h2").all_inner_texts() == [
        f"{section.number}\n{section.title}" for section in spec.load().sections
    ]
    for task, each in zip(TASKS, cards(page).all(), strict=True):
        said = each.inner_text().split("\n")
        assert {task.number, task.level, task.title, task.purpose, *task.tags} <= set(said)


def test_a_pipeline_that_never_ran_is_there_to_open(visit):
    page = visit()
    expect(card(page, NEVER).locator(".state")).to_have_text("never run")
    for dag_id in ABSENT:
        expect(card(page, dag_id).locator(".state")).to_have_text("not in this Airflow")
        expect(card(page, dag_id).get_by_role("link")).to_have_count(0)


def test_a_card_says_how_the_last_run_went_and_leads_to_it(visit, runs):
    page = visit()
    expect(card(page, GREEN).locator(".state")).to_have_text(re.compile(r"^success\d+ \w+ ago$"))
    expect(card(page, RED).locator(".state")).to_have_text(re.compile(r"^failed\d+ \w+ ago$"))
    expect(card(page, WAITING).locator(".state")).to_have_text(re.compile(r"^queuedfor \d+ \w+$"))
    card(page, RED).locator(".state").click()
    page.wait_for_url(f"**/dags/{RED}/runs/**")
    assert unquote(page.url).endswith(f"/runs/{runs[RED]}")


def test_an_open_page_follows_what_happens(visit, server):
    page = visit(prepare=lambda page: page.clock.install())
    expect(card(page, NEVER).locator(".state")).to_have_text("never run")
    run_id = server.run(NEVER, "success")
    page.clock.fast_forward(REFRESHED)
    expect(card(page, NEVER).locator(".state")).to_contain_text("success")
    server.api.call("DELETE", f"/dags/{NEVER}/dagRuns/{run_id}")
    page.clock.fast_forward(REFRESHED)
    expect(card(page, NEVER).locator(".state")).to_have_text("never run")


def test_more_runs_than_one_answer_holds_hide_no_pipeline(visit, server, runs):
    """Airflow gives a hundred runs at once; two stand for them here."""
    again = [
        server.api.trigger(GREEN, when=datetime(2026, 1, day, tzinfo=UTC)) for day in range(5, 9)
    ]

    def small_answers(page):
        def shorten(route):
            body = {**route.request.post_data_json, "page_limit": 2}
            route.continue_(post_data=json.dumps(body))

        page.route("**/dagRuns/list", shorten)

    page = visit(prepare=small_answers)
    expect(card(page, GREEN).locator(".state")).to_contain_text("queued")
    expect(card(page, RED).locator(".state")).to_contain_text("failed")
    for run_id in again:
        server.api.call("DELETE", f"/dags/{GREEN}/dagRuns/{run_id}")


@pytest.mark.parametrize(
    ("link", "address"), [("DAG", "/dags/{}"), ("Code", "/dags/{}/code")], ids=["dag", "code"]
)
def test_a_card_leads_to_the_dag_and_to_its_code(visit, link, address):
    page = visit()
    card(page, FIRST).get_by_text(link, exact=True).click()
    page.wait_for_url(f"**{address.format(FIRST)}")
    expect(page.get_by_text("97.01.01 · ML Pipeline DAG Structure").first).to_be_visible()


def test_a_card_leads_to_its_mlflow_experiment(visit, no_experiments):
    from mlflow import MlflowClient

    number = MlflowClient(no_experiments.with_login).create_experiment(TRACKED)
    page = visit()
    link = card(page, TRACKED).get_by_role("link", name="MLflow experiment")
    expect(link).to_have_attribute("href", f"{no_experiments.address}/#/experiments/{number}")
    expect(card(page, NEVER).get_by_role("link", name="MLflow experiment")).to_have_count(0)


def test_words_narrow_the_list_and_say_where_they_were_found(visit):
    page = visit()
    box = page.get_by_role("searchbox", name="Filter the pipelines")
    box.fill("approval WORKFLOWS")
    expect(page.locator(".shown")).to_have_text("1 of 50")
    assert shown(page) == ["97_04_02_validation_gates"]
    expect(cards(page)).to_contain_text("Shows: Approval workflows")
    box.fill("97.10")
    expect(cards(page)).to_have_count(5)
    box.fill("no such thing")
    expect(page.get_by_text("No pipeline is like that.")).to_be_visible()
    box.press("Escape")
    expect(cards(page)).to_have_count(50)


def test_tags_levels_and_states_narrow_the_list_together(visit, runs):
    page = visit()

    def toggle(group, name):
        group = page.get_by_role("group", name=group)
        group.get_by_role("button", name=re.compile(rf"^{name} \d+$")).click()

    toggle("Tags", "anti-pattern")
    assert shown(page) == [task.dag_id for task in TASKS if "anti-pattern" in task.tags]
    toggle("Level", "beginner")
    toggle("Level", "advanced")
    assert shown(page) == [
        task.dag_id
        for task in TASKS
        if "anti-pattern" in task.tags and task.level in ("beginner", "advanced")
    ]
    page.get_by_role("button", name="Clear").click()
    expect(cards(page)).to_have_count(50)
    toggle("Last run", "failed")
    assert shown(page) == [RED]


def test_what_was_chosen_is_still_there_on_the_way_back(visit):
    page = visit()
    page.get_by_role("searchbox").fill("structure")
    page.get_by_role("button", name="beginner").click()
    expect(cards(page)).to_have_count(1)
    card(page, FIRST).get_by_text("Code", exact=True).click()
    page.wait_for_url("**/code")
    page.go_back()
    expect(cards(page)).to_have_count(1)
    pressed = page.get_by_role("button", name="beginner")
    expect(pressed).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("searchbox")).to_have_value("structure")


def test_it_can_be_used_without_a_mouse(visit):
    page = visit("?only=beginner")
    expect(card(page, FIRST).get_by_role("button")).to_be_visible()
    page.get_by_role("searchbox").focus()
    page.keyboard.type("structure")
    expect(cards(page)).to_have_count(1)

    def tab_to(name):
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "[document.activeElement.ariaLabel, document.activeElement.textContent]"
            )
            if name in focused:
                return
        raise AssertionError(f"forty Tabs do not reach {name}")

    tab_to("Clear")
    tab_to("advanced 11")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="advanced")).to_have_attribute("aria-pressed", "true")
    tab_to("Copy ML Pipeline DAG Structure")
    page.keyboard.press("Enter")
    expect(card(page, FIRST).get_by_role("status")).to_contain_text(f"make copy DAG={FIRST}")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/dags/{FIRST}/code")


def test_the_copy_command_is_one_that_make_takes(visit, tmp_path):
    page = visit()
    button = card(page, FIRST).get_by_role("button", name="Copy")
    button.click()
    expect(card(page, FIRST).get_by_role("status")).to_contain_text("Copied:")
    assert page.evaluate("navigator.clipboard.readText()") == button.get_attribute("title")
    for dag_id in HERE:
        button = card(page, dag_id).get_by_role("button", name="Copy")
        make, what, *given = button.get_attribute("title").split()
        assert (make, what) == ("make", "copy")
        named = dict(each.split("=", 1) for each in given)
        assert named["DAG"] == dag_id
        assert copy.NAME.fullmatch(named["NAME"])
    assert copy.plan(dag_id, tmp_path, named["NAME"]).files


def test_where_the_clipboard_is_closed_the_command_is_shown(visit):
    page = visit(
        prepare=lambda page: page.add_init_script("delete Navigator.prototype.clipboard"),
    )
    card(page, FIRST).get_by_role("button", name="Copy").click()
    expect(card(page, FIRST).get_by_role("status")).to_contain_text("To copy it:make copy DAG=")


def refusing(pattern, status, body):
    """The server's answer to whoever asks for this address."""
    return lambda page: page.route(pattern, lambda route: route.fulfill(status=status, json=body))


@pytest.mark.parametrize(
    ("pattern", "message", "count"),
    [
        ("**/api/v2/dags?*", "How the pipelines last ran can't be told.", 50),
        ("**/api/v2/dags/~/dagRuns/list", "How the pipelines last ran can't be told.", 50),
        ("**/catalogue/sections", "The pipelines can't be listed.", 0),
        ("**/catalogue/experiments", "No links to MLflow.", 50),
    ],
    ids=["dags", "runs", "sections", "experiments"],
)
def test_a_refusal_is_said_in_words_and_the_rest_stays(visit, pattern, message, count):
    forbid = refusing(pattern, 403, {"detail": "Forbidden here"})
    page = visit(prepare=forbid, provoked="status of 403")
    alert = page.locator(".catalogue").get_by_role("alert")
    expect(alert).to_contain_text(f"{message} Airflow answers 403: Forbidden here")
    expect(cards(page)).to_have_count(count)


def test_when_airflow_is_back_the_alert_goes(visit):
    def cut_off(page):
        page.clock.install()
        page.route("**/api/v2/dags?*", lambda route: route.abort())

    page = visit(prepare=cut_off, provoked="net::ERR_FAILED")
    alert = page.locator(".catalogue").get_by_role("alert")
    expect(alert).to_contain_text("Airflow does not answer.")
    page.unroute("**/api/v2/dags?*")
    page.clock.fast_forward(REFRESHED)
    expect(alert).to_have_count(0)
    expect(card(page, FIRST).locator(".state")).to_be_visible()


def test_who_was_logged_out_is_sent_to_the_login_and_back(visit):
    def log_out(page):
        refusing("**/api/v2/dags?*", 401, {"detail": "Token Expired"})(page)
        page.route("**/auth/login?*", lambda route: route.fulfill(body="Who is there?"))

    page = visit("?only=beginner", prepare=log_out, provoked="status of 401")
    page.wait_for_url("**/api/v2/auth/login?*")
    _, _, back = page.url.partition("?next=")
    assert unquote(back).endswith("/plugin/catalogue?only=beginner")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_word_stands_out_from_its_ground(visit, runs, theme):
    page = visit("?filter=model", prepare=lambda page: page.emulate_media(color_scheme=theme))
    expect(page.locator("html")).to_have_class(re.compile(theme))
    expect(card(page, FIRST).locator(".state")).to_be_visible()
    card(page, FIRST).get_by_role("button", name="Copy").click()
    page.get_by_role("button", name=re.compile("^success 45")).click()
    measured = page.evaluate(CONTRASTS)
    assert len(measured) > 100
    assert [each for each in measured if each[0] < 4.5] == []


def test_a_narrow_window_needs_no_scrolling_sideways(visit, runs):
    page = visit()
    page.set_viewport_size({"width": 360, "height": 740})
    expect(card(page, GREEN).locator(".state")).to_be_visible()
    card(page, GREEN).get_by_role("button", name="Copy").click()
    edge = page.locator(".catalogue").evaluate("page => page.getBoundingClientRect().right")
    assert edge <= 360
    beyond = "(all, edge) => all.filter((each) => each.getBoundingClientRect().right > edge).length"
    assert page.locator(".catalogue *").evaluate_all(beyond, edge) == 0
