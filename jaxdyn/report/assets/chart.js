"use strict";
// One chart in SVG: simulation as points with their standard errors, theory as lines.
// What is given has xlabel, ylabel, xlog, ylog, ticks (names of 1, 2, ...), xs, and curves of {name, colour, x, points, theory}:
// x says which of xs, points are [index, mean, error], theory is a number at every x.  `limits` hold the axes still.
function chart(box, given) {
  const drawn = ["svg", "g", "path", "line", "circle", "text"];
  const el = (name, attributes = {}, ...children) => {
    const space = drawn.includes(name) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const node = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const raised = [..."⁰¹²³⁴⁵⁶⁷⁸⁹"];
  const power = n => (n < 0 ? "⁻" : "") + [...String(Math.abs(n))].map(d => raised[d]).join("");
  const show = v => {
    if (v === null || v === undefined) return "";
    const size = Math.abs(v), exponent = Math.floor(Math.log10(size));
    if (size === 0 || (size >= 1e-3 && size < 1e5)) return String(Number(v.toPrecision(4))).replace("-", "−");
    return `${Number((v / 10 ** exponent).toPrecision(3))}·10${power(exponent)}`.replace("-", "−");
  };
  const colour = curve => (curve.colour < 0 ? "var(--text)" : `var(--c${curve.colour % 7})`);
  const hidden = new Set(), log = {x: given.xlog, y: given.ylog};
  let held = Boolean(given.limits), at = null, view = null;

  const tools = el("div", {class: "tools"}), legend = el("div", {class: "legend"});
  const plot = el("div", {class: "plot"}), tip = el("div", {class: "tip", hidden: ""});
  const spoken = el("p", {class: "unseen", "aria-live": "polite"});
  box.replaceChildren(tools, plot, legend, spoken);

  const toggle = (parent, text, pressed, act, swatch) => {
    const button = el("button", {type: "button", "aria-pressed": pressed}, text);
    if (swatch) button.prepend(el("i", {style: `--swatch: ${swatch}`}));
    button.onclick = () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      act(button.getAttribute("aria-pressed") === "true");
      draw();
    };
    parent.append(button);
  };
  const switched = name => on => (on ? hidden.delete(name) : hidden.add(name));

  function controls() {
    tools.replaceChildren();
    legend.replaceChildren(...(given.hue ? [el("span", {}, given.hue)] : []));
    if (!given.ticks?.length) toggle(tools, "log x", log.x, on => (log.x = on));
    toggle(tools, "log y", log.y, on => (log.y = on));
    if (given.limits) toggle(tools, "hold axes", held, on => (held = on));
    if (given.curves.some(c => c.points)) for (const kind of ["simulation", "theory"])
      toggle(tools, kind, true, switched(`:${kind}`));
    if (given.curves.length > 1) for (const c of given.curves) toggle(legend, c.name, true, switched(c.name), colour(c));
  }

  const part = (name, values = []) => (hidden.has(name) ? [] : values);
  const shown = () => given.curves.filter(c => !hidden.has(c.name)).map(c => (
    {...c, x: given.xs[c.x], points: part(":simulation", c.points), theory: part(":theory", c.theory)}));

  const ok = (v, logarithmic) => v !== null && v !== undefined && (!logarithmic || v > 0);
  const ends = values => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);

  function range(values, logarithmic) {
    const good = values.filter(v => ok(v, logarithmic));
    if (!good.length) return logarithmic ? [0.1, 10] : [0, 1];
    const [low, high] = ends(good), factor = (high / low) ** 0.04, pad = (high - low) * 0.04 || Math.abs(low) * 0.1 || 1;
    if (logarithmic) return low < high ? [low / factor, high * factor] : [low / 2, high * 2];
    return [low - pad, high + pad];
  }

  // Runs that blow up shall not press all else flat: points count as far as a few times the range of the theory.
  function heights(curves) {
    const theory = curves.flatMap(c => c.theory), points = curves.flatMap(c => c.points.map(p => p[1]));
    const good = theory.filter(v => ok(v, log.y));
    if (!good.length) return points;
    const [low, high] = ends(good), room = 2 * (high - low || Math.abs(high) || 1);
    const [least, most] = log.y ? [low / 1e3, high * 1e3] : [low - room, high + room];
    return [...theory, ...points.filter(v => v >= least && v <= most)];
  }

  const scale = ([low, high], [from, to], logarithmic) => {
    const f = logarithmic ? Math.log10 : v => v;
    return v => from + (f(v) - f(low)) / (f(high) - f(low)) * (to - from);
  };

  function marks([low, high], logarithmic, room) {
    const found = [];
    if (logarithmic && high / low > 3) {
      const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), every = Math.ceil((last - first) / room);
      for (let n = first; n <= last; n += every) for (const m of last - first > 3 ? [1] : [1, 2, 5])
        found.push([m * 10 ** n, m === 1 && (n < -2 || n > 3) ? `10${power(n)}` : show(m * 10 ** n)]);
      return found.filter(([v]) => v >= low && v <= high);
    }
    const rough = (high - low) / room, size = 10 ** Math.floor(Math.log10(rough));
    const step = size * [1, 2, 5, 10].find(m => m * size >= rough);
    for (let n = Math.ceil(low / step); n * step <= high; n++) found.push([n * step, show(Number((n * step).toPrecision(6)))]);
    return found;
  }

  function draw() {
    const curves = shown(), width = plot.clientWidth || 600, height = Math.round(Math.min(400, Math.max(260, width * 0.55)));
    const names = given.ticks ?? [], places = held ? given.limits.x : curves.flatMap(c => c.x);
    const X = names.length ? [0.5, names.length + 0.5] : range(places, log.x);
    const Y = range(held ? given.limits.y : heights(curves), log.y);
    const ymarks = marks(Y, log.y, height / 55);
    const left = 26 + 7 * Math.max(3, ...ymarks.map(m => m[1].length)), right = width - 10, top = 12, bottom = height - 46;
    const x = scale(X, [left, right], log.x), y = scale(Y, [bottom, top], log.y);
    const xmarks = names.length ? names.map((name, i) => [i + 1, name]) : marks(X, log.x, width / 90);
    const svg = el("svg", {viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "img",
      "aria-label": `${given.title ?? given.ylabel}: ${given.ylabel} over ${given.xlabel}. Arrow keys read the values.`});
    for (const [v, name] of ymarks) svg.append(
      el("line", {class: "grid", x1: left, x2: right, y1: y(v), y2: y(v)}),
      el("text", {x: left - 7, y: y(v) + 4, "text-anchor": "end"}, name));
    const crowded = Math.max(0, ...names.map(name => name.length)) * 7 > (right - left) / names.length;
    for (const [v, name] of xmarks) if (ok(v, log.x)) {
      const cut = crowded && name.length > 10 ? `${name.slice(0, 9)}…` : name;
      const turn = crowded ? `translate(${x(v)} ${bottom + 14}) rotate(-25)` : `translate(${x(v)} ${bottom + 18})`;
      svg.append(el("line", {class: "grid", x1: x(v), x2: x(v), y1: top, y2: bottom}),
        el("text", {transform: turn, "text-anchor": crowded ? "end" : "middle"}, cut));
    }
    svg.append(el("line", {class: "axis", x1: left, x2: right, y1: bottom, y2: bottom}),
      el("text", {class: "label", x: (left + right) / 2, y: height - 6, "text-anchor": "middle"}, crowded ? "" : given.xlabel),
      el("text", {class: "label", transform: `translate(13 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle"}, given.ylabel));
    const stage = el("svg", {x: left - 6, y: top - 6, width: right - left + 12, height: bottom - top + 12,
      viewBox: `${left - 6} ${top - 6} ${right - left + 12} ${bottom - top + 12}`});
    svg.append(stage);
    for (const c of curves) {
      let path = "", pen = "M";
      c.theory.forEach((v, i) => {
        if (!ok(v, log.y) || !ok(c.x[i], log.x)) { pen = "M"; return; }
        const [u, w] = [x(c.x[i]).toFixed(1), y(v).toFixed(1)];
        path += names.length ? `M${u - 9} ${w}h18` : `${pen}${u} ${w}`;
        pen = "L";
      });
      stage.append(el("path", {class: "theory", d: path, stroke: colour(c)}));
      for (const [i, v, e = 0] of c.points) if (ok(v, log.y) && ok(c.x[i], log.x)) {
        const low = log.y ? Math.max(v - e, Y[0]) : v - e;
        if (e) stage.append(el("line", {x1: x(c.x[i]), x2: x(c.x[i]), y1: y(low), y2: y(v + e), stroke: colour(c)}));
        stage.append(el("circle", {cx: x(c.x[i]), cy: y(v), r: 3.2, fill: colour(c)}));
      }
    }
    const hair = el("line", {class: "hair", y1: top, y2: bottom, visibility: "hidden"}), dots = el("g");
    svg.append(hair, dots);
    const focused = plot.contains(document.activeElement);
    plot.replaceChildren(svg, tip);
    if (focused) svg.focus({preventScroll: true});
    const stops = [...new Set(curves.flatMap(c => c.points.length ? c.points.map(p => c.x[p[0]]) : c.x))]
      .filter(v => ok(v, log.x)).sort((a, b) => a - b);
    view = {x, y, hair, dots, stops, curves, left, width};
    svg.onpointermove = svg.onpointerdown = event => {
      const off = v => Math.abs(x(v) - event.clientX + svg.getBoundingClientRect().left);
      read(stops.length ? stops.reduce((best, v, i) => off(v) < off(stops[best]) ? i : best, 0) : null);
    };
    svg.onpointerleave = svg.onblur = () => read(null);
    svg.onkeydown = event => {
      const last = stops.length - 1, here = at ?? -1;
      const to = {ArrowRight: Math.min(here + 1, last), ArrowLeft: Math.max(here - 1, 0), Home: 0, End: last, Escape: null}[event.key];
      if (to === undefined || last < 0) return;
      event.preventDefault();
      read(to, true);
    };
    read(at !== null && at < stops.length ? at : null);
  }

  // Show what the curves are at a stop, on the page and, for the keyboard, aloud.
  function read(stop, aloud = false) {
    at = stop;
    tip.hidden = stop === null;
    view.hair.setAttribute("visibility", stop === null ? "hidden" : "visible");
    view.dots.replaceChildren();
    if (stop === null) return;
    const value = view.stops[stop], place = view.x(value), rows = [];
    for (const c of view.curves) {
      // Curves may have places of their own: each is read at the one nearest to the stop.
      const all = c.points.length ? c.points.map(p => p[0]) : [...c.x.keys()];
      const i = all.reduce((best, j) => Math.abs(c.x[j] - value) < Math.abs(c.x[best] - value) ? j : best, all[0]);
      const near = view.x(c.x[i]), point = c.points.find(p => p[0] === i), theory = c.theory[i];
      if (!(Math.abs(near - place) < 12) || (!point && theory === undefined)) continue;
      const error = point?.[2] ? ` ± ${show(point[2])}` : "";
      rows.push([c, point ? show(point[1]) + error : "", show(theory)]);
      for (const v of [point?.[1], theory]) if (ok(v, log.y))
        view.dots.append(el("circle", {cx: near, cy: view.y(v), r: 5, fill: "none", stroke: colour(c)}));
    }
    const both = given.curves.some(c => c.points);
    const name = given.ticks?.[value - 1] ?? show(value);
    const table = el("table", {}, el("tr", {}, el("th", {}, `${given.xlabel} ${name}`),
      ...(both ? [el("th", {}, "simulation"), el("th", {}, "theory")] : [el("th")])));
    for (const [c, ...cells] of rows) table.append(el("tr", {}, el("th", {style: `color: ${colour(c)}`}, c.name),
      ...(both ? cells : cells.slice(1)).map(text => el("td", {}, text))));
    tip.replaceChildren(table);
    for (const end of ["x1", "x2"]) view.hair.setAttribute(end, place);
    const side = place > view.width / 2 ? place - 12 - tip.offsetWidth : place + 12;
    tip.style.left = `${Math.max(0, Math.min(side, view.width - tip.offsetWidth))}px`;
    if (aloud) spoken.textContent = `${given.xlabel} ${name}: ` + rows.map(([c, s, t]) =>
      [c.name, s && `simulation ${s}`, t && (both ? `theory ${t}` : t)].filter(Boolean).join(" ")).join("; ");
  }

  // Replace the curves; what the reader has switched stays where `fresh` is not asked for.
  function set(next, fresh = false) {
    given = next;
    if (fresh) { hidden.clear(); at = null; log.x = given.xlog; log.y = given.ylog; controls(); }
    draw();
  }
  controls();
  draw();
  new ResizeObserver(() => plot.clientWidth !== view.width && draw()).observe(plot);
  return {set};
}
