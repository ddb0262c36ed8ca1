// Everything works without this file, except for the live page. It adds: the state while the slider moves, traces that
// grow, zoom, copy, and the live page.
"use strict";

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function load(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.text();
}

function followSlider(form) {
  const slider = form.elements.version;
  const state = document.getElementById("state");
  let asked = 0;
  slider.addEventListener("input", async () => {
    const mine = ++asked;
    const query = new URLSearchParams(new FormData(form));
    await wait(50);
    if (mine !== asked) return;
    try {
      const text = await load(`${form.action}?${query}&part=state`);
      if (mine !== asked) return;
      state.innerHTML = text;
      history.replaceState(null, "", `?${query}`);
      for (const link of document.querySelectorAll(".commits li")) link.removeAttribute("aria-current");
      const shown = [...document.querySelectorAll(".commits .version")].find((link) => link.textContent === `@${slider.value}`);
      if (shown) shown.parentElement.setAttribute("aria-current", "true");
    } catch (error) {
      state.textContent = `The state cannot be loaded: ${error.message}`;
    }
  });
}

async function followTrace(place) {
  const problem = document.getElementById("problem");
  let shown = "";
  for (let pause = 2000; ; pause = Math.min(pause * 1.5, 30000)) {
    await wait(pause);
    if (document.hidden) continue;
    try {
      const text = await load(place.dataset.follow);
      problem.textContent = "";
      if (text !== shown) {
        const picture = place.querySelector(".picture");
        const left = picture.scrollLeft;
        const open = [...place.querySelectorAll("details")].map((each) => each.open);
        place.innerHTML = text;
        if (shown) pause = 2000;
        shown = text;
        place.querySelectorAll("details").forEach((each, number) => { each.open = open[number] || false; });
        showZoom();
        place.querySelector(".picture").scrollLeft = left;
      }
      if (!text.includes("More may follow.")) return;
    } catch (error) {
      problem.textContent = `Not up to date: ${error.message}`;
    }
  }
}

let zoom = 1;

function showZoom() {
  for (const bar of document.querySelectorAll(".zoom")) bar.hidden = false;
  const svg = document.querySelector(".picture svg");
  if (!svg) return;
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  svg.setAttribute("width", width * zoom);
  svg.setAttribute("height", height * zoom);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.zoom) {
    zoom = Math.min(4, Math.max(0.25, zoom * Number(button.dataset.zoom)));
    showZoom();
  } else if (button.dataset.copy) {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  }
});

function followStores(rows) {
  const status = document.getElementById("live-status");
  const events = new EventSource(rows.dataset.events);
  const cell = (row, content) => {
    const made = document.createElement("td");
    made.append(content);
    row.append(made);
  };
  events.addEventListener("ready", () => { status.textContent = "Waiting for what is stored from now on."; });
  events.addEventListener("problem", (event) => { status.textContent = JSON.parse(event.data); });
  events.addEventListener("error", () => {
    const ended = events.readyState === EventSource.CLOSED;
    status.textContent = ended ? "The stores are not followed any more; load the page again." : "The connection is lost; trying again.";
  });
  events.addEventListener("commit", (event) => {
    const stored = JSON.parse(event.data);
    const row = document.createElement("tr");
    const link = document.createElement("a");
    link.href = `${rows.dataset.stream}?${new URLSearchParams({ name: stored.stream, store: stored.store, version: stored.version })}`;
    link.textContent = `${stored.stream}@${stored.version}`;
    cell(row, stored.time);
    cell(row, link);
    cell(row, stored.tag);
    cell(row, stored.fields);
    rows.prepend(row);
    while (rows.children.length > 500) rows.lastElementChild.remove();
    status.textContent = `Live: the last ${rows.children.length} events.`;
  });
}

for (const form of document.querySelectorAll("[data-state]")) followSlider(form);
for (const place of document.querySelectorAll("[data-follow]")) followTrace(place);
for (const rows of document.querySelectorAll("[data-events]")) followStores(rows);
for (const button of document.querySelectorAll("[data-copy]")) if (!navigator.clipboard) button.hidden = true;
if (document.querySelector("[data-reload]")) setTimeout(() => location.reload(), 1000);
showZoom();
