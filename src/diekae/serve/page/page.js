"use strict";

// Everything that comes from documents, answers and names is set as text, never as HTML.
const $ = (id) => document.getElementById(id);
let key = sessionStorage.getItem("diekae-key") || "";

async function api(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.error?.message || `the server answered ${response.status}`);
  }
  return response;
}

const post = (path, body, signal) =>
  api(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function tell(id, text, bad = false) {
  $(id).textContent = text;
  $(id).classList.toggle("bad", bad);
}

// One streamed answer; returns what was read and used.
async function answer(question, target, cost, knowledge) {
  const began = performance.now();
  let first = null, usage = null, read = null, text = "", rest = "";
  target.setAttribute("aria-busy", "true"); // read aloud when it is whole
  const body = {
    messages: [{ role: "user", content: question }], max_tokens: Number($("tokens").value) || 64,
    stream: true, stream_options: { include_usage: true },
  };
  if (knowledge) body.knowledge = knowledge;
  const response = await post("/v1/chat/completions", body);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices[0]?.delta?.content;
      if (delta) {
        first ??= performance.now() - began;
        text += delta;
        target.textContent = text;
      }
      usage = chunk.usage || usage;
      read = chunk.knowledge || read;
    }
  }
  const whole = performance.now() - began;
  const known = usage?.prompt_tokens_details?.cached_tokens || 0;
  const prompt = (usage?.prompt_tokens || 0) - known;
  target.textContent = text || "(nothing)";
  target.setAttribute("aria-busy", "false");
  cost.textContent = `${prompt} tokens in the prompt` + (known ? `, ${known} of knowledge read beside it` : "") +
    `, ${usage?.completion_tokens ?? 0} generated; first after ${Math.round(first ?? whole)} ms, all after ${Math.round(whole)} ms`;
  return read;
}

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  $("ask-button").disabled = true;
  $("answers").hidden = false;
  $("read").hidden = true;
  for (const id of ["with", "without", "with-cost", "without-cost", "sure"]) $(id).textContent = "";
  tell("ask-status", "Reading …");
  try {
    const read = await answer(question, $("with"), $("with-cost"), { search: { k: 2 }, shares: true });
    show(read);
    await answer(question, $("without"), $("without-cost"), null);
    tell("ask-status", "Done.");
  } catch (error) {
    tell("ask-status", error.message, true);
  } finally {
    $("ask-button").disabled = false;
  }
});

function show(read) {
  const sources = read?.sources || [];
  $("sure").textContent = read?.confidence == null ? "" :
    sources.length ? `${Math.round(100 * read.confidence)} % sure that your documents answer this` : "no document was read";
  $("passages").replaceChildren(...sources.map((source) => {
    const item = element("li");
    item.append(element("span", [source.title, source.heading].filter(Boolean).join(" › "), { class: "from" }), " ");
    if (source.share != null) {
      const percent = Math.round(100 * source.share);
      item.append(element("meter", `${percent} %`, { min: 0, max: 1, value: source.share, "aria-label": `share of attention ${percent} %` }), ` ${percent} %`);
    }
    item.append(element("mark", source.text));
    return item;
  }));
  $("read").hidden = !sources.length;
}

let filesShown = "", filesTimer = 0;

async function files() {
  clearTimeout(filesTimer);
  try {
    const { data } = await (await api("/v1/files")).json();
    if (data.some((file) => file.status === "uploaded")) filesTimer = setTimeout(files, 700);
    if (JSON.stringify(data) === filesShown) return; // nothing is replaced under the keyboard's focus
    filesShown = JSON.stringify(data);
    $("files").replaceChildren(...data.map((file) => {
      const waiting = file.files_before ? `waiting for ${file.files_before} others` : "being prepared …";
      const states = { uploaded: waiting, processed: "ready", error: file.status_details };
      const item = element("li");
      const state = element("span", states[file.status] || file.status, { class: file.status === "error" ? "state bad" : "state" });
      const remove = element("button", "Delete", { type: "button", class: "plain", "aria-label": `Delete ${file.filename}` });
      remove.addEventListener("click", () => act("documents-status", async () => {
        await api(`/v1/files/${file.id}`, { method: "DELETE" });
        $("documents-title").focus();
      }, files));
      item.append(element("span", file.filename), state, remove);
      return item;
    }));
  } catch (error) {
    tell("documents-status", error.message, true);
  }
}

async function edits() {
  try {
    const { data } = await (await api("/v1/edits")).json();
    $("edits").replaceChildren(...data.map((edit) => {
      const item = element("li");
      const revert = element("button", "Revert", { type: "button", class: "plain", "aria-label": `Revert edit ${edit.id}` });
      revert.addEventListener("click", () => act("edits-status", async () => {
        await api(`/v1/edits/${edit.id}`, { method: "DELETE" });
        $("edits-title").focus();
      }, edits));
      item.append(element("span", `${edit.prompt} → ${edit.target}`), revert);
      return item;
    }));
    if (!data.length) tell("edits-status", "None.");
  } catch (error) {
    $("edit").hidden = true;
    tell("edits-status", error.message);
  }
}

async function act(status, work, after) {
  try {
    tell(status, "");
    await work();
    await after();
  } catch (error) {
    await after();
    tell(status, error.message, true);
  }
}

function send(name, content) {
  const form = new FormData();
  form.append("purpose", "assistants");
  form.append("file", content, name);
  return api("/v1/files", { method: "POST", body: form });
}

$("file").addEventListener("change", () => act("documents-status", async () => {
  for (const file of $("file").files) await send(file.name, file);
  $("file").value = "";
}, files));

$("paste").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim()) return;
  const title = $("title").value.trim() || "pasted text";
  act("documents-status", async () => {
    await send(/\.(txt|md)$/i.test(title) ? title : `${title}.txt`, new Blob([text], { type: "text/plain" }));
    $("text").value = $("title").value = "";
  }, files);
});

$("edit").addEventListener("submit", (event) => {
  event.preventDefault();
  act("edits-status", async () => {
    await post("/v1/edits", { prompt: $("edit-prompt").value, subject: $("edit-subject").value, target: $("edit-target").value });
    $("edit").reset();
  }, edits);
});

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("diekae-key", key);
  $("key-form").hidden = true;
  begin();
});

async function begin() {
  try {
    const { data } = await (await api("/v1/models")).json();
    $("model").textContent = `${data[0].id} answers from your documents; they are never in its prompt.`;
  } catch (error) {
    tell("ask-status", error.message, true);
    return;
  }
  await Promise.all([files(), edits()]);
}

begin();
