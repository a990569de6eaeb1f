// SPDX-License-Identifier: Apache-2.0
"use strict";
const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
const main = document.querySelector("main");
let current = 0;

function choose(number, focus) {
  current = (number + tabs.length) % tabs.length;
  tabs.forEach((tab, at) => {
    tab.setAttribute("aria-selected", String(at === current));
    tab.tabIndex = at === current ? 0 : -1;
    panels[at].hidden = at !== current;
  });
  if (focus) tabs[current].focus();
  tabs[current].scrollIntoView({ block: "nearest", inline: "nearest" });
  main.scrollTop = 0;
  history.replaceState(null, "", "#" + panels[current].id.replace("panel-", ""));
}

function view(panel, name) {
  panel.querySelectorAll("[data-view]").forEach((part) => {
    const on = part.dataset.view === name;
    if (part.tagName === "BUTTON") part.setAttribute("aria-pressed", String(on));
    else part.hidden = !on;
  });
}

function toggle() {
  const pressed = panels[current].querySelector(".views [aria-pressed=true]");
  if (pressed) view(panels[current], pressed.dataset.view === "changes" ? "whole" : "changes");
}

function jump(step) {
  const kinds = [".added", ".gone", ".hot"].map((kind) => "pre:not([hidden]) > " + kind);
  const marked = [...panels[current].querySelectorAll(kinds.join())];
  const firsts = marked.filter((line) => !marked.includes(line.previousElementSibling));
  const middle = main.getBoundingClientRect().top + main.clientHeight / 2;
  const place = (line) => line.getBoundingClientRect().top - middle;
  if (step < 0) firsts.reverse();
  const ahead = firsts.find((line) => step * place(line) > 20);
  if (ahead) ahead.scrollIntoView({ block: "center" });
}

tabs.forEach((tab, at) => tab.addEventListener("click", () => choose(at, true)));
document.querySelectorAll(".views button").forEach((button) =>
  button.addEventListener("click", () => {
    if (button.dataset.view) view(button.closest("[role=tabpanel]"), button.dataset.view);
    else jump(1);
  }));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ArrowDown: () => choose(current + 1, true), ArrowRight: () => choose(current + 1, true),
    ArrowUp: () => choose(current - 1, true), ArrowLeft: () => choose(current - 1, true),
    Home: () => choose(0, true), End: () => choose(tabs.length - 1, true),
    d: toggle, n: () => jump(1), p: () => jump(-1),
  };
  const arrows = event.key.length > 1;
  const inside = main.contains(document.activeElement);
  if (event.key in actions && !(arrows && inside)) {
    event.preventDefault();
    actions[event.key]();
  }
});
const wanted = panels.findIndex((panel) => panel.id === "panel-" + location.hash.slice(1));
choose(Math.max(wanted, 0), false);
