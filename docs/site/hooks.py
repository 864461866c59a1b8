"""The navigation of the site, and the files outside of ``docs/`` that its pages link to.

The pages link to each other, and to the rest of the repository, by relative paths: so the links
work on a code host. A link that leaves ``docs/`` would lead nowhere on the site. So the site takes
along what is linked there, as pages below ``repository/``, and the links are rewritten to these.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

#: The folders of ``docs/``, in the order of the navigation. A page that arrives there appears.
SECTIONS = {
    "tutorial": "Tutorial",
    "how-to": "How-to",
    "frameworks": "With your framework",
    "reference": "Reference",
    "explanation": "Explanation",
}
#: What the site takes along although no page may link to it.
ALWAYS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml"}

#: A fenced block or a piece of code, where nothing is a link; or the target of a link.
TOKEN = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}).*?^(?P=indent)(?P=fence)|(?P<ticks>`+)[^`].*?(?P=ticks)"
    r"|\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)


#: What was taken along: the path in the repository of each page below ``repository/``.
taken: dict[str, str] = {}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Take along what is linked outside of ``docs/``, and list all pages for the navigation."""
    pages = list(files.documentation_pages())
    taken.clear()
    queue = list(ALWAYS)
    for page in pages:
        queue += _outside_of_docs(f"docs/{page.src_uri}", page.content_string)
    while queue:
        path = queue.pop()
        uri = _uri_of(path)
        if uri in taken or not (ROOT / path).exists():  # MkDocs warns of what is not there.
            continue
        taken[uri] = path
        text = _text_of(path)
        queue += _outside_of_docs(_as_if_at(path), text)
        files.append(File.generated(config, uri, content=text))
    config.nav = _navigation(pages)
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Let the links of the page lead to where the site has their targets."""
    uri = page.file.src_uri
    origin = _as_if_at(taken[uri]) if uri in taken else f"docs/{uri}"
    folder = posixpath.dirname(uri) or "."

    def rewritten(token: re.Match[str]) -> str:
        if token["target"] is None:
            return token[0]
        path = _resolve(origin, token["target"])
        if uri not in taken and path.startswith("docs/"):
            return token[0]
        # The lines of a program (#L10) have no anchors here.
        anchor = (token["anchor"] or "") if path.endswith(".md") else ""
        return f"]({posixpath.relpath(_uri_of(path), folder)}{anchor})"

    return TOKEN.sub(rewritten, markdown)


def _uri_of(path: str) -> str:
    """Where the site has the file, or folder, of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    # In lower case: a README.md would be the index of its folder.
    return f"repository/{path.lower() if path.endswith('.md') else path + '.md'}"


def _as_if_at(path: str) -> str:
    """The path from which the links of the text are relative: of a folder, from within it."""
    return f"{path}/list.md" if (ROOT / path).is_dir() else path


def _text_of(path: str) -> str:
    file = ROOT / path
    if file.is_dir():
        names = sorted(one.name for one in file.iterdir() if one.suffix in LANGUAGES)
        return f"# {path}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    text = file.read_text("utf-8")
    if path.endswith(".md"):
        return text
    # Not in the search: each word of a page would find its programs as well.
    language = LANGUAGES.get(file.suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n`````{language}\n{text}`````\n"


def _resolve(origin: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _targets(origin: str, text: str) -> Iterator[str]:
    """The paths that the page links to, in order."""
    for token in TOKEN.finditer(text):
        if token["target"] is not None:
            yield _resolve(origin, token["target"])


def _outside_of_docs(origin: str, text: str) -> Iterator[str]:
    return (path for path in _targets(origin, text) if not path.startswith(("docs/", "..")))


def _navigation(pages: list[File]) -> list[Any]:
    """Folder by folder. In each the pages stand in the order in which the first page has them."""
    home = next(page for page in pages if page.src_uri == "README.md")
    linked = list(_targets("docs/README.md", home.content_string))

    def sort(uris: Iterable[str]) -> list[str]:
        return sorted(uris, key=lambda uri: (_place_of(f"docs/{uri}", linked), uri))

    nav: list[Any] = [{"Home": home.src_uri}]
    for folder, title in SECTIONS.items():
        found = sort(page.src_uri for page in pages if page.src_uri.startswith(f"{folder}/"))
        if found:
            nav.append({title: found})
    nav += sort(page.src_uri for page in pages if "/" not in page.src_uri and page is not home)
    always = [{Path(path).stem: _uri_of(path)} for path in ALWAYS]
    others = sorted(uri for uri, path in taken.items() if path not in ALWAYS)
    programs = [uri for uri in others if uri.startswith("repository/examples")]
    nav.append({"Programs": programs})
    nav.append({"The repository": [*always, *(uri for uri in others if uri not in programs)]})
    return nav


def _place_of(path: str, linked: list[str]) -> int:
    return linked.index(path) if path in linked else len(linked)
