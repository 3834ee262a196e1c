// Makes the console quicker to use; every page is complete without it.

// Theme: that of the system, unless one was chosen.
const root = document.documentElement;
const remembered = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* not kept */ } };
const theme = document.getElementById("theme");
if (["light", "dark"].includes(remembered("theme"))) root.dataset.theme = remembered("theme");
if (theme) {
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  label();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember("theme", root.dataset.theme);
    label();
  });
}

// Times in the zone of the visitor; UTC stays in the tooltip.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const two = (number) => String(number).padStart(2, "0");
const showTime = (element) => {
  const at = new Date(element.dateTime);
  if (Number.isNaN(at.getTime())) return;
  element.title = element.textContent;
  element.textContent = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} `
    + `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
};
const showTimes = (part) => {
  part.querySelectorAll("time[datetime]").forEach(showTime);
  part.querySelectorAll("[data-origin]").forEach((place) => { place.textContent = location.origin; });
};
showTimes(document);
const zoneName = document.getElementById("zone");
if (zoneName && zone) zoneName.textContent = zone;

// Pages with parts that are live are fetched again, unless nobody looks, something in them is in use, or the visitor paused
// that.
let isPaused = false;
const updates = document.getElementById("updates");
if (updates) {
  const [note, button] = updates.children;
  const label = () => {
    note.textContent = isPaused ? "Updates are paused." : "Updated every 5 seconds.";
    button.textContent = isPaused ? "Resume" : "Pause";
  };
  updates.hidden = false;
  label();
  button.addEventListener("click", () => { isPaused = !isPaused; label(); });
}
const parts = [...document.querySelectorAll("[data-live]")];
const served = new Map(parts.map((part) => [part.id, null]));
const isInUse = () => isPaused || document.hidden || !(getSelection()?.isCollapsed ?? true)
  || parts.some((part) => part.contains(document.activeElement));
// What is old must not look like the present.
const showStale = () => {
  const place = document.getElementById("stale");
  if (!place || !place.hidden) return;
  place.hidden = false;
  place.textContent = `Not updated since ${new Date().toLocaleTimeString()}: the service does not answer, or you are logged out. Reload the page.`;
};
const refresh = async () => {
  if (isInUse()) return;
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (answer.redirected || !answer.ok) throw new Error("no page");
  const stale = document.getElementById("stale");
  if (stale) stale.hidden = true;
  if (isInUse()) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const fresh = page.getElementById(part.id);
    if (!fresh || served.get(part.id) === fresh.innerHTML) continue;
    served.set(part.id, fresh.innerHTML);
    part.className = fresh.className;
    part.replaceChildren(...fresh.childNodes);
    showTimes(part);
  }
};
if (parts.length > 0) setInterval(() => { refresh().catch(showStale); }, 5000);

// Copies the text of another element; over plain HTTP there is no clipboard, so the browser copies what is selected.
const copy = async (element) => {
  const text = element.value ?? element.textContent;
  try { await navigator.clipboard.writeText(text); } catch {
    if (element.select) element.select(); else getSelection().selectAllChildren(element);
    document.execCommand("copy");
  }
};
const showCopies = () => document.querySelectorAll("button[data-copy]").forEach((button) => { button.hidden = false; });
showCopies();
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-copy]");
  const element = button && document.getElementById(button.dataset.copy);
  if (!element) return;
  const label = button.textContent;
  void copy(element).then(() => {
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
});

// The editor: compares by itself, a moment after the last key.
const editor = document.getElementById("editor");
if (editor) {
  let timer = 0;
  let asked = new AbortController();
  const compare = async () => {
    asked.abort();
    asked = new AbortController();
    const result = document.getElementById("result");
    result.setAttribute("aria-busy", "true");
    try {
      const body = new URLSearchParams(new FormData(editor));
      const answer = await fetch(location.pathname, { method: "POST", body, signal: asked.signal });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      // The text stays, whatever is wrong with the service or the login.
      if (!page.getElementById("result")) throw new Error("no page");
      for (const id of ["result", "problems"]) {
        const [old, fresh] = [document.getElementById(id), page.getElementById(id)];
        old.className = fresh.className;
        old.hidden = fresh.hidden;
        old.replaceChildren(...fresh.childNodes);
      }
      result.removeAttribute("aria-busy");
      const isWrong = document.querySelector("#problems li") !== null;
      if (isWrong) editor.text.setAttribute("aria-invalid", "true"); else editor.text.removeAttribute("aria-invalid");
      showTimes(document.getElementById("result"));
      showCopies();
    } catch (error) {
      if (error.name === "AbortError") return;
      result.removeAttribute("aria-busy");
      const problems = document.getElementById("problems");
      problems.hidden = false;
      problems.textContent = "The text could not be compared: the service does not answer, or you are logged out. Copy the text before you reload the page.";
    }
  };
  editor.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(compare, 300); });
}

