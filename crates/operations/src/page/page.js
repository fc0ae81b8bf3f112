// Keeps the page of an operation up to date and opens the result. The page follows the event stream while the page is
// visible and few other pages have streams. It polls while it is hidden, while other pages have the streams, and if a
// proxy blocks streams. Without this script the page reloads itself.

const operation = document.getElementById("operation");
const heading = document.getElementById("heading");
const message = document.getElementById("message");
const waiting = document.getElementById("waiting");
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
// The time limit for the first event of a stream: some proxies buffer events.
const firstEventTimeout = 10_000;
const maxStreamFailures = 3;
// A stream that is silent for longer is opened again: a broken connection is not always reported.
const maxSilence = 60_000;
// Pages of this origin that may have a stream at the same time. Over HTTP/1.1 a browser has six connections to a site,
// and each stream takes one of them.
const maxStreams = 2;
// The polling interval of a hidden page, which updates its title and opens the result.
const hiddenRefresh = 5_000;
const requestTimeout = 30_000;
const maxRetryDelay = 30_000;
// A screen reader reads out at most one change of the message in this time.
const announcementInterval = 10_000;

const loaded = Date.now();
let ended = false;
let streamsComeThrough = true;
let failedQuestions = 0;

// Replaces {name} in a translated pattern.
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
    // Delayed, otherwise the screen reader would not read out this change either.
    setTimeout(() => { message.ariaLive = "off"; }, 1000);
    setTimeout(() => { message.ariaLive = null; }, announcementInterval);
  }
}

// The document has names only if the application shows them.
function waitsFor(state) {
  const names = (state.waitingFor ?? []).flatMap((promise) => promise.name ?? []);
  return names.length ? fill(settings.waitingFor, { names: names.join(", ") }) : "";
}

function show(state) {
  heading.textContent = headings[state.status];
  showMessage(state.message ?? "");
  waiting.textContent = waitsFor(state);
  if (!state.links.cancel) form?.remove();
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

// Opens the result. The page stays if the result is a download, so it must not look as if work were running.
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

// The server shows the reason: the operation is gone, or the session belongs to another user.
function reload() {
  ended = true;
  location.replace(settings.own);
}

// Runs `work` while fewer than `maxStreams` pages of this origin do, and resolves to whether it did. The browser gives
// the place of a page that is closed or has crashed to another page.
async function inStreamPlace(work) {
  for (let place = 1; place <= maxStreams; place += 1) {
    const name = `tower-promises event stream ${place}`;
    const isFree = await navigator.locks.request(name, { ifAvailable: true }, async (lock) => {
      if (lock) await work();
      return lock !== null;
    });
    if (isFree) return true;
  }
  return false;
}

// Follows the event stream if this page may have one, and resolves to whether it had one.
async function tryToFollow() {
  if (document.hidden || !streamsComeThrough) return false;
  try {
    return await inStreamPlace(follow);
  } catch {
    // Insecure origins and sandboxed documents have no locks. An uncounted stream could exceed the limit.
    return false;
  }
}

// Resolves when the stream has ended, does not come through, or the page is hidden.
function follow() {
  return new Promise((resolve) => {
    // The page may have been hidden while it waited for its place.
    if (document.hidden) return resolve();
    const events = new EventSource(settings.events);
    const listening = new AbortController();
    let failures = 0;
    let timer;

    function stop() {
      clearTimeout(timer);
      listening.abort();
      events.close();
      resolve();
    }

    function giveUp() {
      streamsComeThrough = false;
      stop();
    }

    function expectEvent(timeout, otherwise) {
      clearTimeout(timer);
      timer = setTimeout(otherwise, timeout);
    }

    function receive(event) {
      // The loop in `keepUpToDate` opens another stream.
      expectEvent(maxSilence, stop);
      failures = 0;
      connection.textContent = "";
      return JSON.parse(event.data);
    }

    document.addEventListener("visibilitychange", () => {
      if (document.hidden) stop();
    }, { signal: listening.signal });
    events.addEventListener("status", (event) => {
      const state = receive(event);
      if (!ended) show(state);
    });
    events.addEventListener("done", (event) => {
      const state = receive(event);
      stop();
      end(state);
    });
    events.addEventListener("error", () => {
      failures += 1;
      // The browser tries again by itself unless the server has refused.
      if (events.readyState === EventSource.CLOSED || failures >= maxStreamFailures) giveUp();
      else expectEvent(firstEventTimeout, giveUp);
    });
    expectEvent(firstEventTimeout, giveUp);
  });
}

// Requests the status once, and resolves to the delay before the next request.
async function ask() {
  let delay = refresh;
  try {
    const response = await fetch(settings.own, {
      headers: { Accept: "application/json" },
      cache: "no-store",
      signal: AbortSignal.timeout(requestTimeout),
    });
    delay = Number(response.headers.get("Retry-After")) * 1000 || refresh;
    if (response.status === 429 || response.status >= 500) throw new Error(`status ${response.status}`);
    if (!response.ok || response.redirected) {
      reload();
      return delay;
    }
    const state = await response.json();
    failedQuestions = 0;
    connection.textContent = "";
    if (isTerminal(state)) end(state);
    else show(state);
  } catch {
    failedQuestions += 1;
    connection.textContent = settings.connectionLost;
    delay = Math.max(delay, Math.min(refresh * 2 ** failedQuestions, maxRetryDelay));
  }
  return delay;
}

// Waits. A device that comes online, or a page that is shown, ends the wait.
function pause(delay) {
  return new Promise((resolve) => {
    const listening = new AbortController();
    const timer = setTimeout(stop, delay);
    function stop() {
      clearTimeout(timer);
      listening.abort();
      resolve();
    }
    addEventListener("online", stop, { signal: listening.signal });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) stop();
    }, { signal: listening.signal });
  });
}

async function keepUpToDate() {
  while (!ended) {
    if (await tryToFollow()) continue;
    const delay = await ask();
    if (!ended) await pause(document.hidden ? Math.max(delay, hiddenRefresh) : delay);
  }
}

form?.addEventListener("submit", (event) => {
  const button = form.querySelector("button");
  // A second click must not cancel again. Not `disabled`, which would take away the focus.
  if (button.ariaDisabled === "true") return event.preventDefault();
  button.ariaDisabled = "true";
  button.textContent = settings.canceling;
});

// A page from the browser's back-forward cache is out of date.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

const ticking = setInterval(tick, 1000);
tick();
keepUpToDate();
