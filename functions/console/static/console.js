// Fetches the page again when the server says that something changed, and puts its content in place of the old.
// Without this script, or without server-sent events, the page is complete; a link shows it anew.
"use strict";
(() => {
  const main = document.getElementById("main");
  const box = document.getElementById("live");
  if (!main || !box || main.dataset.since === undefined) return;
  const button = document.getElementById("live-switch");
  const state = document.getElementById("live-state");
  const POLL_MS = 5000;
  let stream = null, timer = null, busy = false, again = false;

  const say = (text) => { if (state.textContent !== text) state.textContent = text; };

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      say("");
    } catch (error) {
      say(`Not up to date: ${error.message}.`);
    }
    busy = false;
    if (again) { again = false; refresh(); }
  }

  function show(page) {
    const fresh = page.getElementById("main");
    if (!fresh) throw new Error("the answer is another page");
    document.getElementById("as-of").replaceChildren(...page.getElementById("as-of").childNodes);
    if (fresh.innerHTML === main.innerHTML) return;
    const focused = main.contains(document.activeElement) ? document.activeElement : null;
    const key = focused && (focused.id || focused.getAttribute("href"));
    const attribute = focused && (focused.id ? "id" : "href");
    // What a person has typed stays.
    const typed = [...main.querySelectorAll("input, select")].map((field) => [field.id, field.value]);
    main.replaceChildren(...fresh.childNodes);
    for (const [id, value] of typed) {
      const field = document.getElementById(id);
      if (field) field.value = value;
    }
    if (key) main.querySelector(`[${attribute}="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
  }

  function poll() {
    timer = setInterval(refresh, POLL_MS);
    refresh();
  }

  function start() {
    if (!window.EventSource) { poll(); return; }
    stream = new EventSource(`/live?since=${encodeURIComponent(main.dataset.since)}`);
    stream.addEventListener("changed", refresh);
    stream.addEventListener("down", () => say("Not up to date: Dolt cannot be reached."));
    stream.onerror = () => {
      if (stream && stream.readyState === EventSource.CLOSED) { stop(); poll(); } // refused: there are too many
    };
  }

  function stop() {
    if (stream) stream.close();
    clearInterval(timer);
    stream = timer = null;
  }

  const wanted = () => button.getAttribute("aria-pressed") === "true";

  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(!wanted()));
    if (wanted()) { start(); refresh(); } else { stop(); say("Paused."); }
  });
  // A page that nobody sees keeps no pod.
  document.addEventListener("visibilitychange", () => {
    stop();
    if (!document.hidden && wanted()) { start(); refresh(); }
  });
  window.addEventListener("pagehide", stop);
  box.hidden = false;
  start();
})();
