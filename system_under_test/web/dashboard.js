// The page: who is logged in, what the stream says, and what is shown of it. A number is only shown as current while
// the stream lives, the node sees the database, and the service says that it is; otherwise the page says what is wrong.

import { duration, moment, money, parseMoney, timeOfDay } from "./format.js";
import { Stream } from "./stream.js";

const SESSION = "savings.session";
const DEVICE = "savings.device";
const STATUS_EVERY_MS = 2_000;
const SCHEDULE_EVERY_MS = 30_000;
const ANSWER_WITHIN_MS = 8_000;
const TRIES_MAX = 8;

const STAGES = {
  open: "Open",
  draining: "Closing for maintenance",
  closed: "Closed for maintenance",
  verifying: "Maintenance: verifying the ledger",
  unknown: "State of the service unknown",
};
const REASONS = {
  "insufficient-funds": "not enough money",
  "account-frozen": "the account is frozen",
  "unknown-account": "the account is unknown",
};

const at = (id) => document.getElementById(id);
const state = {
  session: null, // {token, account}
  stream: null,
  live: false, // the stream says something, and its node sees the database
  feedIsCurrent: true,
  scale: 2,
  balance: null,
  redemptions: null,
  heardAt: null,
  status: null,
  statusAt: 0, // performance.now() when it came
};

// ---- what is said to those who listen instead of looking

function say(text) {
  if (at("said").textContent !== text) {
    at("said").textContent = text;
  }
}

function show(id, text) {
  if (at(id).textContent !== text) {
    at(id).textContent = text;
  }
}

// ---- requests

