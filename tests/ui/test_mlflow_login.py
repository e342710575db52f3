"""MLflow's own pages in a browser: who is logged in to Airflow sees them, and nobody else does."""

import json
import os

import pytest
from playwright.sync_api import Error, expect

from include.tools import environment
from tests.ui import browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium():
    if browser.PROGRAM is None and "CI" not in os.environ:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with browser.chromium() as opened:
        yield opened


@pytest.fixture
def visit(chromium, mlflow_server):
    """Open MLflow in a window of its own, and say what was answered there."""
    windows = []

    def visit(role=None, **settings):
        windows.append(chromium.new_context(**settings))
        if role:
            cookie = {"name": "_token", "value": airflows(role), "httpOnly": True}
            windows[-1].add_cookies([cookie | {"domain": environment.HOST, "path": "/"}])
        page, answers = windows[-1].new_page(), []
        page.on("response", lambda answer: answers.append(answer.status))
        page.goto(f"{mlflow_server.address}/#/experiments", timeout=60_000)
        return page, answers

    yield visit
    for window in windows:
        window.close()


def airflows(role):
    """What Airflow keeps in the cookie of a browser that has logged in."""
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return SimpleAuthManager().generate_jwt(SimpleAuthManagerUser(username="a", role=role))


def sees_the_experiments(page, answers):
    expect(page.get_by_role("link", name="Default", exact=True)).to_be_visible(timeout=60_000)
    with page.expect_response("**/runs/search", timeout=60_000) as searched:
        page.goto(f"{page.url.partition('#')[0]}#/experiments/0/runs")
    assert (searched.value.status, searched.value.request.method) == (200, "POST")
    assert {401, 403}.isdisjoint(answers)


def test_an_admin_of_airflow_sees_the_experiments_without_another_login(visit):
    sees_the_experiments(*visit("admin"))


def test_a_browser_that_is_told_the_password_sees_the_experiments(visit, mlflow_server):
    known = json.loads(mlflow_server.connection)
    shown = {"username": known["login"], "password": known["password"], "send": "always"}
    sees_the_experiments(*visit(http_credentials=shown))


@pytest.mark.parametrize("role", [None, "viewer"])
def test_any_other_browser_asks_for_the_password(visit, role):
    with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
        visit(role)
