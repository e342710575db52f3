"""Take the README's pictures of a running `make up`, as it is: `python -m tests.ui.pictures`.

It wants `make up` to run, and a run of 97.2.1.
"""

from io import BytesIO

from PIL import Image
from playwright.sync_api import Page, expect

from include.tools import environment, rest, up
from tests.scheduler.api import Api
from tests.ui import browser

FOLDER = environment.PROJECT / "docs"
SHOWN = "97_02_01_local_training"


def main() -> None:
    """The Catalogue page, and a finished run's graph with all groups open."""
    env = up.settings(environment.home())
    api = Api(env["AIRFLOW__API__BASE_URL"], rest.password(env))
    (newest, *_) = api.call("GET", f"/dags/{SHOWN}/dagRuns?order_by=-run_after")["dag_runs"]
    with browser.chromium() as chromium:
        page = chromium.new_page(viewport={"width": 1360, "height": 800}, device_scale_factor=1.5)
        page.set_default_timeout(60_000)
        page.goto(rest.link(env))
        page.wait_for_url(f"{api.address}/**")
        page.goto(f"{api.address}/plugin/catalogue")
        expect(page.locator(".catalogue a.state").first).to_be_visible()
        keep(page, "catalogue.png")

        page.set_viewport_size({"width": 1360, "height": 600})
        page.goto(f"{api.address}/dags/{SHOWN}/runs/{newest['dag_run_id']}")
        for step in (
            "Show Graph (Press g)",
            "Expand all task groups",
            "Collapse Details Panel",
            "Fit View",
        ):
            page.get_by_role("button", name=step).click()
            page.wait_for_timeout(1500)  # the graph is laid out anew, and moves
        keep(page, "graph.png")


def keep(page: Page, name: str) -> None:
    """In 256 colours a picture is a third of the size, and nobody sees the difference."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)
    FOLDER.mkdir(exist_ok=True)
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(FOLDER / name, optimize=True)
    print(f"{name}: {(FOLDER / name).stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
