"use strict";
// Light or dark as the system says, or as the reader chose before.
(() => {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("jaxdyn-theme"); } catch { /* a browser may refuse storage to files */ }
  const apply = () => { root.dataset.theme = chosen ?? (system.matches ? "dark" : "light"); };
  apply();
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = root.dataset.theme === "dark" ? "Light" : "Dark"; };
    button.onclick = () => {
      chosen = root.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem("jaxdyn-theme", chosen); } catch { /* then it lasts for this page */ }
      apply();
      label();
    };
    system.onchange = () => { apply(); label(); };
    label();
  });
})();
