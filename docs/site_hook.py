"""Hook of MkDocs: adds the pages that are made of the code, and lets links into the repository hold on the site."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from site_pages import command_line, configuration, http_interface, python_interface, repository


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site, with the pages that are no files in docs/."""
    made = {
        "reference/configuration.md": configuration.page(),
        "reference/command-line.md": command_line.page(),
        "reference/http.md": http_interface.page(),
        "reference/python.md": python_interface.page(),
        configuration.SCHEMA_FILE: configuration.schema_file(),
        repository.DECISIONS: repository.decisions(),
        **{page: (repository.ROOT / name).read_text() for page, name in repository.PAGES.items()},
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for path, text in repository.files_linked_to(pages).items():
        files.append(File.generated(config, path, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page whose links into the repository lead to pages of the site."""
    return repository.linked(markdown, page.file.src_uri)
