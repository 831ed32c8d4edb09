"""The blocks of code in the pages that people read: how they are found, run and checked.

The Python blocks of a page run in their order, in one namespace, with local encoders in place of those of the Hub. The
real parsers read its commands, but none of them runs. `<!-- no-run: reason -->` directly above a block leaves it out.
"""

import contextlib
import io
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from mm_hf import cli


REPOSITORY = Path(__file__).parent.parent
TINY = REPOSITORY / "tests/data/checkpoints/encoders"
SHELL = ("bash", "sh", "shell", "console")
RUNS_FIRST = ("evaluate", "compare")  # verbs that take their runs off before the parser reads the flags
# Programs of others, whose words nobody here can check.
OTHERS = {"apt-get", "cd", "chromium", "cp", "curl", "docker", "export", "git", "hf", "ls", "mkdir", "ray", "source"}
BLOCK = re.compile(
    r"^(?:[ ]*<!-- no-run:(?P<reason>[^>]*)-->[ ]*\n+)?^[ ]*```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code of a page.

    Args:
        line: of the page at which the code begins, from 1.
        language, code: as in the page, without the indentation of a list.
        reason: why it is not run; None: it is.
    """

    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page that name their language."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        reason = None if match["reason"] is None else match["reason"].strip()
        found.append(Block(line, match["language"], textwrap.dedent(match["code"]), reason))
    return found


def local_encoders(folder: Path) -> dict[str, Path]:
    """The encoders that pages may name, and tiny ones of the same kinds that stand for them. That of sounds is made in
    a folder: the stored one hears a second, and Whisper thirty."""
    tiny = WhisperConfig.from_pretrained(TINY / "audio", max_source_positions=1500, num_mel_bins=80)
    WhisperModel(tiny).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return {
        "google/vit-base-patch16-224": TINY / "vision",
        "google-bert/bert-base-uncased": TINY / "text",
        "openai/whisper-tiny.en": folder,
    }


def run_python(page: Path, encoders: Mapping[str, Path], names: dict[str, Any]) -> dict[str, Any]:
    """Runs the Python blocks of a page.

    Args:
        page: a Markdown file.
        encoders: Hub ids and the folders that stand for them.
        names: what the blocks may use without having made it; what they make comes on top.
    """
    for block in blocks_of(page):
        if block.language == "python" and block.reason is None:
            code = block.code
            for hub_id, folder in encoders.items():
                code = code.replace(hub_id, str(folder))
            # The empty lines let an error name the line of the page.
            exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)
    return names


def given_names() -> dict[str, Any]:
    """What a block may use without having made it: a picture, a second of sound and labels of two rows."""
    return {
        "__name__": "page",
        "image": Image.new("RGB", (64, 64), "red"),
        "wave": 0.1 * np.random.default_rng(0).normal(size=16000),
        "labels": torch.tensor([1, 2]),
    }


def keep_pushes(monkeypatch) -> list[str]:
    """Nothing is uploaded: the list gets the names under which it would be."""
    pushed: list[str] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **kwargs: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **kwargs: pushed.append(kwargs["repo_id"]))
    return pushed


def commands_of(code: str) -> Iterator[list[str]]:
    """The commands of a block for a shell, each in words: without comments, prompts, variables before it and what
    stands behind a redirection."""
    for line in code.replace("\\\n", " ").split("\n"):
        line = re.sub(r"^\s*\$ ", "", line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("&&", "||", ";", "|", "&"):
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def fault_of_command(words: list[str]) -> str | None:
    """What is wrong with a command of a page; None: nothing that can be found without running it."""
    program, *others = words
    if ">" in others:
        others = others[: others.index(">")]
    if program == "mm_hf":
        return fault_of_verb(others)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        missing = [word for word in others if "=" not in word and word not in targets]
        return f"no target {missing}" if missing else None
    if program in ("pip", "pip3"):
        extras = set(
            re.findall(r"^(\w+) = \[", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
        )
        named = ",".join(re.findall(r"(?:mm_hf|\.)\[([\w,]+)\]", " ".join(others))).split(",")
        missing = set(filter(None, named)) - extras
        return f"no extra {missing}" if missing else None
    if program in ("accelerate", "torchrun") or program.startswith("python"):
        return fault_of_script(others)
    return None if program in OTHERS else f"unknown program {program!r}: a page may say `no-run`"


def unknown_flags(name: str, words: list[str]) -> list[str]:
    """The flags among the words behind a verb that the verb does not have."""
    verb = cli.VERBS[name]
    flags = [word.split("=")[0] for word in words if word.startswith("-")]
    if verb.parser is not None:
        known = {option for action in parser_of(name)._actions for option in action.option_strings}
        return [flag for flag in flags if flag not in known]
    return [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", help_of(name, words))]


def help_of(name: str, words: list[str]) -> str:
    """What a verb that has no such parser, or what its first word names, says to `--help`."""
    asked = [words[0]] if name in ("prepare", "recipes") and words and not words[0].startswith("-") else []
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        cli.main([name, *asked, "--help"])
    return said.getvalue()


def parser_of(name: str) -> Any:
    """The parser of a verb that has one."""
    return resolve_name(str(cli.VERBS[name].parser))("", f"mm_hf {name}")


def fault_of_verb(words: list[str]) -> str | None:
    """What the parser of a verb says against these words."""
    if not words or words[0] in ("--help", "-h", "--version"):
        return None
    name, *others = words
    if name not in cli.VERBS:
        return f"unknown verb {name!r}"
    if "--help" in others:
        return None
    if cli.VERBS[name].parser is None:
        missing = unknown_flags(name, others)
        refused = not help_of(name, others).startswith("usage:")
        return f"unknown flags {missing}" if missing else help_of(name, others) if refused else None
    if name in RUNS_FIRST:
        first = next((number for number, word in enumerate(others) if word.startswith("-")), len(others))
        others = ["--model", *others[:1], *others[first:]]
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            _, unknown = parser_of(name).parse_known_args(others)
    except SystemExit:
        return said.getvalue()
    brought = "--import" in others  # which may bring flags
    return f"unknown words {unknown}" if unknown and not brought else None


def fault_of_script(words: list[str]) -> str | None:
    """Against a call of `python` or `accelerate launch`: the module or file that it names, and its flags."""
    if "-m" in words:
        at = words.index("-m")
        module, others = words[at + 1], words[at + 2 :]
        verbs = {verb.module: name for name, verb in cli.VERBS.items()}
        if module in verbs:
            return fault_of_verb([verbs[module], *others])
        return None if not module.startswith("mm_hf") else f"{module} is the module of no verb"
    files = [word for word in words if word.endswith(".py")]
    if not files or files[0].startswith(("runs/", "/")):  # of a run, or of an export
        return None
    script = REPOSITORY / files[0]
    if not script.exists():
        return f"there is no {files[0]}"
    text = script.read_text(encoding="utf-8")
    if script.parts[-2] == "training" and script.stem in cli.VERBS:
        return fault_of_verb([script.stem, *words[words.index(files[0]) + 1 :]])
    flags = [word.split("=")[0] for word in words[words.index(files[0]) + 1 :] if word.startswith("--")]
    missing = [flag for flag in flags if flag not in text and f"{flag[2:]}:" not in text]
    return f"{files[0]} has no {missing}" if missing else None
