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
document.querySelectorAll("time[datetime]").forEach(showTime);
const zoneName = document.getElementById("zone");
if (zoneName && zone) zoneName.textContent = zone;

// Keys: / searches, g and a letter goes to a page, j and k walk through the rows, Enter opens one.
const rows = [...document.querySelectorAll("table.rows tbody tr")].filter((row) => row.querySelector("a"));
let at = -1;
const walk = (step) => {
  if (rows.length === 0) return;
  rows[at]?.classList.remove("at");
  at = Math.min(Math.max(at + step, 0), rows.length - 1);
  rows[at].classList.add("at");
  rows[at].querySelector("a").focus();
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
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});
