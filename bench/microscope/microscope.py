"""How the microscope holds a long run: seconds to the first chart in Chromium, bytes, and the server's CPU and memory.

    python -m bench.microscope.microscope [--records 200000] [--checkpoints 300]

The server is a process of its own, as `cloche open` starts it; each view is opened in a fresh page. Wall seconds suffer from
neighbours; the server's CPU seconds stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.microscope.long_run import write_long_run

RESULTS = Path(__file__).parents[1] / "results" / "microscope.json"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SHOWN = {
    "curves": ".chart canvas",
    "growing": "blockquote.sample",
    "health": ".heatmap canvas",
    "lens": "select[name=checkpoint] option",
    "features": ".features li",
    "features?feature=1500": ".examples li",
}
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int, key: str = "VmHWM") -> float:
    """MB: the most that the process ever had (VmHWM), or has (VmRSS)."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) / 1024


def start(run: Path) -> tuple[subprocess.Popen[str], str]:
    code = f"from cloche.microscope import serve; serve({str(run)!r}, open_browser=False)"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
    assert address is not None
    return server, address[0]


def look(browser: Any, url: str, view: str, server: int) -> dict[str, float]:
    """Opens one view in a fresh page and waits until it is drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    received = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    before, began = cpu_seconds(server), time.perf_counter()
    page.goto(f"{url}#/{view}", wait_until="commit")
    page.locator(SHOWN[view]).first.wait_for(state="attached", timeout=120_000)
    seconds = time.perf_counter() - began
    page.wait_for_timeout(1500)  # what is fetched after the first drawing counts too
    told = {
        "first_drawn_s": round(seconds, 2),
        "megabytes": round(sum(received) / 1e6, 2),
        "server_cpu_s": round(cpu_seconds(server) - before, 2),
        "server_memory_mb": round(memory(server, "VmRSS")),
    }
    page.close()
    return told


def measure(run: Path) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), headless=True, args=FLAGS)
        warm = browser.new_page()
        warm.goto("about:blank")
        for name, views in {"cold": ["curves"], "all": list(SHOWN)}.items():
            server, url = start(run)
            try:
                found[name] = {view: look(browser, url, view, server.pid) for view in views}
                found[name]["server_peak_mb"] = round(memory(server.pid))
            finally:
                server.terminate()
                server.wait()
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--checkpoints", type=int, default=300)
    parser.add_argument("--run", type=Path, help="a run made before")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = asked.run or Path(folder) / "long"
        if not run.exists():
            write_long_run(run, asked.records, asked.checkpoints)
        found = {"records": asked.records, "checkpoints": asked.checkpoints, **measure(run)}
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
