"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // Axis of the array that a plane cuts, those along its rows and columns, and where its edges point. D runs from foot
  // to head, so planes with D along their rows are drawn from its end.
  const PLANES = {
    axial: { axis: 0, down: 1, across: 2, flip: false, edges: { top: "A", bottom: "P", left: "R", right: "L" } },
    coronal: { axis: 1, down: 0, across: 2, flip: true, edges: { top: "H", bottom: "F", left: "R", right: "L" } },
    sagittal: { axis: 2, down: 0, across: 1, flip: true, edges: { top: "H", bottom: "F", left: "A", right: "P" } },
  };
  const UNSEEN = [40, 200, 220];
  const state = {
    number: 0, layer: 0, at: [0, 0, 0], volume: null, unseen: null, drag: "point",
    ct: { level: data.windows[0].level, width: data.windows[0].width }, amount: { top: data.amountTop },
  };
  const now = () => data.cases[state.number];
  const layer = () => now().layers[state.layer];
  const isCT = () => layer().kind === "ct";

  // ---- volumes: base64 of gzip of int16, little endian, (D, H, W); read when first shown

  async function decode(text) {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  const kept = new Map();
  function volume(number, index) {
    const name = number + " " + index;
    if (!kept.has(name)) kept.set(name, read(number, index));
    return kept.get(name);
  }

  async function read(number, index) {
    const entry = data.cases[number].layers[index];
    if (entry.data) return new Int16Array(await decode(entry.data));
    const [a, b] = await Promise.all([volume(number, entry.of), volume(number, entry.against)]);
    return a.map((value, i) => Math.abs(value - b[i]));
  }

  async function mask(number) {
    const text = data.cases[number].unseen;
    return text ? new Uint8Array(await decode(text)) : null;
  }

  // ---- drawing

  const colours = new Uint8Array(3 * 256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (data.colours.length - 1);
    const stop = Math.min(Math.floor(place), data.colours.length - 2);
    for (let c = 0; c < 3; c++) {
      const [a, b] = [data.colours[stop][c], data.colours[stop + 1][c]];
      colours[3 * i + c] = Math.round(a + (place - stop) * (b - a));
    }
  }

  function limits() {
    return isCT() ? [state.ct.level - state.ct.width / 2, state.ct.level + state.ct.width / 2] : [0, state.amount.top];
  }

  function slice(plane) {
    const shape = now().shape;
    const strides = [shape[1] * shape[2], shape[2], 1];
    const [rows, columns] = [shape[plane.down], shape[plane.across]];
    const [low, high] = limits();
    const image = new ImageData(columns, rows);
    const marked = state.unseen && element("unseen").checked;
    for (let r = 0, p = 0; r < rows; r++) {
      const along = plane.flip ? rows - 1 - r : r;
      const start = state.at[plane.axis] * strides[plane.axis] + along * strides[plane.down];
      for (let c = 0; c < columns; c++, p += 4) {
        const i = start + c * strides[plane.across];
        const grey = clamp(Math.round(((state.volume[i] - low) / (high - low)) * 255), 0, 255);
        for (let k = 0; k < 3; k++) {
          let value = isCT() ? grey : colours[3 * grey + k];
          if (marked && state.unseen[i]) value = 0.65 * value + 0.35 * UNSEEN[k];
          image.data[p + k] = value;
        }
        image.data[p + 3] = 255;
      }
    }
    return image;
  }

  const scratch = document.createElement("canvas");
  function draw(name) {
    const plane = PLANES[name];
    const { shape, spacing } = now();
    const [tall, wide] = [shape[plane.down] * spacing[plane.down], shape[plane.across] * spacing[plane.across]];
    const canvas = views[name].canvas;
    canvas.style.aspectRatio = wide + " / " + tall;
    const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    canvas.width = width;
    canvas.height = Math.max(1, Math.round((width * tall) / wide));
    const image = slice(plane);
    scratch.width = image.width;
    scratch.height = image.height;
    scratch.getContext("2d").putImageData(image, 0, 0);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(scratch, 0, 0, canvas.width, canvas.height);
    if (element("cross").checked) cross(pen, plane, canvas);
    const slider = views[name].slider;
    const count = shape[plane.axis];
    const index = state.at[plane.axis] + 1;
    slider.max = count;
    slider.value = index;
    views[name].place.textContent = index + "/" + count;
    slider.setAttribute("aria-valuetext", index + " of " + count);
    canvas.setAttribute("aria-label", `${name} slice ${index} of ${count}, ${layer().name}; arrow keys change the slice`);
  }

  function cross(pen, plane, canvas) {
    const shape = now().shape;
    const row = plane.flip ? shape[plane.down] - 1 - state.at[plane.down] : state.at[plane.down];
    const x = ((state.at[plane.across] + 0.5) / shape[plane.across]) * canvas.width;
    const y = ((row + 0.5) / shape[plane.down]) * canvas.height;
    const gap = 8 * devicePixelRatio;
    pen.strokeStyle = "rgba(255, 211, 77, 0.6)";
    pen.lineWidth = devicePixelRatio;
    pen.beginPath();
    for (const [a, b] of [[[0, y], [x - gap, y]], [[x + gap, y], [canvas.width, y]], [[x, 0], [x, y - gap]], [[x, y + gap], [x, canvas.height]]]) {
      pen.moveTo(...a);
      pen.lineTo(...b);
    }
    pen.stroke();
  }

  let waiting = false;
  function redraw() {
    if (waiting || !state.volume) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const name of Object.keys(PLANES)) draw(name);
      tell();
    });
  }

  // ---- what is told in words and controls

  function tell() {
    const { shape, affine } = now();
    const [d, h, w] = state.at;
    const value = state.volume[(d * shape[1] + h) * shape[2] + w];
    const mm = affine.map((row) => row[0] * d + row[1] * h + row[2] * w + row[3]);
    const side = (x, plus, minus) => Math.abs(x).toFixed(0) + " mm " + (x < 0 ? minus : plus);
    const where = [side(mm[0], "R", "L"), side(mm[1], "A", "P"), side(mm[2], "H", "F")].join(", ");
    const dark = state.unseen && state.unseen[(d * shape[1] + h) * shape[2] + w] ? ", crossed by no ray" : "";
    element("readout").textContent = `${layer().name}: ${value} HU at ${where}${dark}`;
    const [low, high] = limits();
    element("low").textContent = Math.round(low) + " HU";
    element("high").textContent = Math.round(high) + " HU";
    element("level").disabled = !isCT();
    element("level").value = state.ct.level;
    element("width").value = isCT() ? state.ct.width : state.amount.top;
    for (const button of element("windows").querySelectorAll("button")) {
      const preset = data.windows[button.value];
      const same = isCT() && preset.level === state.ct.level && preset.width === state.ct.width;
      button.setAttribute("aria-pressed", same);
      button.disabled = !isCT();
    }
    const pen = element("ramp").getContext("2d");
    const ramp = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) {
      for (let k = 0; k < 3; k++) ramp.data[4 * i + k] = isCT() ? i : colours[3 * i + k];
      ramp.data[4 * i + 3] = 255;
    }
    pen.putImageData(ramp, 0, 0);
  }

  function say(text) {
    element("status").textContent = text;
  }

  let asked = 0;
  async function show() {
    const request = ++asked;
    try {
      const [values, unseen] = await Promise.all([volume(state.number, state.layer), mask(state.number)]);
      if (request !== asked) return;
      state.volume = values;
      state.unseen = unseen;
      say("");
      redraw();
    } catch (error) {
      say("The volume cannot be shown: " + error.message + ". A browser of 2023 or later is needed.");
    }
  }

  // ---- changes

  function openCase(number) {
    const before = data.cases[state.number].layers[state.layer]?.name;
    for (const [name] of kept) if (!name.startsWith(number + " ")) kept.delete(name);
    state.number = number;
    const layers = now().layers;
    element("layer").replaceChildren(...layers.map((entry, i) => new Option(entry.name, i)));
    // The layer that was looked at stays, if the new case has one of that name.
    state.layer = Math.max(0, layers.findIndex((entry) => entry.name === before));
    element("layer").value = state.layer;
    state.volume = null;
    state.at = now().shape.map((n) => Math.floor(n / 2));
    element("unseen-choice").hidden = !now().unseen;
    element("unseen-share").textContent = now().unseen ? `(${now().unseenPercent} %)` : "";
    for (const part of document.querySelectorAll("[data-case]")) part.hidden = Number(part.dataset.case) !== number;
    show();
  }

  function setLayer(index) {
    const count = now().layers.length;
    state.layer = (index + count) % count;
    element("layer").value = state.layer;
    show();
  }

  function setWindow(number) {
    const preset = data.windows[number];
    if (!preset || !isCT()) return;
    state.ct = { level: preset.level, width: preset.width };
    redraw();
  }

  function widen(across, up) {
    if (isCT()) {
      state.ct = { level: clamp(Math.round(state.ct.level + up), -1024, 1476), width: clamp(Math.round(state.ct.width + across), 20, 2500) };
    } else {
      state.amount.top = clamp(Math.round(state.amount.top + across), 20, 2500);
    }
    redraw();
  }

  function go(name, index) {
    const axis = PLANES[name].axis;
    state.at[axis] = clamp(index, 0, now().shape[axis] - 1);
    redraw();
  }
  const step = (name, by) => go(name, state.at[PLANES[name].axis] + by);

  function point(name, event) {
    const plane = PLANES[name];
    const box = views[name].canvas.getBoundingClientRect();
    const at = (share, axis) => clamp(Math.floor(share * now().shape[axis]), 0, now().shape[axis] - 1);
    const row = at((event.clientY - box.top) / box.height, plane.down);
    state.at[plane.across] = at((event.clientX - box.left) / box.width, plane.across);
    state.at[plane.down] = plane.flip ? now().shape[plane.down] - 1 - row : row;
    redraw();
  }

  // ---- the three planes

  function make(tag, attributes, ...children) {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...children);
    return node;
  }

  function listen(name, canvas) {
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      held = { window: event.button === 2 || event.shiftKey || state.drag === "window", x: event.clientX, y: event.clientY };
      // A finger may be about to scroll: it points when it is lifted or moves sideways.
      if (!held.window && event.pointerType !== "touch") point(name, event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      if (held.window) widen(4 * (event.clientX - held.x), 4 * (held.y - event.clientY));
      else point(name, event);
      Object.assign(held, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointerup", (event) => {
      if (held && !held.window) point(name, event);
      held = null;
    });
    canvas.addEventListener("pointercancel", () => (held = null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      step(name, event.deltaY < 0 ? 1 : -1);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
      const end = { Home: 0, End: Infinity }[event.key];
      if (by === undefined && end === undefined) return;
      event.preventDefault();
      if (by === undefined) go(name, end);
      else step(name, event.shiftKey ? 10 * Math.sign(by) : by);
    });
  }

  const views = {};
  for (const [name, plane] of Object.entries(PLANES)) {
    const canvas = make("canvas", { tabIndex: 0, role: "img" });
    const marks = Object.entries(plane.edges).map(([edge, letter]) => make("span", { className: "mark " + edge, textContent: letter, ariaHidden: "true" }));
    const slider = make("input", { type: "range", min: 1, max: 1, id: "slice-" + name });
    const place = make("output", {});
    const title = name[0].toUpperCase() + name.slice(1);
    slider.addEventListener("input", () => go(name, Number(slider.value) - 1));
    listen(name, canvas);
    views[name] = { canvas, slider, place };
    element("planes").append(make("figure", { className: "plane " + name }, make("div", { className: "stage" }, canvas, ...marks), make("div", { className: "slider" }, make("label", { htmlFor: slider.id, textContent: title }), slider, place)));
    new ResizeObserver(redraw).observe(canvas);
  }

  // ---- controls

  data.windows.forEach((preset, i) => {
    const button = make("button", { type: "button", value: i, textContent: preset.name, title: `level ${preset.level}, width ${preset.width} HU; key ${i + 1}` });
    button.addEventListener("click", () => setWindow(i));
    element("windows").append(button);
  });
  element("case").replaceChildren(...data.cases.map((entry, i) => new Option(entry.title, i)));
  element("case-choice").hidden = data.cases.length < 2;
  element("case").addEventListener("change", (event) => openCase(Number(event.target.value)));
  element("layer").addEventListener("change", (event) => setLayer(Number(event.target.value)));
  element("level").addEventListener("input", (event) => widen(0, Number(event.target.value) - state.ct.level));
  element("width").addEventListener("input", (event) => widen(Number(event.target.value) - (isCT() ? state.ct.width : state.amount.top), 0));
  for (const id of ["cross", "unseen"]) element(id).addEventListener("change", redraw);
  element("drag").addEventListener("change", (event) => {
    state.drag = event.target.value;
    element("viewer").classList.toggle("window-drag", state.drag === "window");
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const key = event.key.toLowerCase();
    if (key >= "1" && key <= String(data.windows.length)) setWindow(Number(key) - 1);
    else if (key === "l") setLayer(state.layer + (event.shiftKey ? -1 : 1));
    else if (key === "n" && now().unseen) element("unseen").click();
    else if (key === "x") element("cross").click();
  });

  openCase(0);
})();
