"""Hook for `mkdocs build`: add the documents outside docs/ to the site, and adapt the links to and from them."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md"]


def on_files(files: Files, config: MkDocsConfig, **kwargs: Any) -> None:
    """Add the documents, and the files that examples/README.md links to, under their paths in the repository."""
    linked = [path for path in (ROOT / "examples").iterdir() if path.suffix in {".py", ".ipynb"}]
    scripts = sorted(path.relative_to(ROOT).as_posix() for path in linked)
    for path in DOCUMENTS + scripts:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Adapt links between docs/ and the rest of the repository, since the site has both in the same folder."""
    if page.file.src_uri in DOCUMENTS:
        return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
    return re.sub(r"\]\(\.\./((?:\.\./)*)(?=[A-Z]|examples/)", r"](\1", markdown)
