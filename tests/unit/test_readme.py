"""README says what is: its table of settings is that of the code.

`python -m tests.unit.test_readme` writes the table anew.
"""

from __future__ import annotations

from pathlib import Path

from actors.settings_table import LISTS, TABLE

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- settings -->\n", "<!-- /settings -->"


def table() -> str:
    lines = ["| setting | default | why |", "| --- | --- | --- |"]
    for row in TABLE:
        default = {True: "on", False: "off"}.get(row.default, row.default) if row.kind == "bool" else row.default
        if row.kind in LISTS:
            default = ", ".join(f"`{text}`" for text in row.default) or "none"
        unit = f" {row.unit}" if row.unit and default != "" else ""
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        lines.append(f"| `{row.name}` | {shown}{unit} | {row.reason} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    before, rest = text.split(START)
    return before + START + table() + END + rest.split(END)[1]


def test_the_table_of_settings_is_current() -> None:
    text = README.read_text()
    assert text == with_table(text), "write it anew with: python -m tests.unit.test_readme"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
