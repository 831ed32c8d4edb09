"""What MkDocs does beyond Markdown for the site of docs/.

- A line `[FILE](../FILE)<!-- include -->` becomes the text of that file. On GitHub it stays a link.
- A line `<!-- fill: NAME -->` becomes what the function of that name in `FILLERS` writes from the code.
- The cards in model_cards/ become pages.
- A link to a file outside docs/ leads to its page, where it has one, and else to the file in the repository.
"""

import contextlib
import io
import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import unquote

import yaml
from PIL import Image


REPOSITORY = Path(__file__).resolve().parent.parent
DOCS, CARDS = REPOSITORY / "docs", REPOSITORY / "model_cards"
INCLUDE = re.compile(r"^\[[^\]]*\]\(([^)]+)\)<!-- include -->$", re.MULTILINE)
FILL = re.compile(r"^<!-- fill: (\w+) -->$", re.MULTILINE)
FENCED = re.compile(r"^( *```.*?^ *```[ ]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
DESCRIPTION = 0x010E  # of EXIF: what a picture of predictions says of its run
TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", object: "any value"}


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading, as GitHub makes it."""
    words = re.sub(r"<[^>]*>", "", heading)
    return re.sub(r"[^\w\s-]", "", words.strip().lower()).replace(" ", separator)


def files_of_cards() -> list[Path]:
    """The cards and their pictures."""
    return [*CARDS.glob("*.md"), *CARDS.glob("pictures/*.webp")]


def included() -> dict[str, str]:
    """Files outside docs/ that the site shows: their path in the repository to that of the page."""
    shown = {name: name for name in (file.relative_to(REPOSITORY).as_posix() for file in files_of_cards())}
    for page in DOCS.rglob("*.md"):
        for target in INCLUDE.findall(page.read_text(encoding="utf-8")):
            shown[os.path.relpath(page.parent / target, REPOSITORY)] = page.relative_to(DOCS).as_posix()
    return shown


def link(target: str, written_in: Path, shown_on: str, pages: dict[str, str], address: str) -> str:
    """Where a link leads on the site.

    Args:
        target: of the link.
        written_in: the file that has the link.
        shown_on: path in docs/ of the page that shows it.
        pages: see `included`.
        address: of the repository.
    """
    path, mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:|/", path):
        return target
    file = Path(os.path.normpath(written_in.parent / path))
    if not file.exists() or not file.is_relative_to(REPOSITORY):
        return target  # MkDocs warns of it
    name = file.relative_to(REPOSITORY).as_posix()
    page = pages.get(name) or (file.relative_to(DOCS).as_posix() if file.is_relative_to(DOCS) else None)
    if page is None or page.endswith(".py"):
        return f"{address}/{'tree' if file.is_dir() else 'blob'}/main/{name}{mark}{anchor}"
    return posixpath.relpath(page, posixpath.dirname(shown_on) or ".") + mark + anchor


def with_links(text: str, written_in: Path, shown_on: str, pages: dict[str, str], address: str) -> str:
    """A text with the links of the site, outside of blocks of code."""

    def replaced(match: re.Match) -> str:
        return match[1] + link(match[2], written_in, shown_on, pages, address) + match[3]

    parts = FENCED.split(text)
    return "".join(part if number % 2 else LINK.sub(replaced, part) for number, part in enumerate(parts))


def type_of(hint: Any) -> str:
    """A type in words."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(hint) is list:
        return f"list of {type_of(kinds[0])}"
    if get_origin(hint) is dict:
        return f"mapping to {type_of(kinds[1])}"
    return " or ".join(map(type_of, kinds)) if kinds else TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def row_of_key(key: Field, hint: Any) -> str:
    """The row of a key in the table of recipe keys."""
    from argparse import SUPPRESS

    settings = key.metadata
    if settings["help"] is SUPPRESS:
        return ""
    name = settings.get("flag", key.name)
    kinds = " or ".join(map(type_of, (hint, *settings.get("forms", ()))))
    if choices := settings.get("choices"):
        kinds = "one of " + ", ".join(f"`{choice}`" for choice in choices)
    default = None if key.default is MISSING else key.default
    if isinstance(default, bool):
        default = str(default).lower()
    said = "" if default is None else f"; default `{default}`"
    aliases = ", ".join(f"`{alias}`" for alias in settings.get("aliases", ()))
    first = (
        f'<span id="{name}">`{name}`</span><br><small>{kinds}{said}{"; flag also " * bool(aliases)}{aliases}</small>'
    )
    return f"| {first} | {escape(' '.join(settings['help'].split()), quote=False).replace('|', chr(92) + '|')} |\n"


def recipe_keys() -> str:
    """All keys of a recipe, grouped as the classes that hold them."""
    from mm_hf.training.recipe import ALL_ARGUMENTS

    text = ""
    for group in ALL_ARGUMENTS:
        hints, title = get_type_hints(group), str(group.__doc__).split("\n")[0].rstrip(".")
        text += f"## {title}\n\n| key | what it says |\n|---|---|\n"
        text += "".join(row_of_key(key, hints[key.name]) for key in fields(group)) + "\n"
    return text


def flags() -> str:
    """What `mm_hf VERB --help` prints, for each verb but the two whose flags are the keys of a recipe."""
    from mm_hf import cli

    text = ""
    for name, verb in cli.VERBS.items():
        text += f"## {name}\n\n"
        if verb.parser == cli.TRAINING:
            text += f"`mm_hf {name}`: {verb.line}. Its flags are the [keys of a recipe](recipe_keys.md).\n\n"
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([name, "--help"])
        text += f"```text\n{printed.getvalue().strip()}\n```\n\n"
    return text


def cards() -> str:
    """Each model card with its first two metrics, and its picture of predictions where there is one."""
    text = ""
    for card in sorted(CARDS.glob("*.md")):
        front = card.read_text(encoding="utf-8").split("---\n", 2)[1]
        about = yaml.safe_load(front)["model-index"][0]["results"][0]
        task = about["task"]["type"].replace("-", " ").capitalize()
        scores = ", ".join(f"{score['type'].replace('_', ' ')} {score['value']:.4g}" for score in about["metrics"][:2])
        text += f"## {card.stem}\n\n{task} on `{about['dataset']['name']}`: {scores}. "
        text += f"[The whole card](../model_cards/{card.name})\n\n"
        picture = CARDS / f"pictures/{card.stem}.webp"
        if picture.exists():
            with Image.open(picture) as opened:
                said = opened.getexif()[DESCRIPTION]
            text += f"![Predictions of {card.stem}](../model_cards/pictures/{picture.name}){{ loading=lazy }}\n\n"
            text += f"Rows of the test part, from a run of this recipe ({said}).\n\n"
    return text


class PageReader(HTMLParser):
    """What a page of the built site has and needs: `ids`, `links`, and `loaded`, which a browser fetches by itself."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        """See the library's method."""
        given = {name: value for name, value in attrs if value is not None}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])


