// Makes the pages live. They are complete without it.
"use strict";

const root = document.documentElement;
const light = document.getElementById("live");

root.dataset.scripts = "";
const zone = document.getElementById("zone");
if (zone) zone.textContent = "exact ones in your time zone, " + Intl.DateTimeFormat().resolvedOptions().timeZone;

// Times are shown relative to now, and as they are where the page is read.
const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
function relative(seconds) {
  const n = Math.abs(seconds);
  if (n < 1.5) return "now";
  const [unit, size] = units.find(([, size]) => n >= size);
  const text = Math.floor(n / size) + " " + unit;
  return seconds < 0 ? text + " ago" : "in " + text;
}
const two = (n) => String(n).padStart(2, "0");
function absolute(at) {
  const t = new Date(at);
  return t.getFullYear() + "-" + two(t.getMonth() + 1) + "-" + two(t.getDate()) + " " + two(t.getHours()) + ":" + two(t.getMinutes()) + ":" + two(t.getSeconds());
}
function set(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}
function tick() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = Date.parse(time.dateTime);
    if (Number.isNaN(at)) continue;
    const span = time.querySelector("[data-relative]");
    const seconds = (at - Date.now()) / 1000;
    // What is to come and is past is due.
    set(span, relative(span && span.dataset.relative === "ahead" ? Math.max(seconds, 0) : seconds));
    set(time.querySelector("[data-absolute]"), absolute(at));
  }
}
setInterval(tick, 1000);

// A page is fetched again as it is and what differs is changed in place: focus,
// what is being typed, and what was opened stay.
const keep = {
  beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
  beforeNodeMorphed: (node) => !(node.tagName === "FORM" && node.matches("[data-keep]:focus-within")),
};
function load() {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("GET", location.href);
    xhr.responseType = "document";
    xhr.timeout = 20000;
    xhr.onload = () => resolve(xhr);
    xhr.onerror = xhr.ontimeout = () => reject(new Error("no answer"));
    xhr.send();
  });
}
let busy = false, again = false;
async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    do {
      again = false;
      const xhr = await load();
      const fresh = xhr.status < 500 && xhr.response && xhr.response.querySelector("main[data-page]");
      const main = document.querySelector("main");
      if (!fresh || fresh.dataset.page !== main.dataset.page) {
        // Signed out, or the server is another one by now.
        say("off", "reload");
        return;
      }
      Idiomorph.morph(main, fresh, { ignoreActiveValue: true, callbacks: keep });
      root.dataset.refreshed = String(Number(root.dataset.refreshed || 0) + 1);
      tick();
      say("on", "live");
    } while (again);
  } catch {
    say("off", "offline");
  } finally {
    busy = false;
  }
}
function say(state, text) {
  light.dataset.state = state;
  light.textContent = text;
}

// Only a page that is looked at is live: each one holds a connection.
let source = null;
function connect() {
  source = new EventSource(root.dataset.live);
  source.addEventListener("hello", refresh);
  source.addEventListener("changed", refresh);
  source.onerror = () => say("off", source.readyState === EventSource.CLOSED ? "not live" : "reconnecting");
}
function disconnect() {
  source.close();
  say("off", "paused");
}
document.addEventListener("visibilitychange", () => document.hidden ? disconnect() : connect());
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => { if (event.persisted) connect(); });

// A filter applies when it is chosen; without this file there is its button.
document.addEventListener("change", (event) => {
  if (event.target.matches("form[data-filter] select")) event.target.form.requestSubmit();
});
// What stays empty stays out of the address.
document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-filter]")) return;
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
});
// Coming back to a page shows its filter as it was sent.
addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form[data-filter] :disabled")) field.disabled = false;
});
// "/" goes to the search box.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const field = document.getElementById("search");
  if (field) { event.preventDefault(); field.focus(); field.select(); }
});
// An id is copied by one click.
async function copy(button) {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS there is only the older way.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden-label";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "copied";
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
});
tick();
if (!document.hidden) connect();
