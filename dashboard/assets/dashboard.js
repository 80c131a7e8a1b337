// What a page does besides links and forms. Live parts are asked for again when the service says that
// something changed; here it is decided when.
//
//   data-live   at most one request in a while (data-pace, in milliseconds; a second unless said)
//   data-calm   none while somebody reads it: points at it, types in it or has marked something in it
//   data-until, data-since   a moment, counted down to or up from
//   data-copy   a text for the clipboard
"use strict";

const parts = new WeakMap();

function isRead(part) {
  if (document.hidden) return true;
  const marked = document.getSelection();
  if (marked && !marked.isCollapsed && part.contains(marked.anchorNode)) return true;
  if (!part.hasAttribute("data-calm")) return false;
  const focused = document.activeElement;
  if (focused && focused !== document.body && part.contains(focused)) return true;
  if (part.querySelector("form")) return part.querySelector("details[open]") !== null;
  return window.matchMedia("(hover: hover)").matches && part.matches(":hover");
}

function say(text) {
  const live = document.getElementById("live");
  live.hidden = !text;
  live.textContent = text;
}

document.addEventListener("htmx:confirm", (event) => {
  const part = event.detail.elt;
  if (!part.hasAttribute("data-live")) return;
  event.preventDefault();
  const state = parts.get(part) || { last: 0, timer: 0 };
  parts.set(part, state);
  // The one that is coming will show this change too.
  if (state.timer) return;
  const pace = Number(part.dataset.pace || 1000);
  const attempt = () => {
    state.timer = 0;
    if (!part.isConnected) return;
    if (isRead(part)) {
      say("Paused while you read; there is news.");
      state.timer = setTimeout(attempt, 400);
      return;
    }
    say("");
    state.last = Date.now();
    event.detail.issueRequest(true);
  };
  state.timer = setTimeout(attempt, Math.max(0, state.last + pace - Date.now()));
});

// A browser keeps few connections to one site, and each live page needs one of them. A page that nobody sees
// gives its own back, and asks for the news once it is seen again.
const sources = new Set();

class Source extends EventTarget {
  constructor(url) {
    super();
    this.url = url;
    this.kinds = new Set();
    this.closed = false;
    sources.add(this);
    if (!document.hidden) this.connect();
  }

  get readyState() {
    if (this.closed) return EventSource.CLOSED;
    return this.stream ? this.stream.readyState : EventSource.CONNECTING;
  }

  connect() {
    this.stream = new EventSource(this.url, { withCredentials: true });
    this.stream.onopen = (event) => this.onopen?.(event);
    this.stream.onerror = (event) => {
      // Given up for good: whoever made this one makes another.
      if (this.readyState === EventSource.CLOSED) sources.delete(this);
      this.onerror?.(event);
    };
    for (const kind of this.kinds) this.pass(kind);
  }

  pass(kind) {
    this.stream.addEventListener(kind, ({ data, lastEventId }) => {
      this.dispatchEvent(new MessageEvent(kind, { data, lastEventId }));
    });
  }

  addEventListener(kind, ...rest) {
    super.addEventListener(kind, ...rest);
    if (this.kinds.has(kind)) return;
    this.kinds.add(kind);
    if (this.stream) this.pass(kind);
  }

  pause() {
    this.stream?.close();
    this.stream = null;
  }

  resume() {
    if (this.stream) return;
    this.connect();
    for (const kind of this.kinds) this.dispatchEvent(new MessageEvent(kind));
  }

  close() {
    this.closed = true;
    sources.delete(this);
    this.pause();
  }
}

htmx.createEventSource = (url) => new Source(url);
document.addEventListener("visibilitychange", () => {
  for (const source of sources) document.hidden ? source.pause() : source.resume();
});

// Whoever is not known any more says anew who he is.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.status === 401) {
    event.detail.shouldSwap = false;
    location.reload();
  }
});

// What was open stays open.
let open = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  open = [...event.detail.target.querySelectorAll("details[open][id]")].map((details) => details.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  open = [];
  count();
});

// A saga that moved may allow other things.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "state") htmx.trigger(document.body, "changed");
  if (event.detail.target.id === "notice") event.detail.target.scrollIntoView({ block: "nearest" });
});

function span(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

function count() {
  const now = Date.now();
  for (const time of document.querySelectorAll("[data-until]")) {
    const left = (Date.parse(time.dataset.until) - now) / 1000;
    time.textContent = left > 0 ? `in ${span(left)}` : "now";
  }
  for (const time of document.querySelectorAll("[data-since]")) {
    time.textContent = `${span(Math.max(0, (now - Date.parse(time.dataset.since)) / 1000))} ago`;
  }
}
setInterval(count, 1000);
count();

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages from localhost or over TLS may use the clipboard directly.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});

// A link to an event opens it.
const linked = location.hash && document.getElementById(location.hash.slice(1));
if (linked instanceof HTMLDetailsElement) {
  linked.open = true;
  linked.scrollIntoView({ block: "center" });
}
