// The page: asks for the table every two seconds and shows it. Names come from others: they become text, never markup.

const EVERY = 2000;
const PATIENCE = 10000;
const TREND = 450; // 15 minutes
const MOST = 2000; // rows

const $ = (id) => document.getElementById(id);
const text = (parent, kind, content, name) => {
  const made = document.createElement(kind);
  if (content !== undefined) made.textContent = content;
  if (name) made.className = name;
  parent.append(made);
  return made;
};

let now = null, before = null, token = null, level = "on", paused = false, asking = false;
let view = "now", pod = null, sort = "active", descending = true;
const trends = new Map();
const drawn = new Map();

const key = (row) => JSON.stringify([row.namespace, row.pod, row.role, row.protocol, row.path]);
const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);
const name = (row) => (row.namespace ? row.namespace + "/" : "") + row.pod;
const protocol = (row) => row.protocol + (row.path === "internal" ? " within the pod" : "");
const bad = (row) => sum(row.closed) - (row.closed.local || 0) - (row.closed.peer || 0);
const cut = (row) => (row.idle_cut ? `${row.idle_cut.seconds} s × ${row.idle_cut.ends}` : "");
const troubled = (row) => bad(row) > 0 || sum(row.failed) > 0 || Boolean(row.idle_cut);

const short = (number, step, units) => {
  let unit = 0;
  while (number >= step && unit + 1 < units.length) { number /= step; unit += 1; }
  return (unit ? number.toFixed(number < 100 ? 1 : 0) : Math.round(number)) + units[unit];
};
const bytes = (number) => short(number, 1024, ["", " Ki", " Mi", " Gi", " Ti"]);
const count = (number) => (number < 10000 ? String(number) : short(number, 1000, ["", "k", "M", "G"]));
const rate = (number) => (number === 0 ? "0" : number < 10 ? number.toFixed(1) : count(Math.round(number)));
const time = (seconds) => {
  const whole = Math.floor(seconds);
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (whole < 60) return whole + " s";
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} m`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole / 3600) % 24} h`;
};

// What was not there before has no rate yet, nor has what began anew.
const per = (row, of) => {
  const then = before && before.rows.get(key(row));
  return then ? Math.max(0, of(row) - of(then)) / ((now.at - before.at) / 1000) : 0;
};
const closed = (reason) => (row) => row.closed[reason] || 0;

// Heading, value, how it is shown, whether it is a number, whether a narrow screen does without.
const COLUMNS = {
  now: [
    ["pod", "Pod", name, null],
    ["workload", "Workload", (row) => row.workload, null, true],
    ["role", "Role", (row) => row.role, null],
    ["protocol", "Protocol", protocol, null],
    ["ports", "Ports", (row) => row.ports.join(", "), null, true],
    ["active", "Active", (row) => row.active, count],
    ["trend", "Trend", (row) => row.active, "trend", true],
    ["new", "New/s", (row) => per(row, (r) => r.opened), rate],
    ["ended", "Ended/s", (row) => per(row, (r) => sum(r.closed)), rate],
    ["bad", "Bad ends", bad, count],
    ["cut", "Idle cut", (row) => (row.idle_cut ? row.idle_cut.ends : 0), "cut"],
    ["in", "In/s", (row) => per(row, (r) => r.received_bytes), bytes, true],
    ["out", "Out/s", (row) => per(row, (r) => r.sent_bytes), bytes, true],
    ["messages", "Messages/s", (row) => per(row, (r) => (r.messages ? r.messages[0] + r.messages[1] : 0)), rate, true],
    ["rtt", "RTT", (row) => row.rtt_seconds || 0, (seconds) => (seconds ? time(seconds) : ""), true],
  ],
  ends: [
    ["pod", "Pod", name, null],
    ["role", "Role", (row) => row.role, null],
    ["protocol", "Protocol", protocol, null],
    ["ended", "Ended", (row) => sum(row.closed), count],
    ["local", "By this side", closed("local"), count],
    ["peer", "By the peer", closed("peer"), count],
    ["reset_local", "Reset sent", closed("reset_local"), count],
    ["reset_peer", "Reset received", closed("reset_peer"), count],
    ["timeout", "Timed out", closed("timeout"), count],
    ["aborted", "Aborted", closed("aborted"), count],
    ["unknown", "Unknown", closed("unknown"), count, true],
    ["short", "Within 1 s", (row) => row.short, count],
    ["failed", "Connects failed", (row) => sum(row.failed), count],
    ["cut", "Idle cut", (row) => (row.idle_cut ? row.idle_cut.ends : 0), "cut"],
  ],
};
COLUMNS.pod = COLUMNS.now;

const say = (words, isBad) => {
  $("status").textContent = words;
  $("status").className = isBad ? "bad" : "";
};

async function get(path) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  return fetch(path, { headers, cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE) });
}

