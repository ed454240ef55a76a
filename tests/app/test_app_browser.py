"""The page in a real browser: `make test-browser` installs what this needs."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from scmm.app.api import create_app
from scmm.app.service import SearchService
from scmm.retrieval.gallery import Filter, Query


sync_api = pytest.importorskip("playwright.sync_api", reason='playwright is missing: pip install "scmm[test-browser]"')
expect = sync_api.expect

CHROMIUM = os.environ.get("SCMM_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no browser at {CHROMIUM}")

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SENTENCE = "a man in a red coat"
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def serve(serving, tmp_path, monkeypatch):
    """Serves a gallery until the test ends; gives the address."""
    (tmp_path / "uploads").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with ExitStack() as stack:
        yield lambda gallery: stack.enter_context(serving(create_app(SearchService(gallery), tmp_path / "uploads")))


@pytest.fixture
def open_page(browser, serve):  # closes its pages before the server ends
    """Opens pages; at the end, none may have asked another machine for anything, or complained."""
    contexts, complaints = [], []

    def open_page(url: str, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        host = urlsplit(url).netloc
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on(
            "request",
            lambda request: urlsplit(request.url).netloc not in (host, "") and complaints.append(request.url),
        )
        page.goto(url)
        expect(page.locator("#results .scmm-results, #results .scmm-message")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def ids(page) -> list[str]:
    return page.locator(".scmm-open").evaluate_all("buttons => buttons.map(button => button.dataset.id)")


def search(page, sentence: str) -> None:
    """Types the sentence and presses Enter, again if the page is still being set up and does not hear the key."""
    box = page.get_by_label("Describe the person")
    box.fill(sentence)
    typed = json.dumps(box.input_value(), ensure_ascii=False)  # the page asks for more than this search as it loads
    for timeout in (3_000, 10_000, 30_000):
        try:
            with page.expect_request(lambda asked: typed in (asked.post_data or ""), timeout=timeout):
                box.press("Enter")
            return
        except sync_api.TimeoutError:
            continue
    raise AssertionError(f"the page never sent {typed}")


def test_a_search_with_conditions_and_its_link(serve, open_page, gallery):
    url = serve(gallery)
    page = open_page(url)
    search(page, SENTENCE)
    expect(page.locator(".scmm-open")).to_have_count(12)
    assert ids(page) == [hit.id for hit in gallery.search(SENTENCE, top_k=20)]
    assert page.locator(".scmm-open img").first.get_attribute("alt").startswith("Result 1, score ")

    page.get_by_text("Conditions, and search with a picture").click()
    page.get_by_label("Cameras").click()
    page.get_by_role("option", name="2").click()
    page.get_by_label("Taken from, UTC").fill("2026-03-01 11:00")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".scmm-open")).to_have_count(3)
    where = Filter(cameras=["2"], after="2026-03-01 11:00")
    expected = [hit.id for hit in gallery.search(SENTENCE, top_k=20, where=where)]
    assert ids(page) == expected
    assert parse_qs(urlsplit(page.url).query) == {"q": [SENTENCE], "camera": ["2"], "after": ["2026-03-01 11:00"]}

    again = open_page(page.url)
    expect(again.locator(".scmm-open")).to_have_count(3)
    assert ids(again) == expected and again.get_by_label("Describe the person").input_value() == SENTENCE
    page.go_back()
    expect(page.locator(".scmm-open")).to_have_count(12)


def test_more_like_this_and_why_by_keyboard_alone(serve, open_page, gallery):
    url = serve(gallery)
    page = open_page(f"{url}/?q={SENTENCE}")
    first = page.locator(".scmm-open").first
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Which regions answer which word")).to_be_visible()
    assert dialog.locator(".scmm-words b").all_inner_texts() == SENTENCE.split()
    veil = dialog.locator(".scmm-veil").first
    assert veil.evaluate("image => image.naturalWidth") > 0 and veil.get_attribute("alt")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    chosen = ids(page)[3]
    page.locator("li", has=page.locator(f'[data-id="{chosen}"]')).get_by_role("button", name="More like this").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".scmm-like")).to_be_visible()
    assert ids(page) == [hit.id for hit in gallery.search(Query(like=chosen), top_k=20)] and ids(page)[0] == chosen
    assert parse_qs(urlsplit(page.url).query) == {"like": [chosen]}
    assert page.get_by_label("Describe the person").input_value() == ""


def test_the_same_image_opens_twice(serve, open_page, gallery):
    url = serve(gallery)
    page = open_page(f"{url}/?q={SENTENCE}&top_k=1")
    for _ in range(2):
        page.locator(".scmm-open").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_markup_is_shown_and_not_run(serve, open_page, gallery):
    markup = "<img src=x onerror=window.hacked=3>${window.hacked=4}{{this}}<script>window.hacked=5</script>"
    url = serve(gallery)
    page = open_page(url)
    search(page, markup)
    expect(page.locator(".scmm-open")).to_have_count(12)
    expect(page.locator(".scmm-said")).to_contain_text(markup)
    named = next(place for place, id in enumerate(ids(page)) if "onerror" in id)
    page.locator(".scmm-open").nth(named).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("dd").last).to_contain_text("<img src=x onerror=window.hacked=1>${window.hacked=2}")
    expect(dialog.locator(".scmm-words")).to_be_visible()
    assert dialog.locator("img").first.evaluate("image => image.naturalWidth") > 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("   ", "Describe the person in a sentence."),
        ("red coat " * 100, "only its beginning counts"),
        ("🧥 🔴", "12 images for “🧥 🔴”"),
    ],
)
def test_odd_sentences(serve, open_page, gallery, sentence, said):
    url = serve(gallery)
    page = open_page(url)
    search(page, sentence)
    expect(page.locator("#results")).to_contain_text(said)


def test_a_vanished_image(serve, open_page, own_gallery, own_crops):
    url = serve(own_gallery)
    (own_crops / "04.jpg").unlink()
    page = open_page(f"{url}/?q={SENTENCE}")
    expect(page.locator(".scmm-open")).to_have_count(12)
    expect(page.get_by_text("The file is no longer there")).to_have_count(1)
    page.get_by_text("The file is no longer there").click()
    expect(page.get_by_role("dialog").locator("dd").last).to_have_text("04.jpg")


def test_two_users_do_not_see_each_others_results(serve, open_page, gallery):
    url = serve(gallery)
    pages = {sentence: open_page(url) for sentence in ("a red coat", "blue trousers")}
    for sentence, page in pages.items():
        search(page, sentence)
    for sentence, page in pages.items():
        expect(page.locator(".scmm-said")).to_contain_text(sentence)
        assert ids(page) == [hit.id for hit in gallery.search(sentence, top_k=20)]


def test_a_folder_of_which_nothing_is_known(serve, open_page, bare_gallery):
    page = open_page(f"{serve(bare_gallery)}/?q={SENTENCE}&group_by=near-duplicates")
    alone = [hit.id for hit in bare_gallery.search(SENTENCE, top_k=20, group_by="near-duplicates")]
    expect(page.locator(".scmm-open")).to_have_count(len(alone))
    assert ids(page) == alone and len(alone) < 12
    page.get_by_text("Conditions, and search with a picture").click()
    expect(page.get_by_label("Show", exact=True)).to_have_value("No near-duplicates")
    for missing in ("Cameras", "Taken from, UTC"):
        expect(page.get_by_label(missing)).to_have_count(0)
    page.get_by_label("Show", exact=True).click()
    expect(page.get_by_role("option")).to_have_count(2)  # there are no persons
    page.get_by_role("option", name="Every image").click()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".scmm-open")).to_have_count(12)
    page.locator(".scmm-open").first.click()
    expect(page.locator(".scmm-words")).to_be_visible()


def test_a_picture(serve, open_page, gallery, crops, tmp_path):
    url = serve(gallery)
    page = open_page(url)
    page.get_by_text("Conditions, and search with a picture").click()
    page.locator("#picture input[type=file]").set_input_files(crops / "07.jpg")
    expect(page.locator("#picture img")).to_be_visible()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".scmm-said")).to_contain_text("like your picture")
    assert ids(page)[0] == "07.jpg"


def test_a_phone(serve, open_page, gallery):
    url = serve(gallery)
    page = open_page(f"{url}/?q={SENTENCE}", viewport={"width": 360, "height": 740}, has_touch=True)
    expect(page.locator(".scmm-open")).to_have_count(12)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 360
    page.locator(".scmm-open").first.tap()
    expect(page.locator(".scmm-words")).to_be_visible()
    assert page.evaluate(width) <= 360
