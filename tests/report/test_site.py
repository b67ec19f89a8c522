"""The site as a visitor meets it, in headless Chromium, from disk: it asks nothing of any network.

Screenshots are left in `screenshots`.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest
import saved

import jaxdyn
from jaxdyn import __main__ as cli
from jaxdyn import papers

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright drives the browser: pip install .[test]"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no browser; the site is tested where Chromium is installed"
    ),
]
QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SHOTS = Path(__file__).parents[2] / "screenshots"
PAGES = ["index", "pezeshki2021", "tian2021", "wu2023", "explore/tian2021"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of one paper that was run, one made up that fails, one damaged, and the others not
    run."""
    results = tmp_path_factory.mktemp("results")
    out = tmp_path_factory.mktemp("made") / "site"
    explore = saved.explore_module()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "jaxdyn.explore", explore)
        patch.setattr(jaxdyn, "explore", explore, raising=False)
        assert run(patch, "run", "pezeshki2021", "--out", results) == 0
        for name in ("tian2021", "wu2023"):
            saved.write(name, results)
        (damaged,) = results.glob("wu2023/*/verdicts.json")
        damaged.write_text("[")
        assert run(patch, "report", "--results", results, "--out", out) == 0
    return out


def run(patch, *words):
    patch.setattr(sys, "argv", ["jaxdyn", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *QUIET])


