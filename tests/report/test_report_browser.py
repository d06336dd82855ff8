import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (375, 800, 1400)

# Chromium's window has a least width, so that the page is laid out in frames.
PROBE = """
<!DOCTYPE html><body>%s<script>
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, width = frame.clientWidth;
    const outside = [...page.querySelectorAll("body *")].filter(element =>
      !element.closest(".scroll, .skip") && element.getClientRects().length
      && element.getBoundingClientRect().right > width + 1);
    const small = [...page.querySelectorAll("body *")].filter(element =>
      element.childElementCount == 0 && element.textContent.trim() && element.getClientRects().length
      && parseFloat(frame.contentWindow.getComputedStyle(element).fontSize) < 10);
    return {width, scroll: page.documentElement.scrollWidth,
            outside: outside.map(element => element.outerHTML.slice(0, 80)),
            small: small.map(element => element.outerHTML.slice(0, 80))};
  });
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
};
</script>
"""


def in_browser(page: str, folder: Path) -> list[dict[str, object]]:
    """What the browser lays out of a page, at each width."""
    assert BROWSER is not None
    frame = '<iframe width="{}" height="900" style="border:0" srcdoc="{}"></iframe>'
    probe = folder / "probe.html"
    probe.write_text(PROBE.strip() % "".join(frame.format(width, html.escape(page)) for width in WIDTHS))
    options = [
        "--headless",
        "--hide-scrollbars",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
    ]
    process = subprocess.Popen(
        [BROWSER, *options, probe.as_uri()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):  # helpers of the browser may outlive it, or not
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    found = re.search(r"FOUND(.*)END", text)
    assert found, text[-500:]
    answer: list[dict[str, object]] = json.loads(html.unescape(found[1]))
    return answer


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize(
    "example", ["seed-s1", "seed-s4", "seed-s4-training", "deepseek-v3", "mixtral-8x22b", "quickstart/moedeployment"]
)
def test_the_page_fits_a_phone_a_tablet_and_a_desk(tmp_path: Path, example: str) -> None:
    folder = tmp_path / "report"
    command = [Path(sys.executable).with_name("moe"), "report", "-f", f"examples/{example}.yaml", "-d", folder]
    claims = ["--claims", "examples/strategies/S3-ep16-tp4-pp2.md"]
    done = subprocess.run([*command, *claims], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    for seen in in_browser((folder / "report.html").read_text(), tmp_path):
        assert seen["scroll"] == seen["width"]
        assert seen["outside"] == []
        assert seen["small"] == []
