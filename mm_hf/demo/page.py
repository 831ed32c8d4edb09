"""The page in a browser, made with gradio, which is imported here alone and when a page is made."""

import functools
import os
import socket
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.shown import PICTURE, SERIES, SOUND, TABLE, VIDEO
from .answer_html import STARTING, escaped, message, page_of
from .answering import Answerer
from .fields import BadField, Field, row_of


STYLE = Path(__file__).parent / "demo.css"
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # of the system: gradio's own themes name fonts of the web
MONO = ["ui-monospace", "Consolas", "monospace"]
KEPT = 3600  # seconds that files of visitors are kept
NOT_GIVEN = "(not given)"
FAULT = "Something went wrong that is no fault of what you gave. The terminal of the page tells more."


@functools.cache
def import_gradio() -> Any:
    """gradio, which tells nobody that it was imported.

    Raises:
        ImportError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            f"The demo page needs gradio ({error}): pip install 'mm_hf[demo]'. It asks for an older Pillow than the "
            "rest of mm_hf: an environment of its own keeps both."
        ) from error
    return gradio


def path_of(payload: Any) -> str | None:
    """The file that somebody gave, as it came."""
    return None if payload is None else payload.path


def as_it_came(component: Any) -> Any:
    """A component of gradio for files that hands over the file itself, which the model's own code then reads. gradio
    would convert it, and end in an error where it cannot."""
    component.preprocess = path_of
    return component


class DemoPage:
    """A page on which people try a checkpoint.

    Args:
        title: of the page.
        about: what it asks for and answers.
        answerer: answers what people give.
        examples: values of its fields to try at once.
        evidence: say what each modality gave.
        max_file_mb: megabytes of a file at most.

    Attributes:
        blocks: of gradio.
        url: where it is served, once it is.
        made: what has to be there as long as the page, such as the folder of its examples.
    """

    def __init__(
        self,
        title: str,
        about: str,
        answerer: Answerer,
        examples: Sequence[Sequence[Any]] = (),
        evidence: bool = True,
        max_file_mb: int = 50,
    ):
        self.title, self.about, self.answerer, self.evidence = title, about, answerer, evidence
        self.fields, self.max_file_mb = list(answerer.fields), max_file_mb
        self.url: str | None = None
        self.made: Any = None
        self.blocks = self._build([list(example) for example in examples])

    def answer(self, *given: Any) -> str:
        """The answer to what people gave, one value a field, as HTML; where it cannot be read, a sentence."""
        try:
            return page_of(self.answerer.answer(row_of(self.fields, given), self.evidence), self.fields)
        except BadField as error:
            return message(str(error))
        except ImportError as error:  # a package that reads such files
            return message(str(error))
        except Exception:
            traceback.print_exc()
            return message(FAULT)

    def _build(self, examples: list[list[Any]]) -> Any:
        gradio = import_gradio()
        with gradio.Blocks(title=self.title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
            gradio.HTML(f'<div class="mm-head"><h1>{escaped(self.title)}</h1><p>{escaped(self.about)}</p></div>')
            with gradio.Row(equal_height=False):
                with gradio.Column(min_width=320):
                    given = self._inputs(gradio)
                    with gradio.Row():
                        clear = gradio.Button("Clear", min_width=100)
                        ask = gradio.Button("Answer", variant="primary", min_width=100)
                with gradio.Column(min_width=320):
                    answer = gradio.HTML(STARTING, min_height=120)
            if examples:
                gradio.Examples(examples, given, label="Examples: press one, then Answer", cache_examples=False)
            quiet: Any = {"api_visibility": "private", "show_progress": "minimal"}
            ask.click(self.answer, given, answer, **quiet)
            for component in given:
                if isinstance(component, gradio.Textbox) and component.lines == 1:
                    component.submit(self.answer, given, answer, **quiet)
            empty = [None] * len(given)
            clear.click(lambda: [*empty, STARTING], None, [*given, answer], queue=False, **quiet)
        return blocks

    def _inputs(self, gradio: Any) -> list[Any]:
        """A component for each field; the columns of a table stand beside each other."""
        components, place = [], 0
        while place < len(self.fields):
            end = place + 1
            if self.fields[place].kind == TABLE:
                while end < len(self.fields) and self.fields[end].kind == TABLE:
                    end += 1
                with gradio.Row():
                    components += [component_of(gradio, field) for field in self.fields[place:end]]
            else:
                components.append(component_of(gradio, self.fields[place]))
            place = end
        return components

    def launch(self, host: str = "127.0.0.1", port: int = 7860, wait: bool = True):
        """Serves the page.

        Args:
            host: address to listen at.
            port: 0: any that is free.
            wait: until somebody stops it.

        Raises:
            OSError: the port is taken.
        """
        gradio = import_gradio()
        theme = gradio.themes.Base(font=FONTS, font_mono=MONO)
        port = port or free_port(host)
        _, url, _ = self.blocks.queue(default_concurrency_limit=1, max_size=100).launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            max_file_size=self.max_file_mb * 2**20,
            theme=theme,
            css_paths=STYLE,
        )
        self.url = url
        print(f"{self.title} is at {url} (Ctrl-C ends it)", flush=True)
        if wait:
            try:
                self.blocks.block_thread()
            finally:
                self.close()

    def close(self):
        """Ends the server."""
        self.blocks.close(verbose=False)


def component_of(gradio: Any, field: Field) -> Any:
    """What one field is filled in with."""
    named: dict[str, Any] = {"label": field.label}
    if field.kind == PICTURE:
        settings = {"sources": ["upload", "clipboard"], "image_mode": None, "height": 260, "buttons": []}
        return as_it_came(gradio.Image(type="filepath", **settings, **named))
    if field.kind == SOUND:
        return as_it_came(gradio.Audio(type="filepath", sources=["upload", "microphone"], buttons=[], **named))
    if field.kind == VIDEO:
        return as_it_came(gradio.Video(sources=["upload"], height=260, buttons=[], **named))
    if field.choices is not None:
        choices = [(NOT_GIVEN, ""), *((choice, choice) for choice in field.choices)]
        return gradio.Dropdown(choices, value="", min_width=150, **named)
    if field.is_number:
        return gradio.Number(min_width=150, **named)
    if field.kind == SERIES:
        return gradio.Textbox(lines=5, max_lines=12, info=field.hint, placeholder="0.1, 0.2\n0.3, 0.4", **named)
    info = field.hint or None
    return gradio.Textbox(lines=1, max_lines=8, info=info, min_width=150 if field.kind == TABLE else 320, **named)


def free_port(host: str) -> int:
    """A port that nobody listens at."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
