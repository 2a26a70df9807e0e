"""The page in Chromium: from a file, without a network, by keys, in any width, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import Browser
from support.pages import HOSTILE, write_data
from support.processes import E2v

pytestmark = pytest.mark.e2e

CURRENT = "document.querySelector('.card.current')"


@pytest.fixture(scope="module")
def page(spoken: Path, e2v: E2v) -> Path:
    """The page of the sample corpus."""
    made = e2v("report", spoken, "--reference", "sample_data")
    assert made.returncode == 0, made.stderr
    return spoken / "report.html"


def test_page_makes_no_request_and_logs_no_error(page: Path, browser: Browser) -> None:
    for width in (1200, 400):
        for dark in (False, True):
            browser.open(page, width, dark)
            browser.wait_for("document.getElementById('map-legend').children.length === 9")
            assert (browser.requests, browser.complaints) == ([], [])


def test_every_player_plays(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('audio').forEach((each) => each.loop = true)")
    assert browser.evaluate("document.querySelectorAll('button.play').length") == 45
    for number in range(0, 45, 8):
        button = f"document.querySelectorAll('button.play')[{number}]"
        browser.evaluate(f"{button}.click()")
        browser.wait_for(f"document.getElementById({button}.dataset.clip).currentTime > 0.1")
        assert browser.evaluate("[...document.querySelectorAll('audio')].filter((each) => !each.paused).length") == 1
    assert browser.evaluate("[...document.querySelectorAll('audio')].every((each) => !each.error)")
    assert browser.complaints == []


def test_track_follows_and_seeks(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('button.play').click()")
    browser.wait_for("parseFloat(document.querySelector('.track .head').style.left) > 2")
    browser.evaluate("document.querySelector('button.play').click()")
    browser.evaluate(
        "(() => { const track = document.querySelector('.track'); const box = track.getBoundingClientRect();"
        "track.dispatchEvent(new MouseEvent('click', { bubbles: true, clientX: box.left + box.width / 2 })); })()"
    )
    browser.wait_for(
        "document.querySelector('audio').currentTime >= document.querySelector('audio').duration / 2 - 0.01"
    )


def test_keys_relabel_and_the_download_has_the_judgements(page: Path, browser: Browser) -> None:
    browser.open(page)
    ids = browser.evaluate("[...document.querySelectorAll('.cards .card .id')].map((each) => each.textContent)")
    found = browser.evaluate(
        "JSON.parse(document.getElementById('data').textContent).utterances.map((each) => each.label)"
    )
    labels = ["angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown"]
    browser.evaluate("document.getElementById('begin').click()")
    chosen = [found[0], (found[1] + 1) % 9, (found[2] + 4) % 9, 8]
    for label in chosen:
        browser.press(str(label + 1))
        browser.press("ArrowDown")
    browser.press("ArrowUp")
    browser.press("0")  # takes the last one back
    assert browser.evaluate(f"{CURRENT}.querySelector('.id').textContent") == ids[3]
    browser.press(" ", "Space")
    browser.wait_for(f"{CURRENT}.querySelector('audio').currentTime > 0.1")
    assert browser.evaluate("document.getElementById('tally').textContent") == "2 relabelled, 1 confirmed"
    assert browser.evaluate("document.querySelector('.verdict').textContent") == f"✓ {labels[found[0]]}"

    browser.evaluate("document.getElementById('save').click()")

    expected = sorted(f"{utt_id} {labels[label]}\n" for utt_id, label in zip(ids[:3], chosen[:3], strict=True))
    assert browser.wait_for_download("utt2emo") == "".join(expected)
    assert (browser.requests, browser.complaints) == ([], [])


def test_buttons_relabel_and_announce_it(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('.cards .key')[3].click()")
    assert browser.evaluate("document.querySelectorAll('.cards .key')[3].getAttribute('aria-pressed')") == "true"
    assert browser.evaluate("document.getElementById('said').textContent").endswith(": happy")


def test_cells_open_their_utterances(page: Path, browser: Browser) -> None:
    browser.open(page)
    title = "fearful, recognised as surprised"
    cell = f"document.querySelector('[data-title=\"{title}\"]')"
    browser.evaluate(f"{cell}.click()")
    found = browser.evaluate(
        "[...document.querySelectorAll('#cell .id, #cell .card bdi')].map((each) => each.textContent)"
    )
    assert found == ["f2-0004", "m2-0009"]
    assert browser.evaluate("document.querySelector('#cell h4').textContent") == f"{title}: 2"
    browser.evaluate("document.querySelector('#cell button.play').click()")
    browser.wait_for("[...document.querySelectorAll('audio')].some((each) => each.currentTime > 0.1)")
    browser.evaluate("document.querySelector('#cell .card').focus()")
    browser.press("3")
    assert browser.evaluate("document.querySelector('#cell .verdict').textContent") == "surprised → fearful"
    browser.evaluate(f"{cell}.click()")
    assert browser.evaluate("document.getElementById('cell').childElementCount") == 0
    assert (browser.requests, browser.complaints) == ([], [])


def test_utterance_that_is_listed_twice_has_one_label(page: Path, browser: Browser) -> None:
    browser.open(page)
    twice = "[...document.querySelectorAll('.card')].filter((card) => card.dataset.utterance === '1')"
    browser.evaluate(f"{twice}[0].querySelector('.key').click()")
    assert browser.evaluate(f"{twice}.map((card) => card.querySelector('.verdict').textContent)") == [
        "disgusted → angry",
        "disgusted → angry",
    ]


def test_page_fits_narrow_windows(page: Path, browser: Browser) -> None:
    for width in (400, 1200):
        browser.open(page, width)
        assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width


def test_colours_follow_the_system(page: Path, browser: Browser) -> None:
    seen = []
    for dark in (False, True):
        browser.open(page, dark=dark)
        seen.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(250, 249, 247)", "rgb(21, 23, 26)"]


def test_map_is_drawn_in_each_colouring(page: Path, browser: Browser) -> None:
    browser.open(page)
    pictures = []
    for choice in ("label", "speaker", "score"):
        browser.evaluate(f"document.querySelector('[name=by][value={choice}]').click()")
        pictures.append(browser.evaluate("document.getElementById('canvas').toDataURL()"))
    browser.evaluate("document.querySelector('[name=centred]').click()")
    pictures.append(browser.evaluate("document.getElementById('canvas').toDataURL()"))
    assert len(set(pictures)) == 4
    browser.evaluate(
        "(() => { const canvas = document.getElementById('canvas'); const box = canvas.getBoundingClientRect();"
        "for (let x = 0; x < box.width; x += 10) for (let y = 0; y < box.height; y += 10) canvas.dispatchEvent("
        "new PointerEvent('pointermove', { clientX: box.left + x, clientY: box.top + y })); })()"
    )
    assert " · speaker " in browser.evaluate("document.getElementById('map-point').textContent")


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(page: Path, browser: Browser, axe: str, width: int, dark: bool) -> None:
    browser.open(page, width, dark)
    browser.evaluate("document.querySelector('.cell').click(); document.getElementById('begin').click()")
    browser.evaluate("document.querySelector('.key').click()")
    browser.evaluate(f"{axe}; 1")
    faults = browser.evaluate(
        "axe.run(document).then((found) => found.violations.map("
        "(fault) => [fault.id, fault.impact, fault.nodes[0].html]))"
    )
    assert faults == []


def test_hostile_texts_are_shown_and_never_run(tmp_path: Path, e2v: E2v, browser: Browser) -> None:
    ids = [HOSTILE, "</script>", "{{7*7}}", "a\u202eb", "\U0001f600", "\uff5e"]
    data = write_data(tmp_path / "data", ids)
    assert e2v("predict", data, "-m", "sample", "-o", tmp_path / "run", "--embeddings", "npy").returncode == 0
    assert e2v("report", tmp_path / "run", "--title", HOSTILE).returncode == 0
    browser.open(tmp_path / "run" / "report.html")
    browser.wait_for("document.getElementById('map-legend').children.length > 0")
    assert browser.evaluate("document.querySelectorAll('script').length") == 2
    assert sorted(
        browser.evaluate("[...document.querySelectorAll('.card .id')].map((each) => each.textContent)")
    ) == sorted(ids)
    browser.evaluate(
        "for (const card of document.querySelectorAll('.card')) { card.focus();"
        "card.dispatchEvent(new KeyboardEvent('keydown', { key: '1', bubbles: true })); }"
    )
    browser.evaluate("document.getElementById('save').click()")
    expected = "".join(f"{utt_id} angry\n" for utt_id in sorted(ids))
    assert browser.wait_for_download("utt2emo") == expected
    assert (browser.requests, browser.complaints) == ([], [])
