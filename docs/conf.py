"""How Sphinx makes the site of these pages: `make docs`."""

import os
import re
import shutil
import sys
from dataclasses import is_dataclass
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
import ballbot  # noqa: E402

project, author, release = "ballbot", "ballbot contributors", ballbot.__version__
project_copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["images"]
smartquotes = False
default_role = "code"  # of single backticks in docstrings
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_mock_imports = ["onnxruntime"]
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
suppress_warnings = ["ref.python"]  # several classes have fields of one name
maximum_signature_line_length = 90
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "furo"
html_title = f"ballbot {release}"
html_extra_path = ["llms.txt"]
DEMO = ROOT / "build" / "demo"
"""What `make demo` builds: demo/ of the site, where that was done."""
if (DEMO / "index.html").is_file():
    tags.add("demo")  # type: ignore[name-defined]  # noqa: F821  # Sphinx's
html_copy_source = False
html_static_path, html_css_files = ["site/static"], ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e8a", "color-brand-content": "#0b6e8a"},
    "dark_css_variables": {"color-brand-primary": "#5cc3de", "color-brand-content": "#5cc3de"},
}

ROOT_PAGES = {"README.md": "index", "CONTRIBUTING.md": "contributing", "mujoco_patch/README.md": "contact_fix"}
"""File outside docs/ -> page that includes it."""
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()#\s]+)(#[^()\s]*)?\)")
"""Markdown's: whether it is a picture, its text, its file, its anchor."""
MARKUP = re.compile(r"(``.+?``)|(?<=[(,\s])([*|])(?=[a-z_])")
"""Code, or what would begin emphasis or a substitution."""
HIDDEN = "\0"
"""Stands for a colon."""


def lead(text: str, folder: Path) -> str:
    """Lead links of a text in this folder to where the site has their files, those to folders to nothing.

    Links to files that are no pages Sphinx makes downloads; those to nothing stay, and Sphinx refuses them.
    """

    def led(link: re.Match[str]) -> str:
        target = (folder / link[3]).resolve()
        if target.is_dir():
            return link[2]
        if not target.is_file():
            return link[0]
        page = ROOT_PAGES.get(os.path.relpath(target, ROOT))
        file = os.path.relpath(target, DOCS) if page is None else f"{page}.md"
        text = "" if link[2].endswith(".md") else link[2]  # Sphinx writes the page's title
        return f"{link[1]}[{text}]({file}{link[4] or ''})"

    return LINK.sub(led, text)


def read_page(app: Sphinx, name: str, content: list[str]) -> None:
    """Lead the links of a page of docs/."""
    content[0] = lead(content[0], DOCS)


def read_included(app: Sphinx, path: Path, name: str, content: list[str]) -> None:
    """Lead the links of a file that a page includes."""
    content[0] = lead(content[0], (DOCS / path).parent)


def hide_colons(app: Sphinx, what: str, name: str, subject: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon for an attribute's type; ours are annotated."""
    if what in ("attribute", "data", "property"):
        lines[:] = [line.replace(":", HIDDEN) for line in lines]


def escape(app: Sphinx, what: str, name: str, subject: object, options: object, lines: list[str]) -> None:
    """Keep the stars of shapes such as (n, *shape), and bars such as |x|, from being read as markup."""
    lines[:] = [MARKUP.sub(lambda m: m[1] or f"\\{m[2]}", line.replace(HIDDEN, ":")) for line in lines]


def without_fields(
    app: Sphinx, what: str, name: str, subject: object, options: object, signature: str, result: str
) -> tuple[str, None] | None:
    """Leave out the signature of a dataclass, whose fields follow."""
    return ("", None) if what == "class" and is_dataclass(subject) else None


def add_demo(app: Sphinx, error: Exception | None) -> None:
    """Copy the robot's page into the site."""
    if error is None and "demo" in app.tags:
        shutil.copytree(DEMO, Path(app.outdir) / "demo", dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Have all that is read led, and docstrings mended before and after napoleon reads them."""
    app.connect("build-finished", add_demo)
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.connect("autodoc-process-signature", without_fields)
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", escape, priority=600)
