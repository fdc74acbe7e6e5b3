// Read-out under the pointer, and curves over step, tokens or time. Without it the page shows all curves over steps.
(function () {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);

  const sums = (differences) => { let sum = 0; return differences.map((d) => (sum += d)); };
  for (const run of data.runs) {
    for (const key of ["step", "tokens"]) run[key] = sums(run[key]);
    run.seconds = run.hundredths && sums(run.hundredths).map((time) => time / 100);
  }
  for (const chart of data.charts) for (const curve of chart.curves) curve.steps = sums(curve.x);

  // First index of an ascending list whose value is not below `value`.
  function lowerBound(list, value) {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] < value) low = middle + 1; else high = middle;
    }
    return low;
  }

  // Where `run` stood at `step`, between the positions that the log names.
  function along(run, key, step) {
    const from = run.step, to = run[key];
    const i = lowerBound(from, step);
    if (i >= from.length) return to[to.length - 1];
    const before = i === 0 ? [0, 0] : [from[i - 1], to[i - 1]];
    return from[i] === before[0] ? to[i] : before[1] + (to[i] - before[1]) * (step - before[0]) / (from[i] - before[0]);
  }

  function short(value) {
    const size = Math.abs(value);
    const plain = (v, digits) => String(Number(v.toPrecision(digits)));
    if (size !== 0 && size < 9.9995e-5) return Number(value.toPrecision(3)).toExponential();
    if (size < 9999.5) return plain(value, 4);
    for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= unit * 0.9995) return plain(value / unit, 3) + name;
    }
    return plain(value, 3);
  }
  function clock(seconds) {
    if (seconds < 9.95) return Number(seconds.toPrecision(2)) + "s";
    const s = Math.round(seconds), pad = (n) => String(n).padStart(2, "0");
    if (s >= 3600) return Math.floor(s / 3600) + "h" + pad(Math.floor(s / 60) % 60) + "m";
    return s >= 60 ? Math.floor(s / 60) + "m" + pad(s % 60) + "s" : s + "s";
  }
  // "5m" and "2h" where they are whole.
  const clockTick = (seconds) => clock(seconds).replace(/^(\d+[hm])00[ms]$/, "$1");
  const AXES = {
    step: { name: "step", read: (v) => "step " + Math.round(v).toLocaleString("en"), label: short },
    tokens: { name: "tokens", read: (v) => short(v) + " tokens", label: short },
    seconds: { name: "time", read: clock, label: clockTick },
  };
  const NICE_SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  function tickStep(span, count, axis) {
    const raw = span / count;
    if (axis === "seconds" && raw <= 86400) return NICE_SECONDS.find((s) => s >= raw);
    const power = Math.pow(10, Math.floor(Math.log10(raw)));
    return power * [1, 2, 5, 10].find((n) => n * power >= raw * 0.999999);
  }

  let axis = "step";
  let range = data.steps;
  const restarts = Array.from(document.querySelectorAll(".curves .restart"));

  function setAxis(name) {
    axis = name;
    for (const run of data.runs) run.at = (step) => (name === "step" ? step : along(run, name, step));
    if (name === "step") range = data.steps;
    else range = [0, Math.max(...data.runs.map((run) => run[name][run[name].length - 1]), name === "seconds" ? 0.1 : 1)];
    for (const chart of data.charts) {
      for (const curve of chart.curves) curve.at = curve.steps.map(data.runs[curve.run].at);
    }
  }

  const xOf = (chart, value) => chart.left + (value - range[0]) / (range[1] - range[0]) * chart.plotWidth;
  function yOf(chart, value) {
    const [low, high] = chart.range;
    const part = chart.log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    return chart.top + (1 - part) * chart.plotHeight;
  }

  function element(name, attributes, parent, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }

  function drawSteps(chart) {
    const group = chart.svg.querySelector(".steps");
    group.textContent = "";
    const base = chart.top + chart.plotHeight;
    const step = tickStep(range[1] - range[0], Math.floor(chart.plotWidth / (axis === "seconds" ? 90 : 65)), axis);
    for (let i = Math.ceil(range[0] / step - 1e-9); i * step <= range[1] * (1 + 1e-9); ++i) {
      const x = xOf(chart, i * step);
      element("path", { d: `M${x},${base}v5` }, group);
      element("text", { x, y: base + 18, "text-anchor": "middle" }, group, AXES[axis].label(i * step));
    }
    element("text", { class: "name", x: chart.left + chart.plotWidth, y: chart.height - 4, "text-anchor": "end" }, group, AXES[axis].name);
  }

  function redraw() {
    for (const chart of data.charts) {
      drawSteps(chart);
      for (const curve of chart.curves) {
        if (!curve.path) continue;
        const points = curve.at.map((x, i) => xOf(chart, x).toFixed(1) + "," + yOf(chart, curve.y[i]).toFixed(1));
        curve.path.setAttribute("d", "M" + points.join("L") + (points.length === 1 ? "h0" : ""));
        curve.marks.forEach((mark, i) => mark.setAttribute(mark.tagName === "circle" ? "cx" : "x", xOf(chart, curve.at[Math.min(i, curve.at.length - 1)])));
      }
    }
    for (const mark of restarts) {
      const chart = data.charts.find((c) => c.svg === mark.ownerSVGElement);
      const x = xOf(chart, data.runs[mark.dataset.run].at(Number(mark.dataset.step)));
      mark.setAttribute("transform", `translate(${x},${chart.top + chart.plotHeight})`);
    }
  }

  // The parts of the picture that belong to each curve of the data: by style, then in the same order.
  function findParts(chart) {
    chart.figure = document.getElementById(chart.id);
    chart.svg = chart.figure.querySelector(".plot svg");
    const [width, height, left, right, top, bottom] = chart.frame;
    Object.assign(chart, { width, height, left, top, plotWidth: width - left - right, plotHeight: height - top - bottom });
    for (const style of ["raw", "line", "dots"]) {
      const paths = Array.from(chart.svg.querySelectorAll(".curves path." + style));
      chart.curves.filter((curve) => curve.style === style && curve.y.length).forEach((curve, i) => {
        curve.path = paths[i];
        const group = curve.path.nextElementSibling;
        curve.marks = style === "dots" && group && group.tagName === "g" ? Array.from(group.children) : [];
      });
    }
  }

  function nearest(curve, value) {
    const i = lowerBound(curve.at, value);
    if (i === 0) return 0;
    return i >= curve.at.length || value - curve.at[i - 1] < curve.at[i] - value ? i - 1 : i;
  }

  function rows(chart, value) {
    const lines = [];
    data.runs.forEach((run, number) => {
      const parts = [];
      for (const curve of chart.curves) {
        if (curve.run !== number || !curve.y.length) continue;
        const i = nearest(curve, value);
        const far = Math.abs(curve.at[i] - value) > (range[1] - range[0]) * 0.03;
        if (!far) parts.push([curve.label, Number(curve.y[i].toPrecision(4))]);
      }
      if (parts.length) lines.push({ number, name: run.name, parts });
    });
    return lines;
  }

  function fillRead(box, chart, value) {
    box.textContent = "";
    const add = (parent, tag, text, name) => {
      const node = document.createElement(tag);
      node.textContent = text;
      if (name) node.className = name;
      return parent.appendChild(node);
    };
    add(box, "b", AXES[axis].read(value));
    for (const line of rows(chart, value)) {
      const row = add(box, "div", "");
      if (data.runs.length > 1) {
        row.appendChild(document.querySelectorAll(".figures .sign")[line.number].cloneNode(true));
        add(row, "span", line.name + "  ");
      }
      for (const [label, number] of line.parts) {
        add(row, "i", label + " ");
        add(row, "span", number + "   ");
      }
    }
  }

  function addReadout(chart) {
    const cross = element("path", { class: "cross", visibility: "hidden" }, chart.svg);
    const box = document.createElement("div");
    box.className = "read";
    box.hidden = true;
    chart.figure.appendChild(box);
    const hide = () => { box.hidden = true; cross.setAttribute("visibility", "hidden"); };
    chart.svg.addEventListener("pointerleave", hide);
    chart.svg.addEventListener("pointermove", (event) => {
      const place = chart.svg.getBoundingClientRect();
      const x = (event.clientX - place.left) / place.width * chart.width;
      const value = range[0] + (x - chart.left) / chart.plotWidth * (range[1] - range[0]);
      if (value < range[0] || value > range[1]) return hide();
      cross.setAttribute("d", `M${x},${chart.top}v${chart.plotHeight}`);
      cross.setAttribute("visibility", "visible");
      fillRead(box, chart, value);
      box.hidden = false;
      const figure = chart.figure.getBoundingClientRect();
      const left = event.clientX - figure.left;
      box.style.left = Math.max(0, left + 14 + box.offsetWidth > figure.width ? left - 14 - box.offsetWidth : left + 14) + "px";
      box.style.top = place.top - figure.top + 14 + "px";
    });
  }

  function addButtons() {
    const holder = document.getElementById("axis");
    holder.setAttribute("role", "group");
    holder.setAttribute("aria-label", "horizontal axis");
    for (const name in AXES) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = AXES[name].name;
      button.setAttribute("aria-pressed", name === axis);
      button.disabled = !data.runs.every((run) => run[name] && run[name][run[name].length - 1] > 0);
      button.addEventListener("click", () => {
        setAxis(name);
        redraw();
        for (const other of holder.children) other.setAttribute("aria-pressed", other === button);
      });
      holder.appendChild(button);
    }
  }

  data.charts.forEach(findParts);
  setAxis("step");
  data.charts.forEach(addReadout);
  addButtons();
})();
