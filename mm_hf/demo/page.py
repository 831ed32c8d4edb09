"""The page in a browser, made with gradio. Only this module imports gradio, and only when it makes a page."""

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
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # system fonts; gradio's own themes load fonts from the web
MONO = ["ui-monospace", "Consolas", "monospace"]
KEPT = 3600  # seconds for which files of visitors are kept
NOT_GIVEN = "(not given)"
FAULT = "Something went wrong. Your inputs are not the cause. The terminal of the page shows the error."


@functools.cache
def import_gradio() -> Any:
    """Imports gradio with its analytics turned off.

    Raises:
        ImportError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            f"The demo page requires gradio ({error}): pip install 'mm_hf[demo]'. gradio requires an older Pillow "
            "than the rest of mm_hf. To keep both, use a separate environment."
        ) from error
    return gradio


def path_of(payload: Any) -> str | None:
    """The path of an uploaded file."""
    return None if payload is None else payload.path


def as_it_came(component: Any) -> Any:
    """Makes a gradio component for files pass on the file unchanged; then the model's own code reads it. By default,
    gradio converts the file, and fails if it cannot."""
    component.preprocess = path_of
    return component


class DemoPage:
    """A page to try a checkpoint.

    Args:
        title: of the page.
        about: a sentence about its inputs and answers.
        answerer: answers the inputs.
        examples: example values for the fields.
        evidence: whether to show the contribution of each modality.
        max_file_mb: maximum size of a file, in megabytes.

    Attributes:
        blocks: the gradio object.
        url: the address of the page, when it is served.
        made: an object that must live as long as the page, such as the folder of its examples.
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
        """The answer to the inputs, one value per field, as HTML; an error message if an input cannot be read."""
        try:
            return page_of(self.answerer.answer(row_of(self.fields, given), self.evidence), self.fields)
        except BadField as error:
            return message(str(error))
        except ImportError as error:  # a package for this kind of file is missing
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
                gradio.Examples(examples, given, label="Examples: click one, then click Answer", cache_examples=False)
            quiet: Any = {"api_visibility": "private", "show_progress": "minimal"}
            ask.click(self.answer, given, answer, **quiet)
            for component in given:
                if isinstance(component, gradio.Textbox) and component.lines == 1:
                    component.submit(self.answer, given, answer, **quiet)
            empty = [None] * len(given)
            clear.click(lambda: [*empty, STARTING], None, [*given, answer], queue=False, **quiet)
        return blocks

    def _inputs(self, gradio: Any) -> list[Any]:
        """One component per field. The columns of a table are in one row."""
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
            host: address to listen on.
            port: port; 0: any free port.
            wait: whether to wait until the server is stopped.

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
        print(f"{self.title} is at {url} (Ctrl-C stops it)", flush=True)
        if wait:
            try:
                self.blocks.block_thread()
            finally:
                self.close()

    def close(self):
        """Stops the server."""
        self.blocks.close(verbose=False)


def component_of(gradio: Any, field: Field) -> Any:
    """The gradio component of one field."""
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
    """A free port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
