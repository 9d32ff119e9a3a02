"""Hooks of mkdocs: pages at the top of the repository are in the site, and links out of docs/ work there.

Pages link to files of the repository as GitHub shows them (../mosa/results/stats.py). In the site such a
link leads to `repo_url` of mkdocs.yml where that is set; otherwise to a copy of the file. A folder has none.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
TOP = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md")
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")


def on_files(files: Files, config) -> Files:
    """Add the pages at the top, and the files that pages link to."""
    for name in TOP:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    if not config.repo_url:
        linked = {path for file in files.documentation_pages() for path in _outside(file)}
        for path in sorted(path for path in linked if (ROOT / path).is_file()):
            copy = (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, f"source/{path}.txt", content=copy))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Rewrite links of a page that leave docs/."""
    return _LINK.sub(lambda link: _rewritten(link, page.file, config.repo_url), markdown)


def _outside(file: File) -> set[str]:
    """Return the paths in the repository of what a page links to beyond the pages of the site."""
    targets = (target_of(file.src_uri, link[2]) for link in _LINK.finditer(file.content_string))
    return {target for target in targets if target and not _is_page(target)}


def target_of(page: str, link: str) -> str | None:
    """Return the path in the repository that a link leads to; None: it is an address, or an anchor."""
    path = link.partition("#")[0]
    if not path or "://" in link or link.startswith("mailto:"):
        return None
    return normpath(PurePosixPath("." if page in TOP else "docs", path).as_posix())


def _is_page(target: str) -> bool:
    return target in TOP or target.startswith("docs/")


def _rewritten(link: re.Match[str], file: File, repo_url: str | None) -> str:
    target = target_of(file.src_uri, link[2])
    if target is None:
        return link[0]
    anchor = "#" + link[2].partition("#")[2] if "#" in link[2] else ""
    if _is_page(target):
        return f"{link[1]}({target.removeprefix('docs/')}{anchor})"
    if repo_url:
        return f"{link[1]}({repo_url.rstrip('/')}/blob/HEAD/{target}{anchor})"
    return f"{link[1]}(source/{target}.txt)" if (ROOT / target).is_file() else link[1].strip("[]")
