"""The page of evidence in a real browser, opened from the disk."""

import evidence_records as records
import pytest

from mm_hf.evidence.page import write_page


class Opened:
    """A page, and what it asked for and complained of.

    Attributes:
        page: of playwright.
        requests: addresses, those in the page itself (`data:`) aside.
        complaints: errors of the console, and of scripts.
    """

    def __init__(self, browser, file, **settings):
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **settings})
        self.requests, self.complaints, self.file = [], [], file
        self.page.on("request", lambda request: request.url.startswith("data:") or self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.goto(file.as_uri())

    def check(self):
        assert self.requests == [self.file.as_uri()]
        assert self.complaints == []

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of a record; in the end it has asked for nothing else, and complained of nothing."""
    pages = []

    def run(evidence, **settings) -> Opened:
        folder = tmp_path / str(len(pages))
        folder.mkdir()
        pages.append(Opened(browser, write_page(evidence, folder), **settings))
        return pages[-1]

    yield run
    for each in pages:
        each.check()
        each.page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_row_with_everything(opened, width):
    """Every kind of item is drawn, of both tasks; no page is wider than its window."""
    each = opened(records.all_kinds(), viewport={"width": width, "height": 900})
    page = each.page
    assert page.locator("figure.item").count() == len(records.ALL_KINDS)
    for selector in (".picture canvas", ".text .tint", ".sound audio", ".series polyline", ".table .bar", ".video li"):
        assert page.locator(selector).count(), selector
    assert page.locator(".video canvas").count() == 5
    assert page.locator(".series .lines").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(image => !(image.complete && image.naturalWidth)).length"
    page.wait_for_function(f"{broken} === 0")
    page.wait_for_function("document.querySelector('audio').duration > 1.9")
    # The numbers, in words too.
    text = page.inner_text("main")
    for said in ("85.6 %", "90.1 %", "+2.1", "+1.9", "synergistic", "log odds of 'yes'"):
        assert said in text
    assert "row 3, column 4" in page.get_attribute(".picture canvas", "aria-label")
    # The check that failed is said beside each map, and the one that passed is not.
    notes = each.texts("figure .warning")
    assert len(notes) == len(records.ALL_KINDS) - 1
    assert all("random weights" in note and "deletion" not in note for note in notes)
    assert "dropout" in page.inner_text("header .warning")


@pytest.mark.parametrize("width", [1280, 390])
def test_what_a_row_lacks(opened, width):
    """What to ask for next, its gain and price; a row that lacks nothing says nothing of it."""
    page = opened(records.lacking(), viewport={"width": width, "height": 900}).page
    said = []
    for number in range(3):
        page.evaluate(f"location.hash = 'row-{number}'")
        page.wait_for_selector(f"main[data-row='{number}']")
        said.append(page.inner_text("main"))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    first, second, third = said
    for part in ("Ask for audio first", "+0.21", "+0.13", "together: +0.31", "30 %", "final score is 0.84", "0.62"):
        assert part in first, part
    assert "Ask for nothing: no missing modality is worth its price" in second
    assert "unknown" in second
    assert "ask for next" not in third


def test_the_slider_moves_the_map(opened):
    page = opened(records.all_kinds()).page
    opacity = "Number(getComputedStyle(document.querySelector('.picture canvas')).opacity)"
    assert page.evaluate(opacity) == 0.7
    slider = page.locator(".picture input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(opacity) == 0.75
    page.keyboard.press("Home")
    assert page.evaluate(opacity) == 0
    slider.fill("100")
    assert page.evaluate(opacity) == 1
    assert page.evaluate("getComputedStyle(document.querySelector('.video canvas')).opacity") == "0.7"


def test_another_map_is_chosen(opened):
    """Of the picture there are an occlusion for each task and signed gradients for the first."""
    page = opened(records.all_kinds()).page
    chosen = page.locator(".picture select")
    assert chosen.locator("option").all_inner_texts() == [
        "offer: occlusion",
        "offer: integrated gradients",
        "street: occlusion",
    ]
    chosen.select_option("1")
    pixel = "(x, y) => [...document.querySelector('.picture canvas').getContext('2d').getImageData(x, y, 1, 1).data]"
    (red, _, blue, clear), (red2, _, blue2, _) = (page.evaluate(f"({pixel})({at})") for at in ("3, 2", "7, 5"))
    assert red > 2 * blue  # orange: for
    assert blue2 > 1.3 * red2  # purple: against
    assert clear > 200
    page.click(".picture summary")
    page.wait_for_selector(".picture .numbers td")  # the browser tells of the opening a moment later
    assert page.locator(".picture .numbers td").count() == 63


def test_the_map_of_a_sound_is_on_its_axis(opened):
    """The band that counts most begins where its second is in the spectrogram; the player moves a line there."""
    page = opened(records.all_kinds()).page
    whole = page.locator(".sound .spectrogram").bounding_box()
    (band,) = [box for box in page.locator(".sound rect").all() if box.text_content().endswith(": 1")]
    assert band.bounding_box()["x"] == pytest.approx(whole["x"] + whole["width"] / 2, abs=1)
    page.locator(".sound .time").click(position={"x": whole["width"] / 4, "y": 20})
    page.wait_for_function("Math.abs(document.querySelector('audio').currentTime - 0.5) < 0.02")
    page.wait_for_selector(".playhead", state="visible")
    line = page.locator(".playhead").bounding_box()
    assert line["x"] == pytest.approx(whole["x"] + whole["width"] / 4, abs=3)


def test_filters_of_many_rows(opened):
    page = opened(records.many(300)).page
    visible = "document.querySelectorAll('.card:not([hidden])').length"
    assert page.evaluate(visible) == 300
    assert page.locator("figure.item").count() == 0  # rows are drawn when somebody looks at them
    page.get_by_label("Answers").select_option("wrong")
    assert page.evaluate(visible) == 100
    assert "100 of 300" in page.inner_text("[role=status]")
    page.get_by_label("Task").select_option("offer")
    page.get_by_label("Decided by").select_option("text")
    assert page.evaluate(visible) == 50
    assert page.locator(".card:not([hidden]) .said:not([hidden])").count() == 50
    page.get_by_role("button", name="Show all").click()
    assert page.evaluate(visible) == 300
    page.get_by_label("Answers").select_option("null")
    page.locator(".card:not([hidden]) a").nth(1).click()
    page.wait_for_selector("figure.item")
    assert page.inner_text("h2") == "Row 5"
    page.get_by_role("link", name="next").click()
    page.wait_for_function("document.querySelector('h2').innerText === 'Row 8'")  # the next that the filters leave
    page.go_back()
    page.go_back()
    page.wait_for_selector(".card:not([hidden])")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#row-5"
    assert page.evaluate(visible) == 100
    page.goto(page.url.partition("#")[0] + "#row-299")
    page.wait_for_function("document.querySelector('h2').innerText === 'Row 299'")


def test_hundreds_of_rows_stay_quick(opened):
    """The index within two seconds of the browser's own time, a row in a fifth."""
    page = opened(records.many(600)).page
    assert page.evaluate("performance.timing.domInteractive - performance.timing.responseEnd") < 10_000
    start = "const start = performance.now();"
    asked = page.evaluate(f"() => {{ {start} drawIndex(); return performance.now() - start; }}")
    row = page.evaluate(f"() => {{ {start} drawRow(7); return performance.now() - start; }}")
    assert (asked < 2000, row < 1000) == (True, True), (asked, row)


def test_the_keyboard_reaches_all(opened):
    """By Tab alone: what can be clicked is met in its order, and each shows that it has the focus."""
    page = opened(records.all_kinds()).page
    wanted = page.locator("a, select, input, summary, audio, [tabindex='0']").count()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    met = set()
    for _ in range(3 * wanted):
        where = page.evaluate(
            "() => { const at = document.activeElement; at.dataset.met ??= String(document.querySelectorAll("
            "'[data-met]').length); return [at.dataset.met, getComputedStyle(at).outlineStyle, at.tagName]; }"
        )
        if where[2] != "BODY":
            met.add(where[0])
            assert where[1] != "none", where
        page.keyboard.press("Tab")
    assert len(met) == wanted
    many = opened(records.many(3)).page
    many.locator(".card a").first.focus()
    many.keyboard.press("Enter")
    many.wait_for_selector("figure.item")
    assert many.evaluate("document.activeElement.innerText") == "Row 0"


def hostile(evidence: dict) -> dict:
    """Every text of a record, replaced by one that wants to run."""

    def spoilt(value, key=None):
        if isinstance(value, dict):
            return {name: spoilt(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [spoilt(each, key) for each in value]
        kept = key in ("src", "frames", "spectrogram", "kind", "absence")
        return value if kept or not isinstance(value, str) else records.HOSTILE

    return spoilt(evidence)


@pytest.mark.parametrize("count", [1, 2])
def test_hostile_texts_execute_nothing(opened, count):
    evidence = hostile(records.all_kinds())
    evidence["rows"] *= count
    for row in evidence["rows"]:
        for name in ("modalities", "shares"):
            values = row["answers"][0][name].values()
            row["answers"][0][name] = {f"{records.HOSTILE} {place}": each for place, each in enumerate(values)}
    evidence["checks"] = {records.HOSTILE: evidence["checks"]["random_weights"]}
    each = opened(evidence)
    if count > 1:
        each.page.locator(".card a").first.click()
    each.page.wait_for_selector("figure.item")
    assert each.page.evaluate("window.hacked") is None
    assert each.page.locator("main script, main [onerror], main [onload], header script").count() == 0
    assert "{{ 7 * 7 }}" in each.page.inner_text("main")
    assert "onerror" in each.page.inner_text("h1")
    # Even a script that gets in does not run, and reaches nobody.
    each.page.evaluate(
        "() => { const made = document.createElement('script'); made.textContent = 'window.hacked = 9';"
        " document.body.append(made); }"
    )
    assert each.page.evaluate("window.hacked") is None
    refused = "() => fetch('https://example.org').then(() => 'reached', () => 'refused')"
    assert each.page.evaluate(refused) == "refused"
    assert all("Content Security Policy" in said for said in each.complaints)
    each.complaints.clear()


def test_words_are_counted_as_python_counts_them(opened):
    """An emoji is one character of Python and two of JavaScript."""
    text = "👩‍👩‍👧 saw 🏠🏠 twice, שלום"
    evidence = records.evidence_of([records.row_of(["text"], text=text)])
    each = opened(evidence)
    tinted = each.page.evaluate(
        "[...document.querySelectorAll('.words .tint')].map(word => word.firstChild.textContent)"
    )
    assert tinted == text.split(" ")
    said = each.page.locator(".words .unseen").all_text_contents()
    assert said[1].strip() == "(+0.909)"
    assert each.page.get_attribute(".words .tint >> nth=1", "title") == "+0.909"
    long = records.evidence_of([records.row_of(["text"], text="word " * 2000)])
    assert opened(long).page.locator(".words .tint").count() == 2000


def test_what_is_lacking_is_no_fault(opened):
    each = opened(records.incomplete())
    for place in range(5):
        each.page.goto(f"{each.file.as_uri()}#row-{place}")
        each.page.wait_for_function(f"document.querySelector('h2').innerText === 'Row {place}'")
        text = each.page.inner_text("main")
        assert "NaN" not in text
        assert "undefined" not in text
        assert "null" not in text
    page = opened(records.evidence_of([])).page
    assert "0 of 0" in page.inner_text("[role=status]")


def test_numbers_are_no_probabilities(opened):
    """The answers without a modality are points between the least and the largest, in the unit of the answer."""
    row = records.row_of(["picture", "table"], right=None)
    answers = {"vision": (250_000.0, 310_000.0, -12.5), "tabular": (250_000.0, 95_000.0, 180_000.0)}
    row["answers"][0] |= {"probability": None, "answer": "250,000", "explained": "price"}
    for name, values in answers.items():
        row["answers"][0]["modalities"][name] |= dict(zip(("with", "without", "alone"), values))
    page = opened(records.evidence_of([row])).page
    text = page.inner_text(".answer")
    for said in ("250,000", "310,000", "95,000", "\u221212.5"):
        assert said in text
    assert "%" not in page.inner_text(".modalities")
    assert page.locator(".modalities .point").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(opened, scheme):
    """Words over the strongest tint, and quiet ones, are 4.5 times as bright as what is below them (WCAG 2.1, AA)."""
    page = opened(records.all_kinds(), color_scheme=scheme).page
    contrast = """(selector) => {
      const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return text.startsWith("color(srgb")
        ? [255 * n[0], 255 * n[1], 255 * n[2], n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1]; };
      const light = (c) => { const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92
        : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const paper = parse(getComputedStyle(document.body).backgroundColor);
      return Math.min(...[...document.querySelectorAll(selector)].map(at => {
        const style = getComputedStyle(at), [r, g, b, a] = parse(style.backgroundColor);
        const below = light([r, g, b].map((v, k) => a * v + (1 - a) * paper[k]));
        const above = light(parse(style.color).slice(0, 3));
        return (Math.max(above, below) + 0.05) / (Math.min(above, below) + 0.05);
      }));
    }"""
    for selector in (".words .tint", ".quiet", ".badge", ".warning", ".legend"):
        assert page.evaluate(contrast, selector) >= 4.5, selector


def test_print(opened):
    """Without what can only be clicked; no wider than the paper."""
    page = opened(records.all_kinds()).page
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 900})  # A4 within its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert not page.locator("audio").is_visible()
    assert not page.locator(".picture input").is_visible()
    assert page.locator(".picture canvas").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