// Keys: / searches, g and a letter goes to a page, j and k walk through the rows, Enter opens one,
// t follows the list.
const walk = (step) => {
  const rows = [...document.querySelectorAll("table.rows tbody tr, .timeline > li")].filter((row) => row.querySelector("a"));
  if (rows.length === 0) return;
  const before = rows.findIndex((row) => row.classList.contains("at"));
  rows[before]?.classList.remove("at");
  const row = rows[Math.min(Math.max(before + step, 0), rows.length - 1)];
  row.classList.add("at");
  row.querySelector("a").focus();
};
let isGoing = false;
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, select, textarea, [contenteditable]");
  if (event.key === "Escape" && isTyping) { event.target.blur(); return; }
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (isGoing) {
    isGoing = false;
    document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`)?.click();
    return;
  }
  const act = {
    "/": () => document.getElementById("q")?.focus(),
    g: () => { isGoing = true; },
    j: () => walk(1),
    k: () => walk(-1),
    t: () => document.querySelector("#live button")?.click(),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});

// The live list. New rows wait while the visitor reads: scrolled down, with a selection, or with the focus in a row.
const LIVE_ROWS_MAX = 200;
const live = document.getElementById("live");
if (live) {
  const button = live.querySelector("button");
  const status = live.querySelector("[role=status]");
  const page = location.pathname + location.search;
  const table = document.querySelector("table.rows tbody");
  const held = new Map();
  let source = null;
  let lastId = null;
  const isReading = () => scrollY > 40 || !getSelection().isCollapsed || table?.contains(document.activeElement);
  const say = (words) => { if (status.textContent !== words) status.textContent = words; };
  const place = (row) => {
    showTimes(row);
    const old = table.querySelector(`tr[data-seq="${row.dataset.seq}"]`);
    if (old) { old.replaceWith(row); return; }
    table.prepend(row);
    while (table.rows.length > LIVE_ROWS_MAX) table.lastElementChild.remove();
  };
  const release = () => {
    if (!source) return;
    if (!isReading()) {
      held.forEach(place);
      held.clear();
    }
    const news = [...held.keys()].filter((seq) => seq !== "more" && !table?.querySelector(`tr[data-seq="${seq}"]`)).length;
    say(news > 0 ? `${news} new, shown when you are back at the top` : "New messages appear at the top.");
  };
  const close = () => { source?.close(); source = null; };
  const open = () => {
    const from = lastId ? live.dataset.tail.replace(/since=\d+$/, `since=${lastId}`) : live.dataset.tail;
    source = new EventSource(from);
    source.addEventListener("row", (event) => {
      lastId = event.lastEventId;
      // The list was empty: the page with the first rows has a table.
      if (!table) {
        try { sessionStorage.setItem("live", page); } catch { /* not kept */ }
        location.reload();
        return;
      }
      const part = document.createElement("template");
      part.innerHTML = event.data;
      const row = part.content.firstElementChild;
      held.set(row.dataset.seq, row);
      if (held.size > LIVE_ROWS_MAX) held.delete(held.keys().next().value);
      release();
    });
    source.addEventListener("more", () => {
      if (!table) return;
      const part = document.createElement("template");
      part.innerHTML = `<tr data-seq="more"><td colspan="5" class="more">More arrived at once than are shown: <a href="">reload</a> for all of them.</td></tr>`;
      const row = part.content.firstElementChild;
      // There is one such row, where the latest gap is.
      table.querySelector(`tr[data-seq="more"]`)?.remove();
      held.delete("more");
      held.set("more", row);
      release();
    });
    source.addEventListener("open", release);
    source.addEventListener("error", () => {
      if (source?.readyState === EventSource.CLOSED) { follow(false); say("The live list was refused: too many are open, or you are logged out. Reload the page."); }
      else say("Connecting again…");
    });
  };
  const follow = (on) => {
    button.setAttribute("aria-pressed", on);
    close();
    say("");
    if (on) open();
  };
  live.hidden = false;
  button.addEventListener("click", () => {
    follow(!source);
    // A reload goes on with it.
    try { source ? sessionStorage.setItem("live", page) : sessionStorage.removeItem("live"); } catch { /* not kept */ }
  });
  document.addEventListener("visibilitychange", () => {
    if (button.getAttribute("aria-pressed") !== "true") return;
    close();
    if (!document.hidden) open();
  });
  addEventListener("scroll", release, { passive: true });
  document.addEventListener("selectionchange", release);
  document.addEventListener("focusout", () => setTimeout(release));
  let wasLive = null;
  try { wasLive = sessionStorage.getItem("live"); } catch { /* not kept */ }
  if (wasLive === page || "first" in live.dataset) follow(true);
}

// A replay in parts goes on by itself; without a script, people press its button.
const goesOn = document.querySelector("form[data-goes-on]");
if (goesOn) setTimeout(() => goesOn.requestSubmit(), 300);
