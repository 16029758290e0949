"""The page: nothing from outside, nothing that a spec wrote as markup, and a browser shows it."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from explain_specs import EXAMPLES, check, example, explained

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
SAMPLE = ("gemma2_local", "alibi", "document", "relative_table", "sink", "sigmoid")
HOSTILE = "<script>alert(1)</script>\"\\'&lt;</style><img src=x onerror=alert(2)>]]>-->"


class Tags(HTMLParser):
    """Collects the tags of a page and whether each is closed."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", SAMPLE)
def test_a_page_is_whole_and_needs_nothing_else(name):
    page = explained(example(name), 200, 300).to_html()
    tags = Tags(page)
    assert not tags.open
    assert tags.tags.count("svg") == 2
    assert "math" in tags.tags
    assert not {"script", "iframe", "object", "embed", "img", "form"} & set(tags.tags)
    assert not re.search(r"(https?:)?//[a-z]|@import|url\(", page.replace("// ", ""))
    for key, value in tags.attributes:
        assert not key.startswith("on")
        if key == "href":
            assert value.startswith("#") or value == "data:,"


def test_what_a_spec_says_is_never_markup():
    quoted = HOSTILE.replace("\\", "\\\\").replace('"', '\\"')
    text = (
        f'# {HOSTILE}\nattention a(cap: float = 3.0):\n "{quoted}"\n'
        f' require cap > 0, "{quoted}"\n score = cap * tanh(score / cap)\n'
    )
    page = explained(check(text, f"{HOSTILE}.attn"), 64, 64).to_html()
    tags = Tags(page)
    assert not tags.open
    assert not {"script", "img"} & set(tags.tags)
    assert tags.tags.count("style") == 1
    assert not [key for key, _ in tags.attributes if key.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_control_characters_become_visible():
    e = replace(explained(check("attention a\n:"), 64, 64), doc="bell \x07 null \x00")
    assert "bell \ufffd null \ufffd" in e.to_html()


def test_lines_are_linked_both_ways():
    e = explained(example("gemma2_local"), 256, 256)
    origins = {line.origin for line in e.listing.code} - {None}
    assert origins <= {line.key for line in e.listing.spec}
    by_text = {line.text.strip(): line.origin for line in e.listing.code if line.origin}
    (score,) = (o for text, o in by_text.items() if text.startswith("return tanh"))
    (line,) = (s for s in e.listing.spec if s.key == score)
    assert "soft_cap" in line.text
    page = e.to_html()
    for target in re.findall(r'href="#(\w+)"', page):
        assert f'id="{target}"' in page


def test_a_spec_in_its_own_words_is_linked_to_itself():
    text = "attention a(c: float):\n score = c * tanh(score / c)\n mask = kv_idx <= q_idx\n"
    e = explained(check(text), 64, 64)
    assert {line.origin for line in e.listing.code} == {None, "spec.attn:2", "spec.attn:3"}
    assert not any("#line" in line.text for line in e.listing.code)


def test_a_mask_that_reads_scores_has_a_page():
    page = explained(check("attention a:\n mask = score > 0\n"), 64, 64).to_html()
    assert "Not known before the scores are" in page
    assert "<svg" not in page


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the PATH")
@pytest.mark.slow
def test_a_browser_shows_it(tmp_path):
    page = tmp_path / "page.html"
    html = explained(example("gemma2_local"), 1024, 1024).to_html()
    # The probe is the test's: it measures what the browser laid out, where it can be read.
    probe = """<script>addEventListener("load", () => {
      const seen = q => [...document.querySelectorAll(q)].every(x => {
        const r = x.getBoundingClientRect(); return r.width > 10 && r.height > 5; });
      const fraction = document.querySelector("mfrac").getBoundingClientRect();
      const parts = [...document.querySelector("mfrac").children];
      const stacked = parts[0].getBoundingClientRect().bottom
        <= parts[1].getBoundingClientRect().top + 1;
      document.title = ["seen", seen("svg"), seen(".equations math"), stacked,
        document.documentElement.scrollWidth <= innerWidth].join(" "); });</script>"""
    page.write_text(html.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    shot = tmp_path / "shot.png"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0")
    common = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2000"]
    dom = subprocess.run(
        [*common, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60
    )
    assert "<title>seen true true true true</title>" in dom.stdout
    assert "CONSOLE" not in dom.stderr
    subprocess.run(
        [*common, f"--screenshot={shot}", page.as_uri()],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert shot.stat().st_size > 50_000


def test_every_example_has_a_page_worth_reading():
    assert set(SAMPLE) <= {p.stem for p in EXAMPLES.glob("*.attn")}