def faults_of_site(site: Path) -> list[str]:
    """Links of a built site that lead nowhere in it, and what it would load from elsewhere."""
    pages = {file: PageReader(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    faults = []
    for file, page in pages.items():
        name = file.relative_to(site).as_posix()
        for target in page.loaded:
            if re.match(r"(https?:)?//", target):
                faults.append(f"{name} loads {target}")
        for target in [*page.links, *page.loaded]:
            path, _, anchor = unquote(target).partition("#")
            if re.match(r"[a-z]+:|//", target):
                continue
            # Only 404.html, which is shown for any address, has links that begin at the root.
            there = site / path.lstrip("/") if path.startswith("/") else file.parent / path if path else file
            there = Path(os.path.normpath(there / "index.html" if there.is_dir() else there))
            if not there.exists():
                faults.append(f"{name} links to {target}, which is not there")
            elif anchor and there in pages and anchor not in pages[there].ids and not anchor.startswith("__"):
                faults.append(f"{name} links to {target}, which has no such anchor")
    return faults


FILLERS: dict[str, Callable[[], str]] = {"recipe_keys": recipe_keys, "flags": flags, "cards": cards}


def on_config(config):
    """GitHub's anchors, so that a link leads to the same heading there and here."""
    os.environ["COLUMNS"] = "100"  # of what `--help` prints
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def on_files(files, config):
    """The cards and their pictures are pages and files too."""
    from mkdocs.structure.files import File

    for file in files_of_cards():
        name = file.relative_to(REPOSITORY).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills in what a page shows of the code and of other files, and leads its links to the right place."""
    shown_on, pages = page.file.src_uri, included()
    source = Path(page.file.abs_src_path)

    def links_of(text: str, file: Path) -> str:
        return with_links(text, file, shown_on, pages, config.repo_url.rstrip("/"))

    def include(match: re.Match) -> str:
        file = (source.parent / match[1]).resolve()
        return links_of(file.read_text(encoding="utf-8"), file)

    parts, end = [], 0
    for match in INCLUDE.finditer(markdown):
        parts += [links_of(markdown[end : match.start()], source), include(match)]
        end = match.end()
    text = "".join([*parts, links_of(markdown[end:], source)])
    return FILL.sub(lambda match: links_of(FILLERS[match[1]](), source), text)


def on_page_content(html, page, config, files):
    """A flag in a line of text stays on one line: browsers break behind its hyphens."""

    def kept(code: re.Match) -> str:
        return re.sub(r"(?<![\w-])(--\w+)", r'<span class="flag">\1</span>', code[0])

    return re.sub(r"<code>[^<]*</code>", kept, html)


def on_post_page(output, page, config):
    """The theme asks GitHub for the stars of a repository that it finds by this mark."""
    return output.replace('data-md-component="source"', "")


def on_post_build(config):
    """Looks at the built pages: MkDocs checks the links of Markdown, but not those of the theme and of the API."""
    from mkdocs.exceptions import PluginError

    if faults := faults_of_site(Path(config.site_dir)):
        raise PluginError("\n".join(["the site has faults:", *faults[:50]]))
