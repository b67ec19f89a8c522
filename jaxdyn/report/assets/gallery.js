"use strict";
// Show the cards that have all the words of the search, the subject, the theory and the verdict.
(() => {
  const form = document.getElementById("filter"), cards = [...document.querySelectorAll(".card")];
  const plain = text => text.toLowerCase().normalize("NFD").replace(/[\u0300-\u036f]/g, "");
  const texts = cards.map(card => plain(card.textContent + " " + card.dataset.words + " " + card.dataset.theories));
  const apply = () => {
    const words = plain(form.search.value).split(/\s+/).filter(Boolean);
    let number = 0;
    cards.forEach((card, i) => {
      const fits = words.every(word => texts[i].includes(word))
        && (!form.subject.value || card.dataset.subject === form.subject.value)
        && (!form.theory.value || card.dataset.theories.split(" ").includes(form.theory.value))
        && (!form.verdict.value || card.dataset.verdicts.split(" ").includes(form.verdict.value));
      card.hidden = !fits;
      number += fits;
    });
    document.getElementById("found").textContent = `${number} of ${cards.length} papers`;
    document.getElementById("none").hidden = number > 0;
  };
  form.oninput = apply;
  form.onsubmit = event => event.preventDefault();
  form.onreset = event => {
    event.preventDefault();
    for (const field of [form.search, form.subject, form.theory, form.verdict]) field.value = "";
    apply();
  };
  // Back from a paper the browser has filled the fields again.
  addEventListener("pageshow", apply);
  addEventListener("keydown", event => {
    if (event.key === "/" && document.activeElement !== form.search) { event.preventDefault(); form.search.focus(); }
    if (event.key === "Escape" && document.activeElement === form.search) { form.search.value = ""; apply(); }
  });
})();
