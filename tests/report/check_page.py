"""Opens a report in headless Chromium and checks what a reader sees.

check_page.py PAGE.html --runs N [--dark] [--keep PICTURE.png]: every chart has a curve of every run, with many
points in the document and with pixels of the run's colour in the picture; the script works; nothing is fetched.
Python's standard library alone. Exit code 1 with one line a fault.
"""

import argparse
import json
import os
import re
import shutil
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

CHARTS = ["chart-loss", "chart-val_loss", "chart-lr", "chart-grad_norm", "chart-tokens_per_s"]
WIDTH, HEIGHT = 1264, 1500

# Chromium asks these for updates and the time whatever the page; no flag of Debian's Chromium keeps it from that.
CHROMIUMS_OWN = {"update.googleapis.com", "clients2.google.com", "accounts.google.com", "optimizationguide-pa.googleapis.com"}

# Appended to a copy of the page: writes places, colours, and what the script makes of two events into the document.
PROBE = """<script>
(function () {
  const out = { charts: {}, colours: [], axes: {} };
  const style = getComputedStyle(document.documentElement);
  for (let i = 0; i < 6; ++i) out.colours.push(style.getPropertyValue("--c" + i).trim());
  out.background = style.getPropertyValue("--back").trim();
  const measure = (figure) => {
    const box = figure.querySelector(".base").getBoundingClientRect(), grid = figure.querySelector(".plot svg").getBoundingClientRect();
    const paths = Array.from(figure.querySelectorAll(".curves path.curve"));
    return { left: box.left, right: box.right, top: grid.top, bottom: box.bottom,
      paths: paths.map((p) => [p.getAttribute("class"), p.getAttribute("d").split("L").length, p.getTotalLength()]) };
  };
  const charts = Array.from(document.querySelectorAll("figure.chart"));
  for (const figure of charts) out.charts[figure.id] = measure(figure);
  const buttons = Array.from(document.querySelectorAll("#axis button"));
  for (const button of buttons.concat(buttons.slice(0, 1))) {
    button.click();
    const figure = charts[0];
    out.axes[button.textContent] = { disabled: button.disabled, pressed: buttons.filter((b) => b.ariaPressed === "true").map((b) => b.textContent), labels: figure.querySelector(".steps").textContent, paths: measure(figure).paths };
  }
  const svg = charts[0].querySelector(".plot svg"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 50 }));
  out.read = charts[0].querySelector(".read").textContent;
  const figures = document.getElementById("figures"), table = figures.querySelector(".scroll");
  figures.style.width = "1152px";  // a window of 1200 without the page's margins
  out.table = { width: table.clientWidth, needs: table.scrollWidth };
  figures.style.width = "";
  out.resources = Array.from(document.querySelectorAll("[src], [href], [srcset], link, iframe")).map((node) => node.outerHTML.slice(0, 200));
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(out);
  document.body.appendChild(pre);
})();
</script></body>"""


class Proxy(socketserver.ThreadingTCPServer):
    """Stands for the network: notes the first line of every request that reaches it."""

    daemon_threads = True

    def __init__(self):
        self.requests = []
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                line = self.rfile.readline(2000).decode(errors="replace").strip()
                host = re.search(r"^\S+ (?:\w+://)?([^/:\s]+)", line)
                if not host or host[1] not in CHROMIUMS_OWN:
                    proxy.requests.append(line)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return name
    print("skipped: there is no Chromium here; scripts/setup chromium fonts-dejavu-core")
    sys.exit(77)


def dump_dom(page, proxy, dark, folder):
    command = [chromium(), "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--dump-dom",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--proxy-server=http://127.0.0.1:{proxy.server_address[1]}", "--proxy-bypass-list=<-loopback>",
               f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}",
               f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    if os.getuid() == 0:
        command.append("--no-sandbox")
    done = subprocess.run([*command, f"file://{page}"], capture_output=True, timeout=120)
    return done.stdout.decode(errors="replace")


