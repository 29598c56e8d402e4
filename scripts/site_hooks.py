"""What MkDocs does not do by itself for the site of `make docs`; mkdocs.yml names this file.

Every page keeps its path in the repository, README.md being the first, so that its links work here
and there. Other files that a page links to come along: pictures and HTML as they are, sources and
texts as pages of code, notebooks with their outputs. The page of all public names is made of their
docstrings.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from api_page import write_api_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_page import write_notebook_page

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "results/**/*.md", "alexnet/shipped/**/*.md")
SHOWN_BY_BROWSERS = {".html", ".png", ".svg", ".webp"}
LINK = re.compile(r"(?<=\]\()([^)#\s]+)|(?<=src=\")([^\"]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by the pages of the repository and what they link to."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    for path in pages:
        name = path.relative_to(ROOT).as_posix()
        file = File.generated(config, name, abs_src_path=str(path))
        if path.parent != ROOT:  # MkDocs would make results/x/README.md an index.html
            file.dest_uri = name.removesuffix(".md") + ".html"
        files.append(file)
    for name in sorted({name for path in pages for name in linked_files(path)}):
        if Path(name).suffix in SHOWN_BY_BROWSERS:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
        else:
            files.append(File.generated(config, f"{name}.md", content=code_page(name)))
    files.append(File.generated(config, "reference/api.md", content=write_api_page()))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "scripts/site.css")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Let links to a source file go to its page of code."""
    folder = posixpath.dirname(page.file.src_uri)

    def to_code_page(match: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(folder, match[0]))
        return f"{match[0]}.md" if files.get_file_from_path(f"{name}.md") else match[0]

    return LINK.sub(to_code_page, markdown)


def linked_files(page: Path) -> Iterator[str]:
    """Yield the files of the repository that a page links to and that are no pages."""
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        path = (page.parent / match[0]).resolve()
        if path.suffix != ".md" and path.is_file() and path.is_relative_to(ROOT):
            yield path.relative_to(ROOT).as_posix()


def code_page(name: str) -> str:
    """Return a page that shows a file."""
    if name.endswith(".ipynb"):
        return write_notebook_page(ROOT / name)
    language = Path(name).suffix[1:] or "text"
    text = (ROOT / name).read_text(encoding="utf-8")
    return f"# {name}\n\n````{language}\n{text.rstrip()}\n````\n"
