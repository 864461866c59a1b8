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


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Take along what is linked outside of ``docs/``, and list all pages for the navigation."""
    pages = list(files.documentation_pages())
    taken: dict[str, File] = {}
    queue = list(ALWAYS)
    for page in pages:
        queue += _outside_of_docs(f"docs/{page.src_uri}", page.content_string)
    while queue:
        path = queue.pop()
        if path in taken or not (ROOT / path).exists():  # MkDocs warns of what is not there.
            continue
        text = _text_of(path)
        queue += _outside_of_docs(_as_if_at(path), text)
        taken[path] = File.generated(config, _uri_of(path), content=text)
        files.append(taken[path])
    config.nav = _navigation(pages, taken)
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Let the links of the page lead to where the site has their targets."""
    uri = page.file.src_uri
    origins = {_uri_of(path): _as_if_at(path) for path in _paths_taken(files)}
    origin = origins.get(uri, f"docs/{uri}")
    here = posixpath.dirname(uri)

    def rewritten(token: re.Match[str]) -> str:
        if token["target"] is None:
            return token[0]
        path = _resolve(origin, token["target"])
        if uri not in origins and path.startswith("docs/"):
            return token[0]
        return f"]({posixpath.relpath(_uri_of(path), here or '.')}{token['anchor'] or ''})"

    return TOKEN.sub(rewritten, markdown)


def _paths_taken(files: Files) -> Iterator[str]:
    for file in files:
        if file.src_uri.startswith("repository/"):
            yield _TAKEN[file.src_uri]


#: The path in the repository of each page below ``repository/``.
_TAKEN: dict[str, str] = {}


def _uri_of(path: str) -> str:
    """Where the site has the file (or folder) of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    uri = f"repository/{path.lower() if path.endswith('.md') else path + '.md'}"
    _TAKEN[uri] = path
    return uri


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


def _navigation(pages: list[File], taken: dict[str, File]) -> list[dict[str, Any]]:
    """Folder by folder. In each the pages stand in the order in which the first page has them."""
    home = next(page for page in pages if page.src_uri == "README.md")
    order = {
        path: place for place, path in enumerate(_targets("docs/README.md", home.content_string))
    }

    def sort(uris: Iterable[str]) -> list[str]:
        return sorted(uris, key=lambda uri: (order.get(f"docs/{uri}", len(order)), uri))

    nav: list[dict[str, Any]] = [{"Home": home.src_uri}]
    for folder, title in SECTIONS.items():
        found = sort(page.src_uri for page in pages if page.src_uri.startswith(f"{folder}/"))
        if found:
            nav.append({title: found})
    nav += sort(page.src_uri for page in pages if "/" not in page.src_uri and page is not home)
    programs = sorted(path for path in taken if path.startswith("examples"))
    nav.append({"Programs": [taken[path].src_uri for path in programs]})
    rest = sorted(path for path in taken if path not in programs and path not in ALWAYS)
    nav.append({"The repository": [taken[path].src_uri for path in (*ALWAYS, *rest)]})
    return nav