def read_png(path):
    """Rows of RGB bytes of an 8-bit RGB or RGBA PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG"
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert depth == 8 and colour in (2, 6) and not interlaced, "a PNG of another kind"
        elif kind == b"IDAT":
            packed += body
        at += length + 12
    channels = 3 if colour == 2 else 4
    size, raw = width * channels, zlib.decompress(packed)
    before, rows = bytes(size), []
    for y in range(height):
        filter_type, row = raw[y * (size + 1)], bytearray(raw[y * (size + 1) + 1:(y + 1) * (size + 1)])
        for i in range(size if filter_type else 0):
            left = row[i - channels] if i >= channels else 0
            up, corner = before[i], before[i - channels] if i >= channels else 0
            if filter_type == 1:
                guess = left
            elif filter_type == 2:
                guess = up
            elif filter_type == 3:
                guess = (left + up) // 2
            else:
                p = left + up - corner
                a, b, c = abs(p - left), abs(p - up), abs(p - corner)
                guess = left if a <= b and a <= c else up if b <= c else corner
            row[i] = (row[i] + guess) & 255
        before = bytes(row)
        rows.append(before if channels == 3 else b"".join(before[i:i + 3] for i in range(0, size, 4)))
    return rows


def rgb(colour):
    return tuple(int(colour[i:i + 2], 16) for i in (1, 3, 5))


def columns_with(rows, box, colour):
    """How many pixel columns of `box` hold a pixel of nearly `colour`."""
    found = set()
    for y in range(int(box["top"]), min(int(box["bottom"]) - 8, len(rows))):  # not the marks on the axis
        row = rows[y]
        for x in range(int(box["left"]), int(box["right"])):
            if x not in found and all(abs(row[3 * x + i] - colour[i]) <= 24 for i in range(3)):
                found.add(x)
    return len(found)


def check_document(probe, runs, points, faults):
    for chart in CHARTS:
        if chart not in probe["charts"]:
            faults.append(f"{chart} is not there")
            continue
        paths = probe["charts"][chart]["paths"]
        for run in range(runs):
            own = [path for path in paths if f"r{run}" in path[0].split()]
            strong = [path for path in own if "raw" not in path[0].split()]
            least = 5 if chart == "chart-val_loss" else points
            if not strong or max(path[1] for path in strong) < least:
                faults.append(f"{chart}: run {run} has no curve of {least} points: {own}")
            elif max(path[2] for path in strong) < 200:
                faults.append(f"{chart}: the curve of run {run} is shorter than 200 units")


def check_pixels(probe, rows, runs, faults):
    if rgb(probe["background"]) != tuple(rows[5][15:18]):
        faults.append(f"the background is {tuple(rows[5][15:18])} instead of {probe['background']}")
    for chart in CHARTS:
        box = probe["charts"].get(chart)
        for run in range(runs if box else 0):
            seen = columns_with(rows, box, rgb(probe["colours"][run]))
            # Curves may lie over each other; a lonely one is seen nearly everywhere.
            if seen < (box["right"] - box["left"]) * (0.7 if runs == 1 else 0.2):
                faults.append(f"{chart}: the colour of run {run} is in {seen} columns of pixels only")


def check_script(probe, faults):
    if list(probe["axes"]) != ["step", "tokens", "time"]:
        faults.append(f"the axis has the buttons {list(probe['axes'])}")
        return
    labels = {name: axis["labels"] for name, axis in probe["axes"].items()}
    if len(set(labels.values())) != 3 or any(axis["disabled"] for axis in probe["axes"].values()):
        faults.append(f"the buttons of the axis do not work: {labels}")
    if any(axis["pressed"] != [name] for name, axis in probe["axes"].items()):
        faults.append("the axis that is shown is not the button that is pressed")
    counts = [[path[1] for path in axis["paths"]] for axis in probe["axes"].values()]
    if counts[0] != counts[1] or counts[0] != counts[2]:
        faults.append("curves over tokens or time have other numbers of points")
    if not re.search(r"step \d.*loss \d.*smoothed \d", probe["read"]):
        faults.append(f"the read-out says '{probe['read']}'")


def faults_of(page, runs, dark, points, picture, folder):
    """What is wrong with the page, and the requests that went out."""
    faults, proxy = [], Proxy()
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    dom = dump_dom(probed, proxy, dark, folder)
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.S)
    if not found:
        return [f"the script of the page failed: {dom[-300:]}"], proxy.requests
    probe = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    here = Path(__file__).resolve().parent
    subprocess.run([here / "screenshot", page, picture, str(WIDTH), str(HEIGHT), "dark" if dark else "light"], check=True)
    rows = read_png(picture)
    check_document(probe, runs, points, faults)
    check_pixels(probe, rows, runs, faults)
    check_script(probe, faults)
    if probe["table"]["needs"] > probe["table"]["width"]:
        faults.append(f"the table of figures is cut: {probe['table']}")
    faults += [f"a request went out: {request}" for request in proxy.requests]
    faults += [f"the page names {resource}" for resource in probe["resources"]]
    return faults, proxy.requests


def check_the_checks(page, args, folder):
    """A page without curves and a page that loads a picture must be caught."""
    faults = []
    spoiled = folder / "spoiled.html"
    # Curves in the background's colour, and a picture from elsewhere.
    text = page.read_text().replace("stroke: var(--c)", "stroke: var(--back)")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)
    spoiled.write_text(text.replace("<main>", '<main><img src="http://elsewhere.invalid/x.png">', 1))
    found, requests = faults_of(spoiled, args.runs, args.dark, args.points, folder / "spoiled.png", folder)
    for chart in CHARTS:
        if not any(f.startswith(chart) and "columns" in f for f in found):
            faults.append(f"invisible curves of {chart} were not noticed")
    if not any("elsewhere.invalid" in request for request in requests):
        faults.append("a request to elsewhere.invalid was not noticed")
    if not any("names" in fault and "elsewhere.invalid" in fault for fault in found):
        faults.append("a picture from elsewhere.invalid was not noticed in the document")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--points", type=int, default=100, help="least number of points of a curve")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--spoil", action="store_true", help="check too that faults are noticed")
    parser.add_argument("--keep", type=Path, help="where to leave the picture")
    args = parser.parse_args()
    chromium()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture = args.keep or folder / "page.png"
        faults, _ = faults_of(args.page.resolve(), args.runs, args.dark, args.points, picture, folder)
        if args.spoil:
            faults += check_the_checks(args.page.resolve(), args, folder)
    for fault in faults:
        print("FAILED:", fault)
    print(f"{args.page}: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
