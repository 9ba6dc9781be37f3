"""A page in Debian's Chromium, if it is installed: what a script in the page finds, without network or window."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
SWITCHES = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"


def look(page: str, find: str, folder: Path) -> object:
    """What the JavaScript expression `find` gives, as JSON, once the HTML `page` is loaded; `folder` is scratch."""
    probe = f'<script>addEventListener("load", () => {{ document.title = JSON.stringify({find}) }})</script>'
    assert "</body>" in page
    (folder / "probed.html").write_text(page.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *(f"--{switch}" for switch in SWITCHES.split()),
            "--disable-component-update",
            "--window-size=1280,900",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            (folder / "probed.html").as_uri(),
        ],
        capture_output=True,
        text=True,
    )
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
