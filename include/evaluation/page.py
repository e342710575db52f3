"""A report that is one HTML file: its pictures are inside, so that it can be kept and sent."""

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    Part: TypeAlias = str | pd.DataFrame | Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 68em; margin: 2em auto;
  padding: 0 1em }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(22em, 1fr)); gap: 1em 2.5em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .15em 1.2em .15em 0; border-bottom: 1px solid #ccc }
img { max-width: 100% }
h2 { font-size: 1.1em }
@media print { section { break-inside: avoid } }
"""


def html(title: str, lead: str, parts: "Mapping[str, Part]") -> str:
    """Set sentences, tables and pictures under their headings; `lead` is what a hurried one reads.

    Equal content gives equal bytes: nothing in it comes from the clock.
    """
    sections = "\n".join(
        f"<section><h2>{escape(heading)}</h2>\n{_set(heading, part)}</section>"
        for heading, part in parts.items()
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f"<p>{escape(lead)}</p>\n<main>\n{sections}\n</main></body></html>\n"
    )


def _set(heading: str, part: "Part") -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>\n"
    if hasattr(part, "to_html"):
        table: str = part.to_html(border=0, float_format="{:.3f}".format, na_rep="none")
        return table + "\n"
    image = BytesIO()
    part.savefig(image, format="png", dpi=110)
    content = b64encode(image.getvalue()).decode()
    return f'<img alt="{escape(heading)}" src="data:image/png;base64,{content}">\n'
