"""Draws the pictures of the README and of the pages on concepts: SVG, one for light and one for dark pages.

python docs/drawings.py            # writes docs/assets/*.svg
python docs/drawings.py --check    # writes nothing, and fails where a file differs from what it would write
"""

import argparse
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path


FOLDER = Path(__file__).resolve().parent / "assets"
# Names of colours to what they are on a light and on a dark page. Each modality has its own everywhere.
COLORS = {
    "ink": ("#1f2328", "#e6edf3"),
    "quiet": ("#59636e", "#9198a1"),
    "line": ("#8c959f", "#6e7681"),
    "card": ("#f6f8fa", "#151b23"),
    "vision": ("#0969da", "#58a6ff"),
    "text": ("#1a7f37", "#3fb950"),
    "audio": ("#9a6700", "#d29922"),
    "table": ("#8250df", "#bc8cff"),
    "series": ("#bf3989", "#f778ba"),
    "fusion": ("#bc4c00", "#f0883e"),
}
THEMES = ("light", "dark")


class Drawing:
    """Shapes on a canvas of `width` x `height`, in the colours of a theme."""

    def __init__(self, width: int, height: int, theme: str, title: str):
        self.size, self.theme, self.title = (width, height), theme, title
        self.parts: list[str] = []

    def color(self, name: str) -> str:
        """A colour of the theme."""
        return COLORS[name][THEMES.index(self.theme)]

    def text(self, x: float, y: float, words: str, color="ink", size=14, anchor="middle", bold=False):
        """One line of words, `y` its baseline."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight} '
            f'fill="{self.color(color)}">{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, lines=(), color="line", dashed=False, fill="card"):
        """A box with lines of words in its middle: the first one bold, the others small."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{self.color(fill)}" '
            f'stroke="{self.color(color)}" stroke-width="1.5"{dash}/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for number, words in enumerate(lines):
            first = number == 0
            self.text(
                *(x + width / 2, top + 18 * number, words),
                **({"color": "ink", "bold": True} if first else {"color": "quiet", "size": 12}),
            )

    def token(self, x: float, y: float, color: str, words="", hollow=False, side=20):
        """A token: a small square, hollow where it is a learned one."""
        fill = self.color("card") if hollow else self.color(color)
        dash = ' stroke-dasharray="3 3"' if hollow else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{side}" height="{side}" rx="4" fill="{fill}" '
            f'stroke="{self.color(color)}" stroke-width="1.5"{dash}/>'
        )
        if words:
            self.text(x + side / 2, y + side / 2 + 5, words, color=color if hollow else "card", size=13, bold=True)

    def arrow(self, *points: tuple[float, float], color="line", dashed=False):
        """A line through the points, with a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{self.color(color)}" stroke-width="1.5"{dash} '
            f'marker-end="url(#head-{color})"/>'
        )

    def svg(self) -> str:
        """The file."""
        width, height = self.size
        heads = "".join(
            f'<marker id="head-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z" fill="{self.color(name)}"/></marker>'
            for name in COLORS
            if any(f"head-{name})" in part for part in self.parts)
        )
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, '
            f'sans-serif">\n<title>{escape(self.title)}</title>\n<defs>{heads}</defs>\n{body}\n</svg>\n'
        )


def architecture(theme: str) -> Drawing:
    """From the parts of a row to an answer."""
    drawing = Drawing(980, 420, theme, "mm_hf: encoders, projection, fusion, heads, one checkpoint")
    rows = [
        ("vision", "pictures, video", "ViT, DINOv2, ResNet, CLIP …"),
        ("text", "texts", "BERT, RoBERTa, T5, LSTM …"),
        ("audio", "sound", "Whisper, Wav2Vec2, AST …"),
        ("table", "table columns", "one token a column"),
        ("series", "sensor series", "LSTM, GRU"),
    ]
    for x, words in ((75, "a row, any part absent"), (275, "any pretrained encoder"), (475, "one width")):
        drawing.text(x, 24, words, color="quiet", size=13)
    for x, words in ((660, "fusion"), (880, "heads")):
        drawing.text(x, 24, words, color="quiet", size=13)
    for number, (color, name, encoder) in enumerate(rows):
        top = 44 + 56 * number
        drawing.box(5, top, 140, 40, [name], color=color)
        drawing.arrow((147, top + 20), (173, top + 20), color=color)
        drawing.box(175, top, 200, 40, color=color)
        drawing.text(275, top + 25, encoder, size=13)
        drawing.arrow((377, top + 20), (413, top + 20), color=color)
        for place in range(4):
            drawing.token(416 + 28 * place, top + 10, color)
        drawing.arrow((532, top + 20), (568, top + 20), color=color)
    drawing.box(570, 44, 180, 264, color="fusion")
    drawing.text(660, 74, "cross-attention", bold=True)
    for line, words in enumerate(("the tokens that ask attend", "to those of all others")):
        drawing.text(660, 96 + 17 * line, words, color="quiet", size=12)
    for place in range(4):
        drawing.token(608 + 28 * place, 136, "text")
    for place, color in enumerate(("vision", "audio", "table", "series")):
        drawing.token(608 + 28 * place, 196, color)
        drawing.arrow((618 + 28 * place, 194), (618 + 28 * (3 - place), 159), color="fusion")
    for line, words in enumerate(
        ("keys, values: once an item", "or one of nine other fusions,", "or one of your own")
    ):
        drawing.text(660, 246 + 17 * line, words, color="quiet", size=12)
    heads = ["classes, labels", "numbers", "several tasks", "search", "texts written", "speech written down"]
    for number, words in enumerate(heads):
        top = 44 + 45 * number
        drawing.arrow((752, top + 18), (788, top + 18), color="fusion")
        drawing.box(790, top, 180, 36)
        drawing.text(880, top + 23, words, size=13)
    drawing.box(5, 350, 965, 60, color="line")
    drawing.text(487, 375, "one ordinary Hub checkpoint", bold=True)
    words = "loads with transformers alone · pipelines · explain · export to ONNX · serve · demo"
    drawing.text(487, 396, words, color="quiet", size=13)
    drawing.arrow((880, 308), (880, 348))
    drawing.arrow((660, 310), (660, 348))
    drawing.arrow((275, 310), (275, 348))
    return drawing


def items(theme: str) -> Drawing:
    """Four rows with two pictures: two runs of the encoder."""
    drawing = Drawing(
        760, 250, theme, "Distinct items go through their encoder once; an index says which row uses which"
    )
    drawing.text(115, 24, "rows of the batch", color="quiet", size=13)
    drawing.text(330, 24, "vision_index", color="quiet", size=13)
    drawing.text(480, 24, "distinct pictures", color="quiet", size=13)
    drawing.text(672, 24, "encoder, once each", color="quiet", size=13)
    asked = (("what color is it?", "0"), ("is it a circle?", "0"), ("what shape is it?", "1"), ("is it red?", "-1"))
    for number, (question, index) in enumerate(asked):
        top = 40 + 50 * number
        drawing.box(5, top, 220, 38, color="text")
        drawing.text(115, top + 24, question, size=13)
        drawing.box(306, top, 48, 38, [index], color="vision", dashed=index == "-1")
        drawing.arrow((227, top + 19), (303, top + 19), color="text")
        if index != "-1":
            drawing.arrow((356, top + 19), (428, 78 if index == "0" else 165), color="vision")
    for number in range(2):
        top = 55 + 88 * number
        drawing.box(430, top, 100, 46, [f"picture {number}"], color="vision")
        drawing.arrow((532, top + 23), (618, top + 23), color="vision")
        for place in range(4):
            drawing.token(622 + 26 * place, top + 13, "vision")
    drawing.text(330, 245, "-1: this row has no picture", color="quiet", size=12)
    return drawing


def absence(theme: str) -> Drawing:
    """What stands for a modality that a row lacks."""
    drawing = Drawing(
        760, 220, theme, "A row without a picture gets a learned token in its place; the encoder does not run"
    )
    for number, (name, index) in enumerate((("row 0: picture, text", "0"), ("row 1: text alone", "-1"))):
        top = 30 + 100 * number
        absent = index == "-1"
        drawing.box(5, top, 170, 46, [name])
        drawing.box(225, top, 150, 46, ["vision encoder"] if not absent else ["does not run"], "vision", dashed=absent)
        drawing.arrow((177, top + 23), (223, top + 23), color="vision", dashed=absent)
        if absent:
            drawing.token(440, top + 13, "vision", "?", hollow=True)
            drawing.text(450, top + 62, "learned absent token", color="quiet", size=12)
        else:
            drawing.arrow((377, top + 23), (408, top + 23), color="vision")
            for place in range(4):
                drawing.token(412 + 26 * place, top + 13, "vision")
        drawing.arrow((522, top + 23), (578, top + 23), color="vision", dashed=absent)
        drawing.box(580, top, 170, 46, ["fusion, head"], color="fusion")
    return drawing


def memory(theme: str) -> Drawing:
    """Keys and values of an item, computed once and asked many times."""
    drawing = Drawing(760, 240, theme, "Keys and values of a picture are computed once; every question reads them")
    drawing.box(5, 90, 120, 50, ["one picture"], color="vision")
    drawing.arrow((127, 115), (168, 115), color="vision")
    drawing.box(170, 90, 120, 50, ["encoder"], color="vision")
    drawing.arrow((292, 115), (333, 115), color="vision")
    drawing.box(335, 75, 150, 80, ["memory", "keys and values", "of each layer, once"], color="fusion")
    for number, words in enumerate(("question 1", "question 2", "question 3", "…")):
        top = 15 + 55 * number
        drawing.box(630, top, 120, 40, [words], color="text")
        drawing.arrow((628, top + 20), (488, 95 + 13 * number), color="text")
    drawing.text(410, 180, "prepare(encode(picture))", color="quiet", size=12)
    drawing.text(410, 198, "forward(text, memory, memory_index)", color="quiet", size=12)
    return drawing


def evidence(theme: str) -> Drawing:
    """Shapley values over the sets of a row's modalities."""
    drawing = Drawing(
        760, 230, theme, "The answer with every set of the row's modalities, and each modality's share of it"
    )
    drawing.text(160, 24, "the same row, parts taken away", color="quiet", size=13)
    drawing.text(400, 24, "score of the answer", color="quiet", size=13)
    drawing.text(630, 24, "what each one gave", color="quiet", size=13)
    for number, present in enumerate(((), ("vision",), ("text",), ("vision", "text"))):
        top = 42 + 44 * number
        for place, color in enumerate(("vision", "text")):
            drawing.box(60 + 105 * place, top, 95, 32, dashed=color not in present, color=color)
            word = {"vision": "picture", "text": "question"}[color]
            drawing.text(107 + 105 * place, top + 21, word, color="ink" if color in present else "quiet", size=13)
        drawing.arrow((267, top + 16), (313, top + 16))
        words = {(): "nothing", ("vision",): "picture", ("text",): "question"}.get(present, "picture, question")
        drawing.text(400, top + 21, f"f({words})", size=13)
    for number in range(4):
        drawing.arrow((482, 58 + 44 * number), (538, 124))
    drawing.box(540, 50, 205, 152, color="fusion")
    drawing.text(642, 78, "Shapley values", bold=True)
    for line, (color, words) in enumerate(
        (("vision", "picture"), ("text", "question"), ("fusion", "interaction of both"))
    ):
        drawing.token(560, 96 + 32 * line, color)
        drawing.text(592, 111 + 32 * line, words, size=13, anchor="start")
    return drawing


DRAWINGS: tuple[Callable[[str], Drawing], ...] = (architecture, items, absence, memory, evidence)


def main() -> int:
    """Writes each drawing twice, or says which file is not what would be written."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    check = parser.parse_args().check
    differ = []
    for draw in DRAWINGS:
        for theme in THEMES:
            path, svg = FOLDER / f"{draw.__name__}-{theme}.svg", draw(theme).svg()
            if check and (not path.exists() or path.read_text(encoding="utf-8") != svg):
                differ.append(path.name)
            elif not check:
                FOLDER.mkdir(exist_ok=True)
                path.write_text(svg, encoding="utf-8")
    if differ:
        print("not what docs/drawings.py draws:", ", ".join(differ), "; run it without --check", file=sys.stderr)
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