async function ask() {
  if (paused || asking || document.hidden) return;
  asking = true;
  try {
    const answer = await get("api/v1/snapshot");
    if (answer.status === 401) {
      say(token ? "The token is not one that the observer takes." : "The observer wants a bearer token.", true);
      $("access").hidden = false;
      return;
    }
    if (!answer.ok) throw new Error((await answer.text()).trim() || answer.status);
    level = answer.headers.get("observer-ui") || "on";
    take(await answer.json());
    if (view === "pod" && level === "full") await listOpen();
  } catch (error) {
    const since = now ? `; what is shown is of ${now.time}` : "";
    say(`The observer does not answer (${error.message})${since}.`, true);
  } finally {
    asking = false;
  }
}

function take(table) {
  $("access").hidden = true;
  const rows = new Map(table.rows.map((row) => [key(row), row]));
  if (!now || now.time !== table.time) {
    before = now;
    now = { ...table, at: Date.parse(table.time), all: table.rows, rows };
    if (before && before.at === now.at) before = null;
    for (const known of trends.keys()) if (!rows.has(known)) trends.delete(known);
    for (const [known, row] of rows) {
      const trend = trends.get(known) || [];
      trend.push(row.active);
      if (trend.length > TREND) trend.shift();
      trends.set(known, trend);
    }
  }
  show();
}

function figures() {
  const lost = sum(now.lost);
  const age = (then) => time((now.at - Date.parse(then)) / 1000);
  const all = [
    ["active", now.active], ["lost", lost], ["up", age(now.started)], ["counts for", age(now.since)],
    ["kernel", now.kernel], ["slots", `${now.slots_used} of ${now.slots}`],
    ["memory", now.resident_bytes === null ? "?" : bytes(now.resident_bytes) + "B"],
  ];
  $("node").textContent = now.node;
  document.title = `${now.active} active · ${now.node} · observer`;
  $("figures").replaceChildren();
  for (const [term, value] of all) {
    const pair = text($("figures"), "div");
    text(pair, "dt", term);
    text(pair, "dd", String(value));
  }
}

function chosen() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => {
    const all = [name(row), row.workload, row.role, row.protocol, row.ports.join(" ")].join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  };
  const of = (row) => !pod || (row.namespace === pod[0] && row.pod === pod[1]);
  const rows = now.all.filter((row) => of(row) && fits(row) && (!$("trouble").checked || troubled(row)));
  const column = COLUMNS[view].find(([id]) => id === sort) || COLUMNS[view][0];
  const keyed = rows.map((row) => [column[2](row), row]);
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  keyed.sort(([a, one], [b, other]) => (descending ? order(b, a) : order(a, b)) || order(name(one), name(other)));
  return keyed.map(([, row]) => row);
}

function heads() {
  const wanted = view + sort + descending;
  if ($("head").dataset.of === wanted) return;
  $("head").dataset.of = wanted;
  const focused = document.activeElement && document.activeElement.dataset.sort;
  $("head").replaceChildren();
  for (const [id, title, , form, minor] of COLUMNS[view]) {
    const head = text($("head"), "th", undefined, [form ? "number" : "", minor ? "minor" : ""].join(" ").trim());
    head.scope = "col";
    if (id === sort) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const button = text(head, "button", title + (id === sort ? (descending ? " ▼" : " ▲") : ""));
    button.type = "button";
    button.dataset.sort = id;
    if (id === focused) button.focus();
  }
}

function trend(cell, row) {
  const values = trends.get(key(row)) || [];
  const most = Math.max(1, ...values);
  // As wide as a minute at least, so that a young one can be seen.
  const step = 90 / Math.max(values.length, 30);
  const points = values.map((value, at) => `${(90 - (values.length - 1 - at) * step).toFixed(1)},${(19 - (value / most) * 17).toFixed(1)}`);
  let line = cell.querySelector("polyline");
  if (!line) {
    const space = "http://www.w3.org/2000/svg";
    const picture = document.createElementNS(space, "svg");
    picture.setAttribute("viewBox", "0 0 90 20");
    picture.setAttribute("aria-hidden", "true");
    line = document.createElementNS(space, "polyline");
    picture.append(line);
    cell.append(picture);
  }
  line.setAttribute("points", points.join(" "));
}

function line(row) {
  const id = view + key(row);
  let made = drawn.get(id);
  if (!made) {
    const tr = document.createElement("tr");
    const cells = COLUMNS[view].map(([column, , , form, minor]) => {
      const cell = text(tr, "td", undefined, [form ? "number" : "", minor ? "minor" : ""].join(" ").trim());
      if (column !== "pod") return cell;
      const link = text(cell, "a");
      link.href = `#/pod/${encodeURIComponent(row.namespace)}/${encodeURIComponent(row.pod)}`;
      return link;
    });
    made = { tr, cells, shown: [] };
    drawn.set(id, made);
  }
  COLUMNS[view].forEach(([, , value, form], at) => {
    if (form === "trend") return trend(made.cells[at], row);
    const shown = form === "cut" ? cut(row) : form ? form(value(row)) : value(row);
    if (made.shown[at] !== shown) made.cells[at].textContent = made.shown[at] = shown;
  });
  made.tr.className = troubled(row) ? "bad" : "";
  return made.tr;
}

