// Keeps the page of an operation up to date: follows the event stream, or asks now and then where a proxy does not
// let one through, and goes on to the result. Without this script the page reloads itself.

const operation = document.getElementById("operation");
const heading = document.getElementById("heading");
const message = document.getElementById("message");
const progress = document.querySelector("progress");
const percent = document.getElementById("percent");
const elapsed = document.getElementById("elapsed");
const connection = document.getElementById("connection");
const form = document.querySelector("form");
const settings = operation.dataset;

const headings = {
  NotStarted: settings.notStarted,
  Running: settings.running,
  Succeeded: settings.succeeded,
  Failed: settings.failed,
  Canceled: settings.canceled,
};

const refresh = Number(settings.refresh) * 1000;
// How long the stream may take for its first event: some proxies keep back what they should pass on.
const firstEventTimeout = 10_000;
const maxStreamFailures = 3;
// A stream that is silent for longer is opened anew: its connection may have died without a word.
const maxSilence = 60_000;
const requestTimeout = 30_000;
const maxRetryDelay = 30_000;
// At most one change of the message in this time is read out by a screen reader.
const announcementInterval = 10_000;

const loaded = Date.now();
let ended = false;

// What {name} stands for in a translated pattern.
function fill(pattern, values) {
  return pattern.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
}

function tick() {
  const seconds = Math.max(0, Number(settings.elapsed) + Math.floor((Date.now() - loaded) / 1000));
  const digits = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  elapsed.textContent = (hours ? `${hours}:${digits(minutes)}` : minutes) + `:${digits(seconds % 60)}`;
}

function showMessage(text) {
  if (message.textContent === text) return;
  message.textContent = text;
  if (message.ariaLive !== "off") {
    // Not at once, or this change would not be read out either.
    setTimeout(() => { message.ariaLive = "off"; }, 1000);
    setTimeout(() => { message.ariaLive = null; }, announcementInterval);
  }
}

function show(state) {
  heading.textContent = headings[state.status];
  showMessage(state.message ?? "");
  if (typeof state.progress === "number") {
    progress.value = state.progress;
    percent.textContent = fill(settings.percent, { percent: Math.floor(state.progress) });
    document.title = fill(settings.title, { percent: percent.textContent, heading: heading.textContent });
  } else {
    progress.removeAttribute("value");
    percent.textContent = "";
    document.title = heading.textContent;
  }
}

function isTerminal(state) {
  return state.status !== "NotStarted" && state.status !== "Running";
}

// Goes on to the result. The page stays where that is a download, so it must not look as if something went on.
function end(state) {
  ended = true;
  clearInterval(ticking);
  show(state);
  progress.hidden = true;
  percent.textContent = "";
  document.title = heading.textContent;
  connection.textContent = "";
  form?.remove();
  document.getElementById("result").hidden = false;
  location.replace(settings.own);
}

// The server says what is the matter: nothing is here any more, or somebody else is logged in.
function reload() {
  ended = true;
  location.replace(settings.own);
}

function follow() {
  const events = new EventSource(settings.events);
  let failures = 0;
  let timer;

  function giveUp() {
    clearTimeout(timer);
    events.close();
    poll();
  }

  function startAnew() {
    events.close();
    follow();
  }

  function expectEvent(timeout, otherwise) {
    clearTimeout(timer);
    timer = setTimeout(otherwise, timeout);
  }

  function receive(event) {
    expectEvent(maxSilence, startAnew);
    failures = 0;
    connection.textContent = "";
    return JSON.parse(event.data);
  }

  events.addEventListener("status", (event) => {
    const state = receive(event);
    if (!ended) show(state);
  });
  events.addEventListener("done", (event) => {
    const state = receive(event);
    clearTimeout(timer);
    events.close();
    end(state);
  });
  events.addEventListener("error", () => {
    failures += 1;
    // The browser tries again by itself unless the server has refused.
    if (events.readyState === EventSource.CLOSED || failures >= maxStreamFailures) giveUp();
    else expectEvent(firstEventTimeout, giveUp);
  });
  expectEvent(firstEventTimeout, giveUp);
}

async function poll() {
  let failures = 0;
  while (!ended) {
    let delay = refresh;
    try {
      const response = await fetch(settings.own, {
        headers: { Accept: "application/json" },
        cache: "no-store",
        signal: AbortSignal.timeout(requestTimeout),
      });
      delay = Number(response.headers.get("Retry-After")) * 1000 || refresh;
      if (response.status === 429 || response.status >= 500) throw new Error(`status ${response.status}`);
      if (!response.ok || response.redirected) return reload();
      const state = await response.json();
      if (isTerminal(state)) return end(state);
      failures = 0;
      connection.textContent = "";
      show(state);
    } catch {
      failures += 1;
      connection.textContent = settings.connectionLost;
      delay = Math.max(delay, Math.min(refresh * 2 ** failures, maxRetryDelay));
    }
    await pause(delay);
  }
}

// Waits, but not for longer than the device is offline.
function pause(delay) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, delay);
    addEventListener("online", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

form?.addEventListener("submit", (event) => {
  const button = form.querySelector("button");
  // A second click would ask to cancel what is cancelled already. Not `disabled`: that would take away the focus.
  if (button.ariaDisabled === "true") return event.preventDefault();
  button.ariaDisabled = "true";
  button.textContent = settings.canceling;
});

// A page that comes back from the browser's cache is out of date.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

const ticking = setInterval(tick, 1000);
tick();
follow();