function randomText(bytes) {
  const drawn = crypto.getRandomValues(new Uint8Array(bytes));
  return btoa(String.fromCharCode(...drawn)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function ask(method, path, { body, headers = {} } = {}) {
  const sent = { ...headers };
  if (state.session !== null) {
    sent.Authorization = `Bearer ${state.session.token}`;
  }
  if (body !== undefined) {
    sent["Content-Type"] = "application/json";
  }
  return fetch(path, {
    method,
    headers: sent,
    cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
  });
}

async function detailOf(response) {
  try {
    return (await response.json()).detail ?? `The answer was ${response.status}.`;
  } catch {
    return `The answer was ${response.status}.`;
  }
}

// ---- log-in and log-out

// A device that is known is not kept out by what others try. The secret never leaves it but with a log-in.
function device() {
  let secret = localStorage.getItem(DEVICE);
  if (secret === null) {
    secret = randomText(32);
    localStorage.setItem(DEVICE, secret);
  }
  return secret;
}

async function logIn(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const button = form.querySelector("button");
  if (button.getAttribute("aria-disabled") === "true") {
    return;
  }
  const { email, password } = form.elements;
  const empty = [email, password].find((input) => input.value === "");
  if (empty !== undefined) {
    refuseLogIn(`${empty.labels[0].textContent}: nothing was entered.`, empty);
    return;
  }
  button.setAttribute("aria-disabled", "true");
  try {
    const response = await ask("POST", "/v1/sessions", {
      body: { email: email.value, password: password.value, device: device() },
    });
    if (response.status === 201) {
      const { token, account } = await response.json();
      password.value = "";
      show("log-in-problem", "");
      sessionStorage.setItem(SESSION, JSON.stringify({ token, account }));
      enter({ token, account });
      at("dashboard-title").focus();
      return;
    }
    const wait = Number(response.headers.get("Retry-After"));
    const again = wait > 0 ? ` Try again in ${duration(wait)}.` : "";
    refuseLogIn(`${await detailOf(response)}${again}`, response.status === 401 ? password : email);
  } catch {
    refuseLogIn("The service did not answer. Try again.", null);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function refuseLogIn(text, input) {
  for (const one of [at("email"), at("password")]) {
    one.toggleAttribute("aria-invalid", false);
  }
  show("log-in-problem", text);
  if (input !== null) {
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }
}

async function logOut() {
  try {
    await ask("DELETE", "/v1/sessions/current");
  } catch {
    // The session ends here in any case, and on the server when its time is over.
  }
  leave("You are logged out.");
}

function enter(session) {
  state.session = session;
  state.stream = new Stream("/v1/events", session.token, { event: onEvent, live: onLive, refused: onRefused });
  state.stream.run();
  for (const order of Object.values(orders)) {
    order.resume();
  }
  render();
}

function leave(text) {
  state.stream?.stop();
  sessionStorage.removeItem(SESSION);
  Object.assign(state, { session: null, stream: null, live: false, balance: null, redemptions: null, heardAt: null });
  for (const order of Object.values(orders)) {
    order.forget();
  }
  render();
  say(text);
  at("email").focus();
}

function onRefused() {
  leave("Your session has ended. Please log in again.");
  show("log-in-problem", "Your session has ended. Please log in again.");
}

// ---- the stream

function onEvent(kind, data) {
  state.heardAt = new Date();
  if (kind === "hello") {
    state.scale = data.scale;
  } else if (kind === "feed") {
    state.feedIsCurrent = data.current;
  } else if (kind === "balance") {
    tellBalance(state.balance, data);
    state.balance = data;
  } else if (kind === "redemptions") {
    tellRedemptions(state.redemptions, data.redemptions);
    state.redemptions = data.redemptions;
  } else if (kind === "status") {
    takeStatus(data);
  } else if (kind === "end" && data.reason === "unauthenticated") {
    state.stream.stop();
    onRefused();
    return;
  }
  render();
}

function onLive(live) {
  if (live) {
    state.heardAt = new Date();
  }
  if (live !== state.live) {
    state.live = live;
    render();
  }
}

function tellBalance(before, now) {
  if (now.state !== before?.state || now.balance !== before?.balance) {
    say(now.state === "current" ? `Balance ${money(now.balance, state.scale)}` : balanceText(now));
  }
}

function tellRedemptions(before, now) {
  for (const one of now) {
    const known = before?.find((old) => old.id === one.id);
    if (known !== undefined && known.status !== one.status) {
      say(`Redemption ${one.id}: ${redemptionText(one)}`);
    }
  }
}

// ---- the state of the service; the stream tells it to those who are logged in, the others ask

async function askStatus() {
  if (!state.live) {
    try {
      const response = await ask("GET", "/v1/status");
      if (response.ok) {
        takeStatus(await response.json());
      }
    } catch {
      // What was known grows old, and the page says so.
    }
    render();
  }
  setTimeout(askStatus, STATUS_EVERY_MS);
}

function takeStatus(status) {
  const before = state.status;
  if (before !== null && serviceText(before) !== serviceText(status)) {
    say(serviceText(status));
  }
  const changed = before === null || JSON.stringify(plan(before)) !== JSON.stringify(plan(status));
  state.status = status;
  state.statusAt = performance.now() - 1000 * (status.age_s ?? 0);
  if (changed) {
    askSchedule();
  }
}

function plan(status) {
  return [status.window?.id, status.window?.revision, status.window?.stage];
}

function statusAgeS() {
  return state.status === null ? Infinity : (performance.now() - state.statusAt) / 1000;
}

function serviceText(status) {
  if (status.stage === "open" && status.balances === "closed") {
    return "Balances are closed: the ledger is not verified";
  }
  return STAGES[status.stage] ?? STAGES.unknown;
}

async function askSchedule() {
  try {
    const response = await ask("GET", "/v1/schedule");
    if (response.ok) {
      renderSchedule((await response.json()).windows);
    }
  } catch {
    // The next round asks again; the window that counts is part of the status.
  }
}

// ---- what is shown

function render() {
  const inside = state.session !== null;
  at("entrance").hidden = inside;
  at("dashboard").hidden = !inside;
  at("log-out").hidden = !inside;
  show("account", inside ? state.session.account : "");
  renderService();
  renderWindow();
  if (inside) {
    renderBalance();
    renderRedemptions();
  }
  show("as-of", state.heardAt === null ? "" : `Last heard from the service at ${timeOfDay(state.heardAt)}.`);
}

function renderService() {
  const pill = at("service");
  if (state.status === null) {
    return;
  }
  const old = statusAgeS() > 10;
  show("service", old ? `No news for ${duration(statusAgeS())}; then: ${serviceText(state.status)}` : serviceText(state.status));
  pill.dataset.state = old ? "unknown" : state.status.balances === "open" ? "open" : "closed";
}

// Seconds of the clock on the wall until a business time, by the status that came last.
function wallSecondsUntil(text) {
  const { business_time: now, business_rate: rate } = state.status;
  return (new Date(text) - new Date(now)) / 1000 / rate - (performance.now() - state.statusAt) / 1000 - (state.status.age_s ?? 0);
}

function renderWindow() {
  const status = state.status;
  const next = status?.window ?? null;
  at("window").hidden = next === null && status?.balances !== "closed";
  if (at("window").hidden) {
    return;
  }
  if (next === null) {
    show("window-title", "Balances are closed");
    show("window-text", "The ledger is being verified again. Redemptions and deposits are taken; nothing is lost.");
    show("countdown-label", "");
    show("countdown", "");
    return;
  }
  const begun = next.starts_in_s === null;
  show("window-title", begun ? serviceText(status) : "Maintenance is planned");
  const why = next.reason === "" ? "" : ` ${sentence(next.reason)}`;
  const span = `${moment(next.starts_at)} to ${moment(next.expected_end)}`;
  const waiting = status.queue_length > 0 ? ` Redemptions waiting: ${status.queue_length}.` : "";
  show(
    "window-text",
    begun
      ? `Planned from ${span}.${why} Balances are not shown; redemptions are taken and settled in order afterwards.${waiting}`
      : `From ${span}.${why} Redemptions will be taken all the time.`,
  );
  const left = wallSecondsUntil(begun ? next.expected_end : next.starts_at);
  show("countdown-label", left > 0 ? (begun ? "Open again in" : "Begins in") : begun ? "Later than planned:" : "Begins");
  show("countdown", left > 0 ? duration(left) : begun ? "a new time will be shown here" : "now");
}

function sentence(text) {
  const first = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

function isCurrent() {
  return state.live && state.feedIsCurrent;
}

function balanceText(view) {
  if (view.state === "closed") {
    return "Closed for now";
  }
  return view.state === "synchronising" ? "Synchronising with the ledger" : "Not known yet";
}

function renderBalance() {
  const view = state.balance ?? { state: "unknown" };
  const shown = view.state === "current";
  const current = shown && isCurrent();
  at("balance").dataset.state = current ? "current" : shown ? "old" : view.state;
  show("balance", shown ? `${current ? "" : "Was "}${money(view.balance, state.scale)}` : balanceText(view));
  show("interest", shown ? money(view.interest, state.scale) : "\u2013");
  if (shown && !current) {
    show("balance-note", `Not current: no connection to the ledger since ${timeOfDay(state.heardAt)}. Trying again.`);
  } else if (shown) {
    show("balance-note", `True of transfer ${view.head} of the ledger.`);
  } else if (view.state === "synchronising") {
    show("balance-note", "The service has just reopened; the number follows when it has been checked.");
  } else {
    show("balance-note", isCurrent() ? "" : "Connecting.");
  }
}

function redemptionText(one) {
  if (one.status === "queued") {
    const expected = one.expected_at === null ? "" : `, expected by ${timeOfDay(new Date(one.expected_at))}`;
    return `queued, place ${one.place}${expected}`;
  }
  const reason = one.reason === null ? "" : `: ${REASONS[one.reason] ?? one.reason}`;
  return one.status === "parked" ? `set aside for a check${reason}` : `${one.status}${reason}`;
}

function renderRedemptions() {
  const list = state.redemptions ?? [];
  at("no-redemptions").hidden = list.length > 0;
  show("no-redemptions", state.redemptions === null ? "Not known yet." : "None yet.");
  at("redemptions-frame").hidden = list.length === 0;
  show("redemptions-note", list.length > 0 && !isCurrent() ? "Not current: as of the last news." : "");
  const rows = list.map((one) => {
    const row = document.createElement("tr");
    const cells = [String(one.id), money(one.amount, state.scale), moment(one.accepted_at), redemptionText(one)];
    row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return row;
  });
  if (at("redemptions").textContent !== rows.map((row) => row.textContent).join("")) {
    at("redemptions").replaceChildren(...rows);
  }
}

function renderSchedule(windows) {
  const upcoming = windows.filter((one) => one.stage !== "cancelled").slice(0, 5);
  at("no-windows").hidden = upcoming.length > 0;
  at("windows").replaceChildren(
    ...upcoming.map((one) => {
      const revision = one.revision > 1 ? `, plan ${one.revision}` : "";
      const text = `${moment(one.starts_at)} to ${moment(one.expected_end)}: ${one.stage === "open" ? "over" : one.stage}${revision}`;
      return Object.assign(document.createElement("li"), { textContent: text });
    }),
  );
}

// ---- orders: an order keeps its key until it is answered, over reloads too, so that it happens once

class Order {
  #kind;
  #path;
  #form;
  #busy = false;

  constructor(kind, path) {
    this.#kind = kind;
    this.#path = path;
    this.#form = at(kind);
    this.#form.addEventListener("submit", (event) => this.#submit(event));
  }

  get #place() {
    return `savings.order.${state.session.account}.${this.#kind}`;
  }

  // What was not answered before the page was left is sent again, with its key.
  resume() {
    const pending = localStorage.getItem(this.#place);
    if (pending !== null) {
      const order = JSON.parse(pending);
      this.#form.elements.amount.value = money(order.amount, state.scale);
      this.#send(order);
    }
  }

  // Of a customer who has left; what is unanswered stays with its account.
  forget() {
    this.#form.reset();
    this.#tell("", "");
    this.#setBusy(false);
  }

  #tell(text, kind = "") {
    const result = at(`${this.#kind}-result`);
    result.dataset.kind = kind;
    show(result.id, text);
  }

  #setBusy(busy) {
    this.#busy = busy;
    this.#form.querySelector("button").setAttribute("aria-disabled", String(busy));
    this.#form.elements.amount.readOnly = busy;
  }

  #submit(event) {
    event.preventDefault();
    if (this.#busy) {
      return;
    }
    const input = this.#form.elements.amount;
    const pending = localStorage.getItem(this.#place);
    const amount = parseMoney(input.value, state.scale);
    if (pending === null && amount === null) {
      this.#refuse(`Enter an amount above zero with at most ${state.scale} decimals, such as 12.50.`);
      return;
    }
    const order = pending === null ? { amount, key: randomText(18) } : JSON.parse(pending);
    localStorage.setItem(this.#place, JSON.stringify(order));
    this.#send(order);
  }

  #refuse(text) {
    const input = this.#form.elements.amount;
    input.setAttribute("aria-invalid", "true");
    this.#tell(text, "problem");
    input.focus();
  }

  async #send(order) {
    const session = state.session;
    this.#setBusy(true);
    this.#form.elements.amount.removeAttribute("aria-invalid");
    this.#tell("Sending.");
    for (let tries = 1; tries <= TRIES_MAX && state.session === session; tries += 1) {
      const waitS = await this.#try(order, session);
      if (waitS === null) {
        return;
      }
      this.#tell("Not answered yet; it is sent again until it is, and carried out once.");
      await new Promise((resume) => setTimeout(resume, 1000 * waitS * (0.75 + Math.random() / 2)));
    }
    if (state.session === session) {
      this.#setBusy(false);
      this.#form.elements.amount.value = money(order.amount, state.scale);
      this.#tell("The service did not answer. Send it again: it will be carried out once at most.", "problem");
    }
  }

  // One try; null when it was answered, otherwise after how many seconds to try again.
  async #try(order, session) {
    let response;
    let answer;
    try {
      response = await ask("POST", this.#path, { body: { amount: order.amount }, headers: { "Idempotency-Key": order.key } });
      answer = await response.json();
    } catch {
      return 1;
    }
    if (state.session !== session) {
      return null;
    }
    if (response.status >= 500 || response.status === 429) {
      return Math.min(10, Number(response.headers.get("Retry-After")) || 1);
    }
    if (response.status === 401) {
      state.stream?.stop();
      onRefused();
      return null;
    }
    localStorage.removeItem(this.#place);
    this.#setBusy(false);
    if (response.ok) {
      this.#form.reset();
      this.#tell(this.#receipt(answer));
    } else {
      this.#refuse(answer.detail ?? `The answer was ${response.status}.`);
    }
    return null;
  }

  #receipt(answer) {
    const amount = money(answer.amount, state.scale);
    return answer.kind === "deposit"
      ? `${amount} was paid in.`
      : `${amount} was queued as number ${answer.id}, at place ${answer.place}.`;
  }
}

const orders = { deposit: new Order("deposit", "/v1/deposits"), redeem: new Order("redeem", "/v1/redemptions") };

// ---- begin

at("log-in").addEventListener("submit", logIn);
at("log-out").addEventListener("click", logOut);
const kept = sessionStorage.getItem(SESSION);
if (kept === null) {
  render();
  at("email").focus();
} else {
  enter(JSON.parse(kept));
}
askStatus();
askSchedule();
setInterval(render, 1000);
setInterval(askSchedule, SCHEDULE_EVERY_MS);
