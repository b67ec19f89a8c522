"use strict";
// Sliders choose an entry of the table; the curves are those of this entry.
(() => {
  const data = JSON.parse(document.getElementById("table").textContent), box = document.getElementById("sliders");
  const place = data.sliders.map(s => s.start), sizes = data.sliders.map(s => s.texts.length);
  // An array may vary with some of the sliders only: the entry in it, counted over those.
  const entry = a => data.sliders.reduce((i, s, k) => a.over.includes(s.name) ? i * sizes[k] + place[k] : i, 0);
  const row = a => a.values.slice(entry(a) * data.points, (entry(a) + 1) * data.points);
  const extent = arrays => arrays.flatMap(a => a.extent);
  const now = () => ({
    ...data.axes, xs: [row(data.x)], limits: {x: extent([data.x]), y: extent(data.curves)},
    curves: data.curves.map((c, i) => ({name: c.name, colour: i, x: 0, theory: row(c)})),
  });
  const one = chart(document.getElementById("chart"), now());
  const inputs = data.sliders.map((s, k) => {
    const label = document.createElement("label"), input = document.createElement("input");
    const name = document.createElement("span"), output = document.createElement("output");
    name.textContent = s.label;
    Object.assign(input, {type: "range", name: s.name, min: 0, max: s.texts.length - 1, step: 1, value: s.start});
    const apply = () => {
      place[k] = Number(input.value);
      output.textContent = s.texts[place[k]];
      input.setAttribute("aria-valuetext", s.texts[place[k]]);
    };
    input.oninput = () => { apply(); one.set(now()); };
    label.append(name, input, output);
    box.append(label);
    apply();
    return {input, apply};
  });
  document.getElementById("reset").onclick = () => {
    inputs.forEach(({input, apply}, k) => { input.value = data.sliders[k].start; apply(); });
    one.set(now());
  };
})();