function table() {
  heads();
  const rows = chosen();
  const shown = rows.slice(0, MOST).map(line);
  const before = $("rows").children;
  if (before.length !== shown.length || shown.some((row, at) => before[at] !== row)) $("rows").replaceChildren(...shown);
  const kept = new Set(shown);
  for (const [id, made] of drawn) if (!kept.has(made.tr)) drawn.delete(id);
  const left = now.rows_left_out + rows.length - shown.length;
  const active = rows.reduce((all, row) => all + row.active, 0);
  $("caption").textContent = `${rows.length} of ${now.all.length} rows, ${active} connections open; ` +
    `“!” marks bad ends, failed connects and idle cuts${left ? `; ${left} more rows have no place` : ""}`;
}

function findings() {
  $("finding-list").replaceChildren();
  const words = { ok: "ok", miss: "miss", look: "look", fail: "FAIL" };
  for (const { mark, text: what } of now.findings) {
    const item = text($("finding-list"), "li", undefined, mark);
    text(item, "b", words[mark] || mark);
    item.append(what);
  }
}

function podView() {
  const [namespace, called] = pod;
  $("pod-name").textContent = (namespace ? namespace + "/" : "") + called;
  const quoted = (value) => JSON.stringify(value);
  const labels = `namespace=${quoted(namespace)},pod=${quoted(called)}`;
  $("queries").textContent = [
    `sum by (role, protocol) (tcp_connections_active{${labels}})`,
    `sum by (role, protocol, reason) (rate(tcp_connections_closed_total{${labels}}[5m]))`,
    `sum by (role, protocol) (rate(tcp_idle_closes_total{${labels}}[5m]))`,
  ].join("\n");
}

async function listOpen() {
  const [namespace, called] = pod.map((part) => encodeURIComponent(part || "-"));
  const answer = await get(`api/v1/connections/${namespace}/${called}`);
  if (!answer.ok) return;
  const lines = (await answer.text()).trim().split("\n").map((part) => JSON.parse(part));
  const end = lines.pop();
  $("open").hidden = false;
  const unlisted = (end.unlisted || []).reduce((all, of) => all + of.connections, 0);
  $("open-note").textContent = `${lines.length} of ${end.connections}, the oldest first` +
    (unlisted ? `; ${unlisted} in network namespaces that the observer may not enter` : "");
  $("open-rows").replaceChildren();
  for (const open of lines) {
    const row = text($("open-rows"), "tr");
    const cells = [open.role, open.protocol, `${open.local_address}:${open.local_port}`, `${open.peer_address}:${open.peer_port}`,
      (open.opened ? "" : "> ") + time(open.lifetime_seconds), time(open.idle_seconds), bytes(open.received_bytes), bytes(open.sent_bytes)];
    for (const cell of cells) text(row, "td", cell);
  }
}

function show() {
  if (!now) return;
  figures();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === "#/" + view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("pod").hidden = view !== "pod";
  $("findings").hidden = view !== "agent";
  $("table").hidden = view === "agent";
  if (view === "agent") findings();
  else table();
  if (view === "pod") podView();
  say(`As of ${now.time}${paused ? ", paused" : ""}.`, false);
}

function go() {
  const [, at, ...rest] = location.hash.split("/");
  const was = view;
  pod = null;
  $("open").hidden = true;
  if (at === "pod" && rest.length === 2) {
    try { [view, pod] = ["pod", rest.map(decodeURIComponent)]; } catch { view = "now"; }
  } else {
    view = at === "ends" || at === "agent" ? at : "now";
  }
  if (view !== was && !COLUMNS[view]?.some(([id]) => id === sort)) sort = view === "ends" ? "ended" : "active";
  show();
  if (view === "pod") ask();
}

$("head").addEventListener("click", ({ target }) => {
  const wanted = target.dataset.sort;
  if (!wanted) return;
  descending = wanted === sort ? !descending : COLUMNS[view].find(([id]) => id === wanted)[3] !== null;
  sort = wanted;
  show();
});
$("filter").addEventListener("input", show);
$("trouble").addEventListener("change", show);
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  show();
  ask();
});
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  ask();
});
addEventListener("hashchange", go);
document.addEventListener("visibilitychange", ask);
addEventListener("keydown", (event) => {
  const typing = event.target.matches("input");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (view === "pod") location.hash = "#/now";
    else { $("filter").value = ""; show(); }
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    1: () => { location.hash = "#/now"; },
    2: () => { location.hash = "#/ends"; },
    3: () => { location.hash = "#/agent"; },
    "/": () => $("filter").focus(),
    e: () => $("trouble").click(),
    p: () => $("pause").click(),
  };
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});
go();
ask();
setInterval(ask, EVERY);
