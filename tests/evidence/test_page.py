"""The page of evidence and its pictures, without a browser: what the file holds, and what cannot get out of it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import evidence_records as records
import pytest
from PIL import Image

from mm_hf.evidence.drawing import draw_rows
from mm_hf.evidence.page import decided_by, embedded_json, write_page


class Elements(HTMLParser):
    """The elements of a page: (name, attributes, text) each."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), ""))

    def handle_data(self, text):
        if self.elements:
            tag, attributes, before = self.elements[-1]
            self.elements[-1] = tag, attributes, before + text

    def handle_endtag(self, tag):
        self.elements.append(("", {}, ""))

    def json(self, name: str):
        """What the element of an id holds."""
        return json.loads(next(text for _, attributes, text in self.elements if attributes.get("id") == name))


def written(evidence: dict, folder) -> tuple[str, Elements]:
    page = write_page(evidence, folder)
    assert page == folder / "index.html"
    assert list(folder.iterdir()) == [page]
    text = page.read_text(encoding="utf-8")
    return text, Elements(text)


def test_the_page_holds_all_numbers(tmp_path):
    evidence = records.all_kinds()
    text, elements = written(evidence, tmp_path)
    assert elements.json("data-0") == evidence["rows"][0]
    about = elements.json("about")
    assert about["summary"] == evidence["summary"]
    assert [check["name"] for check in about["failed"]] == ["random_weights"]
    (entry,) = about["index"]
    assert [answer["decided"] for answer in entry["answers"]] == ["vision", "text"]
    assert entry["caption"].startswith("Is the cat")
    assert entry["thumbnail"].startswith("data:image/jpeg;base64,")
    assert len(entry["thumbnail"]) < 12_000
    assert evidence["warnings"][0] in text
    for said in ("0.9300", "0.5000", "0.4100", "16 other rows"):
        assert said in text
    unchecked, _ = written(records.evidence_of([], absence="token"), tmp_path)
    assert "--check" in unchecked
    assert "token" in unchecked


def test_the_page_says_with_each_row_what_it_lacks(tmp_path):
    evidence = records.lacking()
    text, elements = written(evidence, tmp_path)
    for number, told in enumerate(evidence["missing"]["rows"]):
        assert elements.json(f"data-{number}")["missing"] == told
    assert elements.json("about")["prices"] == {"vision": 5, "audio": 1, "text": 1}
    assert "Of 42 validation rows" in text


def test_nothing_of_the_page_may_ask_the_network(tmp_path):
    """The policy allows the script and the style by their hashes, and pictures and sounds that are in the page."""
    text, elements = written(records.all_kinds(), tmp_path)
    policy = next(a["content"] for _, a, _ in elements.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == rules["media-src"] == "data:"
    assert not {"connect-src", "frame-src", "font-src"} & set(rules)
    for tag in ("script", "style"):
        codes = [code for name, a, code in elements.elements if name == tag and a.get("type") != "application/json"]
        (hashed,) = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in codes]
        assert rules[f"{tag}-src"] == f"'sha256-{hashed}'"
    assert not re.search(r"\b(https?:)?//\w+\.\w", text.replace("http://www.w3.org/2000/svg", ""))
    assert {a["href"] for _, a, _ in elements.elements if "href" in a} == {"#main", "data:,"}
    assert not any(key == "style" or key.startswith("on") for _, a, _ in elements.elements for key in a)


def test_texts_end_no_element(tmp_path):
    value = {records.HOSTILE: [records.HOSTILE, "<!--<script>", "]]>", "\u2029"]}
    text = embedded_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&\x00") & set(text)
    evidence = records.evidence_of([records.row_of(["text"], text=records.HOSTILE)], run=records.HOSTILE)
    evidence |= {"warnings": [records.HOSTILE], "absence": records.HOSTILE}
    evidence["checks"] = {records.HOSTILE: {**records.CHECKS["random_weights"], "says": records.HOSTILE}}
    plain = written(records.evidence_of([records.row_of(["text"])], checks=records.CHECKS), tmp_path)[1]
    _, elements = written(evidence, tmp_path)
    names = [name for name, _, _ in elements.elements]
    assert names.count("script") == [name for name, _, _ in plain.elements].count("script") == 3
    assert not {"img", "svg", "b"} & set(names)
    assert elements.json("data-0") == evidence["rows"][0]
    with pytest.raises(ValueError, match="JSON"):
        write_page(records.evidence_of([{"row": 0, "items": [], "answers": [], "x": float("nan")}]), tmp_path)


def test_what_decided():
    assert decided_by({"modalities": {"a": {"value": 0.5}, "b": {"value": -2.0}}}) == "b"
    for nothing in ({}, {"modalities": None}, {"modalities": {}}, {"modalities": {"a": {"value": 0.0}}}):
        assert decided_by(nothing) is None
    assert decided_by({"modalities": {"a": {"value": None}, "b": {"value": 0.1}}}) == "b"


def test_rows_that_lack_something(tmp_path):
    evidence = records.incomplete()
    broken = {"src": "data:image/png;base64,bm8gcGljdHVyZQ=="}
    evidence["rows"][0]["items"][0] = {**evidence["rows"][0]["items"][0], "shown": broken}
    _, elements = written(evidence, tmp_path)
    index = elements.json("about")["index"]
    assert [entry["row"] for entry in index] == [0, 1, 2, 3, 4]
    assert index[0]["thumbnail"].startswith("data:image/")  # of the next item, the first being broken
    assert index[2] == {"row": 2, "answers": [], "thumbnail": None, "caption": ""}
    assert [answer["decided"] for answer in index[1]["answers"]] == [None]


def size_of(file) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def test_pictures_of_rows(tmp_path):
    """One a row, whatever it lacks and whatever its texts hold; the same for a row without anything."""
    evidence = records.incomplete()
    everything = {**records.all_kinds()["rows"][0], "row": 17}
    everything["items"] = everything["items"][:2]
    text = records.shown_text(records.HOSTILE + "$x_1$ " * 2000)
    evidence["rows"][3]["items"][1] = {**evidence["rows"][3]["items"][1], **text}
    evidence["rows"] = [*evidence["rows"][2:4], everything]
    files = draw_rows(evidence, tmp_path)
    assert [file.name for file in files] == [f"row-{row:05}.png" for row in (2, 3, 17)]
    sizes = [size_of(file) for file in files]
    assert min(map(min, sizes)) >= 60
    assert max(width for width, _ in sizes) == 750
    assert sizes[2][1] > sizes[0][1]


def test_the_map_lies_over_its_picture(tmp_path):
    """Below a white map the picture is pale where it counts most, and nearly itself elsewhere."""
    row = records.row_of(["picture"])
    row["answers"] = [{**row["answers"][0], "modalities": {}, "explained": None}]
    row["items"][0] = {**row["items"][0], **records.shown_picture(Image.new("RGB", (200, 200), "black"))}
    row["answers"][0]["parts"] = [{"item": 0, "method": "occlusion", "signed": False, "values": [[0, 0], [0, 1]]}]
    (file,) = draw_rows(records.evidence_of([row]), tmp_path)
    with Image.open(file) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(10**6)}
    # viridis at its end, 70 % of it over black, and at its beginning 14 %
    assert any(all(abs(a - 0.7 * b) < 4 for a, b in zip(color, (253, 231, 37))) for color in colors)
    assert any(all(abs(a - 0.14 * b) < 4 for a, b in zip(color, (68, 1, 84))) for color in colors)
