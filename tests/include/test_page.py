"""A report as one HTML file: what stands where, what is escaped, and how pictures are set."""

import re
from base64 import b64decode
from io import BytesIO

import matplotlib.image
import pandas as pd
from matplotlib.figure import Figure

from include.evaluation import page

TABLE = pd.DataFrame({"name": ["<script>", None], "share": [1 / 3, float("nan")]})


def test_a_page_of_words_letter_by_letter():
    whole = page.html("<T>", "a < b", {"A & B": "1 < 2", "C": "3"})
    assert whole == (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>&lt;T&gt;</title>'
        f"<style>{page.STYLE}</style></head>\n<body><h1>&lt;T&gt;</h1>\n"
        "<p>a &lt; b</p>\n<main>\n"
        "<section><h2>A &amp; B</h2>\n<p>1 &lt; 2</p>\n</section>\n"
        "<section><h2>C</h2>\n<p>3</p>\n</section>\n"
        "</main></body></html>\n"
    )
    assert page.STYLE.startswith("\nbody { font: 16px/1.5")


def test_a_table_has_three_digits_names_its_gaps_and_is_escaped():
    whole = page.html("T", "lead", {"table": TABLE})
    assert re.findall(r"<td>(.*?)</td>", whole) == ["&lt;script&gt;", "0.333", "none", "none"]
    assert '<table class="dataframe">' in whole
    assert "</table>\n</section>" in whole


def test_a_picture_is_inside_the_page_and_named_by_its_heading():
    whole = page.html("T", "lead", {"A & B": Figure(figsize=(2, 1))})
    image = re.search(
        r'</h2>\n<img alt="A &amp; B" src="data:image/png;base64,([^"]+)">\n</section>', whole
    )
    pixels = matplotlib.image.imread(BytesIO(b64decode(image[1])), format="png")
    assert pixels.shape[:2] == (110, 220)
    assert "http" not in whole


def test_equal_content_gives_equal_bytes():
    once, again = (page.html("T", "lead", {"A": Figure(), "B": TABLE}) for _ in range(2))
    assert once == again