@pytest.fixture
def visit(browser, site):
    """Open a page of the site; afterwards there was no error on it and no request that left the
    disk."""
    contexts = []
    faults = []

    def go(name, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.on(
            "request",
            lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:")) else None,
        )
        context.on("requestfailed", lambda r: faults.append(f"{r.url}: {r.failure}"))
        context.on("weberror", lambda error: faults.append(str(error.error)))
        context.on(
            "console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None
        )
        contexts.append(context)
        page = context.new_page()
        page.goto(f"file://{site}/{name}.html")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not faults


def shown(page):
    return [card.get_attribute("data-words") for card in page.locator(".card:visible").all()]


def test_the_gallery_is_searched_and_filtered(visit):
    page = visit("index")
    first = ["tian2021", "pezeshki2021"]
    names = first + [name for name in papers.names() if name not in first]
    assert shown(page) == names
    page.keyboard.press("/")
    page.keyboard.type("FEATURE pezeshki")
    assert shown(page) == ["pezeshki2021"]
    assert page.locator("#found").inner_text() == f"1 of {len(papers.names())} papers"
    page.keyboard.press("Escape")
    page.select_option("[name=theory]", "online")
    assert shown(page) == ["saad1995"]
    page.select_option("[name=theory]", "")
    page.select_option("[name=subject]", "width")
    assert shown(page) == [name for name in names if papers.subject(name) == "width"]
    page.click("text=Reset")
    assert shown(page) == names
    for verdict, expected in [("refuted", first), ("fails", ["tian2021"])]:
        page.select_option("[name=verdict]", verdict)
        assert shown(page) == expected
    page.fill("[name=search]", "no such paper")
    assert shown(page) == []
    assert page.locator("#none").is_visible()
    page.fill("[name=search]", "sliders")
    page.click("text=sliders")
    assert page.url.endswith("explore/tian2021.html")


def test_papers_without_results_say_how_to_get_them(visit):
    page = visit("index")
    assert "jaxdyn run saxe2013" in page.locator("[data-words=saxe2013]").inner_text()
    assert "damaged results" in page.locator("[data-words=wu2023]").inner_text()
    page.click("text=Stability of SGD")
    assert "jaxdyn run wu2023 makes its figures" in page.locator(".note").inner_text()


def test_a_paper_shows_its_verdicts_its_command_and_its_file(visit):
    page = visit("pezeshki2021")
    experiments = papers.load("pezeshki2021").EXPERIMENTS
    claims = [claim for experiment in experiments for claim in experiment.claims]
    holding = sum(claim.holds for claim in claims)
    assert page.locator("tr[data-verdict=holds]").count() == holding
    commands = [code.inner_text() for code in page.locator(".command code").all()]
    assert commands == [f"jaxdyn run pezeshki2021 {experiment.name}" for experiment in experiments]
    folder = Path(papers.load("pezeshki2021").__file__).parent
    sources = [file.read_text() for file in sorted(folder.glob("*.py"))]
    for summary in page.locator("details:has(pre.source) > summary").all():
        summary.click()
    assert page.locator("pre.source").all_inner_texts() == sources
    assert page.locator(".figure img").first.evaluate("image => image.naturalWidth") > 600
    assert all(image.get_attribute("alt") for image in page.locator("img").all())
    page = visit("tian2021")
    assert [row.get_attribute("data-verdict") for row in page.locator("tbody tr").all()] == [
        v.word for v in saved.VERDICTS
    ]

    # What fails and what is refuted stands out from the ground, as what holds does not.
    def ground(word):
        return page.locator(f"tr[data-verdict={word}]").evaluate(
            "row => getComputedStyle(row).background"
        )

    assert len({ground(word) for word in ("holds", "refuted", "fails")}) == 3


def number(text):
    """What the chart's text says, such as 1.9·10⁻⁴."""
    return float(text.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")).replace("·10", "e"))


def test_the_chart_reads_values_under_the_pointer_and_by_keys(visit):
    page = visit("tian2021")
    plot = page.locator(".plot > svg")
    tip = page.locator(".tip")
    plot.scroll_into_view_if_needed()
    assert plot.locator("path.theory").count() == 3
    assert plot.locator("svg circle").count() > 60
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    assert tip.is_visible()
    assert abs(float(tip.inner_text().split()[1]) - 2) < 0.2
    rows = [re.split(r"\s*±\s*|\t", row) for row in tip.inner_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["0.5", "1", "2"]
    for _, mean, error, theory in rows:
        assert abs(number(mean) - number(theory)) < 6 * number(error)
    page.mouse.move(5, box["y"] - 30)
    assert not tip.is_visible()
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert "time 0: 0.5 simulation" in page.locator("#chart [aria-live]").inner_text()
    page.keyboard.press("End")
    assert "time 4: 0.5 simulation" in page.locator("#chart [aria-live]").inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_what_the_chart_reads_stays_in_a_narrow_screen(visit):
    page = visit("pezeshki2021", width=360)
    page.locator("#chart").scroll_into_view_if_needed()
    box = page.locator(".plot > svg").bounding_box()
    for share in (0.2, 0.5, 0.95):
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + 60)
        tip = page.locator(".tip").bounding_box()
        assert 0 <= tip["x"] < tip["x"] + tip["width"] <= 360


def test_the_chart_hides_curves_and_changes_axes(visit):
    page = visit("tian2021")
    paths = page.locator("path.theory")
    page.click(".legend >> text=0.5")
    assert paths.count() == 2
    page.click(".tools >> text=simulation")
    assert page.locator(".plot svg svg circle").count() == 0
    page.click(".tools >> text=simulation")
    # On a logarithmic axis exponentials are straight: slopes at both ends agree.
    was = paths.first.get_attribute("d")
    if page.locator(".tools >> text=log y").get_attribute("aria-pressed") == "false":
        page.click(".tools >> text=log y")
        assert paths.first.get_attribute("d") != was
    places = [
        tuple(map(float, p.split())) for p in re.split("[ML]", paths.first.get_attribute("d"))[1:]
    ]

    def slope(a, b):
        return (b[1] - a[1]) / (b[0] - a[0])

    assert slope(places[0], places[9]) == pytest.approx(slope(places[-10], places[-1]), rel=0.02)
    page.click(".tools >> text=theory")
    assert paths.first.get_attribute("d") in ("", None)
    page.select_option("#pair", label="v")
    assert page.locator(".legend button").count() == 0
    assert page.locator(".plot svg svg circle").count() == 3


def test_sliders_move_the_theory(visit):
    page = visit("tian2021")
    page.click("text=Change a number")
    assert page.url.endswith("explore/tian2021.html")
    paths = page.locator("path.theory")
    first = [path.get_attribute("d") for path in paths.all()]
    rate = page.get_by_label("rate")
    assert (
        rate.evaluate("input => input.parentElement.querySelector('output').textContent") == "1.5"
    )
    rate.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("output").first.inner_text() == "2"
    moved = [path.get_attribute("d") for path in paths.all()]
    assert moved[0] != first[0]
    assert moved[1] == first[1]
    page.get_by_label("kind").fill("1")
    assert page.locator("output").last.inner_text() == "descent"
    # The end of exp(-2 x / 2) at x = 2, read by keys.
    page.locator(".plot > svg").focus()
    page.keyboard.press("End")
    assert "decay 0.1353" in page.locator("#chart [aria-live]").inner_text()
    page.click("text=Start values")
    assert [path.get_attribute("d") for path in paths.all()] == first


def test_light_and_dark(visit):
    ground = "getComputedStyle(document.body).backgroundColor"
    page = visit("index", color_scheme="dark")
    dark = page.evaluate(ground)
    assert page.locator("#theme").inner_text() == "Light"
    page.click("#theme")
    light = page.evaluate(ground)
    assert light != dark
    page.wait_for_timeout(500)  # the browser writes its storage in its own time
    page.click("text=Multi-scale feature learning")
    page.wait_for_url("**/pezeshki2021.html")
    assert page.evaluate(ground) == light  # the choice lasts
    assert visit("index").evaluate(ground) == light
    # Text on its ground: at least the 4.5 that WCAG's AA asks of small text.
    for scheme in ("light", "dark"):
        page = visit("tian2021", color_scheme=scheme)
        for colour in ("text", "quiet", "accent", "holds", "refuted", "fails", "undecided"):
            for behind in ("ground", "raised"):
                values = page.evaluate(
                    f"['{colour}', '{behind}'].map(n => getComputedStyle(document.documentElement)"
                    ".getPropertyValue('--' + n).trim())"
                )
                assert contrast(*values) >= 4.5, (scheme, colour, behind)


def contrast(*colours):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


def test_all_is_reached_by_keys(visit):
    page = visit("index")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
    assert {"search", "subject", "verdict", "Reset", "Multi-scale feature learning"} <= seen
    page.locator("text=Multi-scale feature learning").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/pezeshki2021.html")


@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_every_screen_are_light_and_paint_at_once(name, visit, site):
    assert (site / f"{name}.html").stat().st_size < 300_000
    SHOTS.mkdir(exist_ok=True)
    page = visit(name)
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    page.wait_for_function(paint)
    assert page.evaluate(paint) < 1000
    for scheme, width in [
        ("light", 1280),
        ("light", 768),
        ("light", 360),
        ("dark", 360),
        ("dark", 1280),
    ]:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(
            path=SHOTS / f"{name.replace('/', '-')}-{scheme}-{width}.png", full_page=True
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_site_of_all_papers_needs_no_other_file(site):
    for page in site.rglob("*.html"):
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.read_text())
        local = [link for link in links if not link.startswith(("https://arxiv.org/", "data:"))]
        assert all((page.parent / link).exists() for link in local), page
